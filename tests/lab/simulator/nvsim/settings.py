"""The changes nvidia-smi makes to a GPU; each returns what is printed, or raises Refused."""

from __future__ import annotations

from collections.abc import Callable

from .models import Model
from .reading import switch
from .state import ECC_KINDS, Gpu, Machine, fresh

IN_USE = 19
USAGE = 2
LOST = "GPU is lost.  Reboot the system to recover this GPU"
UNSUPPORTED = 3


class Refused(Exception):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


def _switch(value: str, option: str) -> bool:
    if value.upper() in ("0", "DISABLED"):
        return False
    if value.upper() in ("1", "ENABLED"):
        return True
    raise Refused(f'Invalid combination of input arguments. "{value}" is not valid for {option}.\n', USAGE)


def persistence(machine: Machine, gpu: Gpu, value: str) -> str:
    wanted = _switch(value, "persistence mode")
    if gpu.state["persistence"] == wanted:
        return f"Persistence mode is already {switch(wanted)} for GPU {gpu.smi_bus}.\n"
    gpu.state["persistence"] = wanted
    return f"{switch(wanted)} persistence mode for GPU {gpu.smi_bus}.\n"


COMPUTE_MODES = {
    "0": "Default",
    "DEFAULT": "Default",
    "2": "Prohibited",
    "PROHIBITED": "Prohibited",
    "1": "Exclusive_Process",
    "3": "Exclusive_Process",
    "EXCLUSIVE_PROCESS": "Exclusive_Process",
}


def compute_mode(machine: Machine, gpu: Gpu, value: str) -> str:
    mode = COMPUTE_MODES.get(value.upper())
    if mode is None:
        raise Refused(f'"{value}" is not a valid compute mode.\n', USAGE)
    if gpu.state["compute_mode"] == mode:
        return f"Compute mode is already set to {mode.upper()} for GPU {gpu.smi_bus}.\n"
    gpu.state["compute_mode"] = mode
    return f"Set compute mode to {mode.upper()} for GPU {gpu.smi_bus}.\n"


def power_limit(machine: Machine, gpu: Gpu, value: str) -> str:
    watts, before, model = float(value), gpu.state["power_limit"], gpu.model
    if not model.power_min <= watts <= model.power:
        raise Refused(
            f"Provided power limit {watts:.2f} W is not a valid power limit which should be between "
            f"{model.power_min:.2f} W and {model.power:.2f} W for GPU {gpu.smi_bus}\n"
            "Terminating early due to previous errors.\n",
            USAGE,
        )
    gpu.state["power_limit"] = watts
    return f"Power limit for GPU {gpu.smi_bus} was set to {watts:.2f} W from {before:.2f} W.\n"


def ecc(machine: Machine, gpu: Gpu, value: str) -> str:
    wanted = _switch(value, "ecc mode")
    if gpu.state["ecc_pending"] == wanted:
        return f"ECC support is already {switch(wanted)} for GPU {gpu.smi_bus}.\n"
    gpu.state["ecc_pending"] = wanted
    return f"{switch(wanted)} ECC support for GPU {gpu.smi_bus}.\nReboot required.\n"


def clear_ecc(machine: Machine, gpu: Gpu, value: str) -> str:
    span = {"0": "volatile", "VOLATILE": "volatile", "1": "aggregate", "AGGREGATE": "aggregate"}[
        value.upper()
    ]
    gpu.state[span] = dict.fromkeys(ECC_KINDS, 0)
    return f"Reset {span} ECC errors to zero for GPU {gpu.smi_bus}.\n"


def _pair(value: str) -> tuple[int, int]:
    low, _, high = value.partition(",")
    return int(low), int(high or low)


def lock_gpu_clocks(machine: Machine, gpu: Gpu, value: str) -> str:
    low, high = _pair(value)
    gpu.state["gpu_clocks"] = [low, high]
    return f'GPU clocks set to "(gpuClkMin {low}, gpuClkMax {high})" for GPU {gpu.smi_bus}\n'


def lock_memory_clocks(machine: Machine, gpu: Gpu, value: str) -> str:
    low, high = _pair(value)
    gpu.state["memory_clocks"] = [low, high]
    return f'Memory clocks set to "(memClkMin {low}, memClkMax {high})" for GPU {gpu.smi_bus}\n'


