"""`nvidia-sim`: uses the simulated GPUs, makes them misbehave, shows and heals them."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .state import ECC_KINDS, Gpu, Machine, change, fresh, read, started

EXCLUSIVE = "Exclusive_Process"


def _gpu(machine: Machine, name: str) -> Gpu:
    found = [g for g in machine.gpus if name in (str(g.index), g.uuid, g.bus)]
    if not found:
        sys.exit(f"nvidia-sim: no GPU {name}")
    return found[0]


def register(gpu_name: str, pid: int, memory: int, name: str, instance: int | None = None) -> None:
    with change() as machine:
        gpu = _gpu(machine, gpu_name)
        held = machine.processes(gpu)
        mode = gpu.state["compute_mode"]
        if gpu.state["lost"] or mode == "Prohibited" or (mode == EXCLUSIVE and held):
            sys.exit("nvidia-sim: all CUDA-capable devices are busy or unavailable")
        if machine.used(gpu) + memory > gpu.model.memory - gpu.model.reserved:
            sys.exit("nvidia-sim: out of memory")
        machine.data["processes"].append(
            {
                "pid": pid,
                "started": started(pid),
                "gpu": gpu.uuid,
                "memory": memory,
                "name": name,
                "instance": instance,
            }
        )


def _become(user: str | None) -> None:
    if user:
        entry = pwd.getpwnam(user)
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        os.environ.update(HOME=entry.pw_dir, USER=user)


def use(options: argparse.Namespace) -> None:
    """Takes the GPU for this very process and then becomes the command: its pid is the GPU's user."""
    command = options.command or ["sleep", "infinity"]
    for gpu in options.gpu.split(","):
        register(gpu, os.getpid(), options.memory, command[0], options.instance)
    _become(options.user)
    os.execvp(command[0], command)


def stuck(options: argparse.Namespace) -> None:
    """Leaves a process behind that holds the GPU and answers to SIGKILL only."""
    code = (
        "import signal,time\nfor s in (1,2,15): signal.signal(s, signal.SIG_IGN)\nwhile True: time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        user=options.user,
        cwd="/",
    )
    time.sleep(0.3)  # the signals are ignored from here on
    register(options.gpu, process.pid, options.memory, "python3")
    print(process.pid)


def _faulty(options: argparse.Namespace) -> None:
    with change() as machine:
        gpu = _gpu(machine, options.gpu)
        FAULTS[options.fault](gpu.state, options)
    if options.fault in ("lost", "xid"):
        _log_xid(gpu, 79 if options.fault == "lost" else options.number)


def _lost(state: dict[str, Any], options: argparse.Namespace) -> None:
    state["lost"] = options.mode


def _ecc(state: dict[str, Any], options: argparse.Namespace) -> None:
    for span in ("volatile", "aggregate") if options.span == "both" else (options.span,):
        state[span][options.kind] += options.count
    if "uncorrectable" in options.kind:
        state["recovery"] = "Reset"


def _remap(state: dict[str, Any], options: argparse.Namespace) -> None:
    state["remap"][options.what] = True
    state["recovery"] = "Reset" if options.what == "pending" else "Reboot"


def _ghost(state: dict[str, Any], options: argparse.Namespace) -> None:
    state["ghost"] = options.memory


def _throttle(state: dict[str, Any], options: argparse.Namespace) -> None:
    state["throttle"] = [options.reason]
    if "thermal" in options.reason:
        state["temperature"] = 88


def _heat(state: dict[str, Any], options: argparse.Namespace) -> None:
    state["temperature"] = options.celsius


def _pcie(state: dict[str, Any], options: argparse.Namespace) -> None:
    state["pcie_width"] = options.lanes


def _nvlink(state: dict[str, Any], options: argparse.Namespace) -> None:
    state["nvlinks_down"] = options.down


def _fabric(state: dict[str, Any], options: argparse.Namespace) -> None:
    state["fabric"] = options.state


def _recovery(state: dict[str, Any], options: argparse.Namespace) -> None:
    state["recovery"] = options.action


def _vbios(state: dict[str, Any], options: argparse.Namespace) -> None:
    state["vbios"] = options.version


def _diag(state: dict[str, Any], options: argparse.Namespace) -> None:
    state["diag"] = {"test": options.test, "status": options.status, "severity": options.severity}


def _xid(state: dict[str, Any], options: argparse.Namespace) -> None:
    state["recovery"] = "Reset" if options.number in (94, 95, 119, 120) else state["recovery"]


FAULTS = {
    "lost": _lost,
    "ecc": _ecc,
    "remap": _remap,
    "ghost": _ghost,
    "throttle": _throttle,
    "xid": _xid,
    "heat": _heat,
    "pcie": _pcie,
    "nvlink": _nvlink,
    "fabric": _fabric,
    "recovery": _recovery,
    "vbios": _vbios,
    "diag": _diag,
}


