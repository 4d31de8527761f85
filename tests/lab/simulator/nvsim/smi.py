"""The command line of the simulated nvidia-smi."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from . import csvout, migcmd, settings, text, xmlout
from .fields import GPU_FIELDS, Field
from .models import DRIVER, LIBRARY
from .settings import Refused
from .state import Gpu, Machine, change, read

NO_PERMISSION = 4
NO_DEVICES = 6
NO_DRIVER = 9
GPU_LOST = 15
LIBRARY_MISMATCH = 18
NO_HANDLE = 255
LOADED = Path("/run/nvidia-sim/driver")

Change = Callable[[Machine, Gpu, str], str]

# option -> its long form, whether it takes a value, what it does
CHANGES: dict[str, tuple[str, bool, Change]] = {
    "-pm": ("--persistence-mode", True, settings.persistence),
    "-c": ("--compute-mode", True, settings.compute_mode),
    "-pl": ("--power-limit", True, settings.power_limit),
    "-e": ("--ecc-config", True, settings.ecc),
    "-p": ("--reset-ecc-errors", True, settings.clear_ecc),
    "-lgc": ("--lock-gpu-clocks", True, settings.lock_gpu_clocks),
    "-rgc": ("--reset-gpu-clocks", False, settings.forget("gpu_clocks")),
    "-lmc": ("--lock-memory-clocks", True, settings.lock_memory_clocks),
    "-rmc": ("--reset-memory-clocks", False, settings.forget("memory_clocks")),
    "-ac": ("--applications-clocks", True, settings.application_clocks),
    "-rac": ("--reset-applications-clocks", False, settings.forget("application_clocks")),
    "-am": ("--accounting-mode", True, settings.accounting),
    "-mig": ("--multi-instance-gpu", True, settings.mig_mode),
}
LONG = {
    "--id": "-i",
    "--query": "-q",
    "--xml-format": "-x",
    "--list-gpus": "-L",
    "--gpu-reset": "-r",
    "--filename": "-f",
    **{long: short for short, (long, _, _) in CHANGES.items()},
}
VALUES = {"-i", "-f", "--format", "--query-gpu", "--query-compute-apps", "-d"} | {
    name for name, (_, takes, _) in CHANGES.items() if takes
}
FLAGS = {"-q", "-x", "-L", "-r", "--version", "--help-query-gpu", "-eow"} | {
    name for name, (_, takes, _) in CHANGES.items() if not takes
}


def parse(arguments: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        name = LONG.get(name, name)
        if name in VALUES:
            if not equals and not rest:
                raise Refused(f"Option {name} requires a value.\n", settings.USAGE)
            found[name] = value if equals else rest.pop(0)
        elif name in FLAGS:
            found[name] = ""
        else:
            raise Refused(
                f"Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n({name})\n", 1
            )
    return found


def select(machine: Machine, asked: str | None) -> list[Gpu]:
    """The GPUs asked for by index, UUID, serial or bus id; one GPU off the bus stops the whole tool."""
    present = [g for g in machine.gpus if g.state["lost"] != "gone"]
    chosen = []
    for name in (asked or "").split(","):
        matches = [g for g in present if not name or name.upper() in _names(g)]
        if not matches and (name or machine.gpus):
            raise Refused("No devices were found\n", NO_DEVICES)
        chosen += [g for g in matches if g not in chosen]
    for gpu in chosen:
        if gpu.state["lost"] == "handle":
            raise Refused(f"{_no_handle(gpu)}: Unknown Error\n", NO_HANDLE)
        if gpu.state["lost"] == "lost":
            raise Refused(f"{_no_handle(gpu)}: {settings.LOST}\n", GPU_LOST)
    return chosen


def _no_handle(gpu: Gpu) -> str:
    return f"Unable to determine the device handle for GPU{gpu.index}: {gpu.bus.upper()}"


def _names(gpu: Gpu) -> tuple[str, ...]:
    return (str(gpu.index), gpu.uuid.upper(), gpu.serial, gpu.smi_bus, gpu.bus.upper())


def misbehave(machine: Machine) -> None:
    faults = machine.faults
    if faults.get("hang"):
        time.sleep(faults["hang"])
    if faults.get("mismatch") or not _loaded():
        raise Refused(
            "Failed to initialize NVML: Driver/library version mismatch\n"
            f"NVML library version: {'.'.join(DRIVER.split('.')[:2])}\n",
            LIBRARY_MISMATCH,
        )
    if faults.get("no_driver"):
        raise Refused(
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
            NO_DRIVER,
        )


def _loaded() -> bool:
    """Whether the kernel runs the driver that is installed: what it loaded stays until the next boot."""
    if not LIBRARY.exists():
        return True
    with contextlib.suppress(OSError):  # only root can have it loaded
        LOADED.parent.mkdir(exist_ok=True)
        with LOADED.open("x", encoding="utf-8") as module:
            module.write(DRIVER)
    return not LOADED.exists() or LOADED.read_text(encoding="utf-8") == DRIVER


def permit() -> None:
    if os.geteuid() and "NVIDIA_SIM_STATE" not in os.environ:
        raise Refused(
            "Unable to change the GPU: Insufficient Permissions\nTerminating early due to previous errors.\n",
            NO_PERMISSION,
        )


def alter(asked: dict[str, str]) -> str:
    permit()
    misbehave(read())  # before the lock: a hanging tool must not keep others from being told to heal it
    lines = []
    with change() as machine:
        gpus = select(machine, asked.get("-i"))
        if "-r" in asked:
            lines.append(settings.reset(machine, gpus))
        for name, (_, _, act) in CHANGES.items():
            if name in asked:
                lines += [act(machine, gpu, asked[name]) for gpu in gpus]
    return "".join([*lines, "All done.\n"])


def show(asked: dict[str, str]) -> str:
    machine = read()
    misbehave(machine)
    gpus = select(machine, asked.get("-i"))
    options = {part.strip() for part in asked.get("--format", "").split(",")}
    for name, query in (("--query-gpu", csvout.query_gpu), ("--query-compute-apps", csvout.query_apps)):
        if name in asked:
            if "csv" not in options:
                raise Refused('"--format=" switch is missing or has no "csv" option.\n', settings.USAGE)
            return query(machine, gpus, asked[name], options)
    if "-L" in asked:
        return text.listing(gpus)
    if "-q" in asked and "-x" in asked:
        document = xmlout.document(machine, gpus)
        return document[: len(document) * 2 // 3] if machine.faults.get("malformed") else document
    if "-q" in asked:
        raise Refused("The simulator answers -q only together with -x.\n", settings.USAGE)
    return text.table(machine, gpus)


def subcommand(arguments: list[str]) -> str | None:
    name, rest = arguments[0], arguments[1:]
    if name == "mig":
        permit()
        misbehave(read())
        with change() as machine:
            gpus = select(machine, migcmd.options(rest).get("-i"))
            return migcmd.run(machine, gpus, rest)
    machine = read()
    if name == "topo":
        misbehave(machine)
        return text.topology(select(machine, None))
    if name == "nvlink":
        misbehave(machine)
        return text.nvlinks(select(machine, migcmd.options(rest).get("-i")))
    return None


def _help(field: Field) -> str:
    return " or ".join(f'"{name}"' for name in (field.name, *field.aliases)) + "\n"


def answer(arguments: list[str]) -> str:
    if arguments and (said := subcommand(arguments)) is not None:
        return said
    asked = parse(arguments)
    if "--version" in asked:
        return text.version()
    if "--help-query-gpu" in asked:
        return "".join(_help(field) for field in GPU_FIELDS)
    if "-r" in asked or CHANGES.keys() & asked.keys():
        return alter(asked)
    shown = show(asked)
    if "-f" in asked:
        Path(asked["-f"]).write_text(shown, encoding="utf-8")
        return ""
    return shown


def main(arguments: list[str]) -> int:
    try:
        said = answer(arguments)
    except Refused as refused:
        sys.stdout.write(refused.message)
        return refused.code
    except csvout.UnknownField as error:
        sys.stdout.write(str(error))
        return settings.USAGE
    sys.stdout.write(said)
    return 0