def application_clocks(machine: Machine, gpu: Gpu, value: str) -> str:
    memory, graphics = _pair(value)
    if memory not in gpu.model.memory_clocks or not known_clock(gpu.model, graphics):
        raise Refused(
            f'Specified clock combination "(MEM {memory}, SM {graphics})" is not supported for GPU '
            f"{gpu.smi_bus}. Run 'nvidia-smi -q -d SUPPORTED_CLOCKS' to see list of supported clock "
            "combinations\nTerminating early due to previous errors.\n",
            USAGE,
        )
    gpu.state["application_clocks"] = [memory, graphics]
    return f'Applications clocks set to "(MEM {memory}, SM {graphics})" for GPU {gpu.smi_bus}\n'


def known_clock(model: Model, graphics: int) -> bool:
    return graphics in range(model.graphics_clock, model.slowest_clock - 1, -15)


def forget(name: str) -> Callable[[Machine, Gpu, str], str]:
    def reset(machine: Machine, gpu: Gpu, value: str) -> str:
        gpu.state[name] = None
        return ""

    return reset


def accounting(machine: Machine, gpu: Gpu, value: str) -> str:
    gpu.state["accounting"] = wanted = _switch(value, "accounting mode")
    return f"{switch(wanted)} Accounting Mode for GPU {gpu.smi_bus}.\n"


def mig_mode(machine: Machine, gpu: Gpu, value: str) -> str:
    wanted = _switch(value, "MIG mode")
    if not gpu.model.mig:
        raise Refused(f"Unable to enable MIG Mode for GPU {gpu.smi_bus}: Not Supported\n", UNSUPPORTED)
    gpu.state["mig_pending"] = wanted
    if wanted == gpu.state["mig_current"]:
        return f"{switch(wanted)} MIG Mode for GPU {gpu.smi_bus}\n"
    if machine.processes(gpu):
        verb = "enable" if wanted else "disable"
        return (
            f"Warning: MIG mode is in pending {verb} state for GPU {gpu.smi_bus}:In use by another client\n"
            f"{gpu.smi_bus} is currently being used by one or more other processes.\n"
        )
    gpu.state["mig_current"] = wanted
    gpu.state["instances"] = []
    return f"{switch(wanted)} MIG Mode for GPU {gpu.smi_bus}\n"


def reset(machine: Machine, gpus: list[Gpu]) -> str:
    """Resets the GPUs: pending modes take effect, left-behind memory and volatile counters go.

    Refused while a process uses one of them, or when one does not answer.
    """
    reasons = {}
    for gpu in gpus:
        if gpu.state["lost"]:
            reasons[gpu.smi_bus] = LOST
        elif machine.processes(gpu):
            reasons[gpu.smi_bus] = "In use by another client"
    if reasons:
        raise Refused(_not_reset(reasons), IN_USE)
    lines = []
    for gpu in gpus:
        _after_reset(gpu)
        lines.append(f"GPU {gpu.smi_bus} was successfully reset.\n")
    return "".join(lines)


def _not_reset(reasons: dict[str, str]) -> str:
    listed = "".join(f"  GPU {bus}: {reason}\n" for bus, reason in reasons.items())
    count = len(reasons)
    subject = "1 device is" if count == 1 else f"{count} devices are"
    return (
        f"The following GPUs could not be reset:\n{listed}\n"
        f"{subject} currently being used by one or more other processes.\n"
    )


def _after_reset(gpu: Gpu) -> None:
    """Persistence, power limit, compute mode and lifetime counters outlive a reset here.

    That is the harder case for whoever has to put a GPU back as it was.
    """
    state, new = gpu.state, fresh(gpu.model)
    for name in ("gpu_clocks", "memory_clocks", "application_clocks", "volatile", "ghost", "throttle"):
        state[name] = new[name]
    state["ecc_current"] = state["ecc_pending"]
    if state["mig_current"] != state["mig_pending"]:
        state["mig_current"] = state["mig_pending"]
    state["instances"] = []
    remap = state["remap"]
    if remap["pending"]:
        remap["pending"] = False
        remap["uncorrectable"] += 1
    state["recovery"] = "Reboot" if remap["failure"] else "None"