def _log_xid(gpu: Gpu, number: int) -> None:
    """The driver's line, in the journal under the kernel's name: a container has no kernel log of its own."""
    said = "GPU has fallen off the bus." if number == 79 else "pid=unknown, name=unknown"
    line = f"NVRM: Xid (PCI:{gpu.bus.rpartition('.')[0].lower()}): {number}, {said}"
    subprocess.run(["logger", "-t", "kernel", "-p", "user.err", line], check=False)


def _tool_fault(options: argparse.Namespace) -> None:
    with change() as machine:
        machine.faults[options.fault.replace("-", "_")] = getattr(options, "seconds", True)


def heal(options: argparse.Namespace) -> None:
    """A healthy machine as first started; `--processes` also ends what uses the GPUs."""
    with change() as machine:
        machine.faults.clear()
        for gpu in machine.gpus:
            gpu.state.update(fresh(gpu.model))
        if options.processes:
            for process in machine.data["processes"]:
                os.kill(process["pid"], signal.SIGKILL)
    if Path(__file__).is_relative_to("/usr/lib/nvidia-sim"):  # on a lab host, whose logs are nobody's
        # a repair takes a boot, and with it goes the kernel's log of what was wrong
        subprocess.run(["journalctl", "-q", "--rotate", "--vacuum-size=1"], capture_output=True, check=False)


def show(options: argparse.Namespace) -> None:
    machine = read()
    print(json.dumps(machine.data, indent=1))


Add = Callable[..., argparse.ArgumentParser]


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="nvidia-sim", description=__doc__)
    commands = top.add_subparsers(dest="fault", required=True)

    def add(name: str, act: Any, about: str, *, gpu: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about)
        sub.set_defaults(act=act)
        if gpu:
            sub.add_argument("--gpu", default="0", help="index, UUID or bus id")
        return sub

    one = add("use", use, "hold a GPU by a real process, which becomes COMMAND")
    one.add_argument("--memory", type=int, default=1024, help="MiB")
    one.add_argument("--instance", type=int, help="MIG GPU instance")
    one.add_argument("--user")
    one.add_argument("command", nargs="*")
    one = add("stuck", stuck, "a process that ignores all but SIGKILL holds the GPU; prints its pid")
    one.add_argument("--memory", type=int, default=2048, help="MiB")
    one.add_argument("--user")
    _faults_of_gpus(add)
    _faults_of_tools(add)
    one = add("heal", heal, "all well again", gpu=False)
    one.add_argument("--processes", action="store_true")
    add("show", show, "the state as JSON", gpu=False)
    return top


def _faults_of_gpus(add: Add) -> None:
    one = add("lost", _faulty, "the GPU falls off the bus")
    one.add_argument("--mode", choices=("handle", "lost", "gone"), default="handle")
    one = add("ecc", _faulty, "count ECC errors")
    one.add_argument("--kind", choices=ECC_KINDS, default="dram_uncorrectable")
    one.add_argument("--span", choices=("volatile", "aggregate", "both"), default="both")
    one.add_argument("--count", type=int, default=1)
    add("remap", _faulty, "row remapping pending or failed").add_argument(
        "what", choices=("pending", "failure")
    )
    add("ghost", _faulty, "memory held by nobody until a reset").add_argument(
        "--memory", type=int, default=4096
    )
    one = add("throttle", _faulty, "a clock event reason stays active")
    one.add_argument("--reason", default="hw_thermal_slowdown")
    add("xid", _faulty, "the driver logs an Xid").add_argument("number", type=int)
    add("heat", _faulty, "the GPU is this hot").add_argument("celsius", type=int)
    add("pcie", _faulty, "the PCIe link came up with this many lanes").add_argument("lanes", type=int)
    add("nvlink", _faulty, "this many NVLinks are down").add_argument("down", type=int)
    add("fabric", _faulty, "the GPU's place in the NVLink fabric").add_argument("state")
    add("recovery", _faulty, "what the driver advises").add_argument("action")
    add("vbios", _faulty, "another firmware").add_argument("version")
    one = add("diag", _faulty, "a test of dcgmi diag does not pass")
    one.add_argument("--test", default="memory")
    one.add_argument("--status", choices=("Fail", "Warn", "Skip"), default="Fail")
    one.add_argument("--severity", type=int, default=2, help="DCGM's: 1 monitor, 2 isolate, 6 reset")


def _faults_of_tools(add: Add) -> None:
    add("no-engine", _tool_fault, "DCGM's host engine does not run", gpu=False)
    one = add("slow-diag", _tool_fault, "dcgmi diag takes its time", gpu=False)
    one.add_argument("seconds", type=float)
    add("mismatch", _tool_fault, "driver and library differ", gpu=False)
    add("no-driver", _tool_fault, "the driver does not answer", gpu=False)
    add("malformed", _tool_fault, "the XML breaks off", gpu=False)
    one = add("hang", _tool_fault, "nvidia-smi answers late", gpu=False)
    one.add_argument("seconds", type=float)


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    options.act(options)
    return 0
