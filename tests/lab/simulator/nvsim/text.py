"""What nvidia-smi prints for people: the list, the summary table, topology, NVLink, version."""

from __future__ import annotations

import os
import time
from typing import Any

from . import mig
from .models import CUDA, DRIVER
from .reading import read
from .state import Gpu, Machine

RULE = "+-----------------------------------------+------------------------+----------------------+"
TITLES = "GPU   GI   CI              PID   Type   Process name                        GPU Memory"
WIDE = "+" + "-" * 89 + "+"


def version() -> str:
    return (
        f"NVIDIA-SMI version  : {DRIVER}\n"
        f"NVML version        : {'.'.join(DRIVER.split('.')[:2])}\n"
        f"DRIVER version      : {DRIVER}\n"
        f"CUDA Version        : {CUDA}\n"
    )


def name_line(gpu: Gpu) -> str:
    return f"GPU {gpu.index}: {gpu.model.name} (UUID: {gpu.uuid})\n"


def listing(gpus: list[Gpu]) -> str:
    lines = []
    for gpu in gpus:
        lines.append(name_line(gpu))
        lines += [
            f"  MIG {d.profile.name:<11} Device {d.index:>2}: (UUID: {d.uuid})\n" for d in mig.devices(gpu)
        ]
    return "".join(lines)


def _row(machine: Machine, gpu: Gpu) -> list[str]:
    r = read(machine, gpu)
    modes = {"Exclusive_Process": "E. Process", "Prohibited": "Prohibited"}
    watts, limit = (f"{float(r[k].split()[0]):.0f}W" for k in ("watts", "power_limit"))
    memory = f"{r['used'].replace(' ', '')} / {r['total'].replace(' ', ''):>9}"
    ecc = "N/A"
    if gpu.state["ecc_current"]:
        ecc = str(sum(int(n) for k, n in gpu.state["volatile"].items() if "uncorrectable" in k))
    heat, load = (r[k].replace(" ", "") for k in ("temperature", "utilisation"))
    mode = modes.get(gpu.state["compute_mode"], "Default")
    on = "On" if gpu.state["persistence"] else "Off"
    return [
        f"| {gpu.index:>3}  {gpu.model.name:<29}  {on:<3} |   {gpu.smi_bus} Off | {ecc:>20} |",
        f"| N/A  {heat:>4}    {r['pstate']:<3}{watts:>15} / {limit:>5} | {memory:>22} |{load:>8}{mode:>13} |",
        f"|{'':41}|{'':24}|{r['mig_current']:>21} |",
        RULE,
    ]


def _process(gpu: Gpu, p: dict[str, Any]) -> str:
    inside = p["instance"]
    ids = f"{'N/A':>6}{'N/A':>5}{p['pid']:>16}" if inside is None else f"{inside:>5}{0:>5}{p['pid']:>17}"
    name, memory = p["name"][:36], f"{p['memory']}MiB"
    return f"|{gpu.index:>5}{ids}      C   {name}{memory:>{46 - len(name)}} |"


def _processes(machine: Machine, gpus: list[Gpu]) -> list[str]:
    lines = [
        WIDE,
        f"| {'Processes:':<87} |",
        f"|  {TITLES:<87}|",
        f"|{'ID   ID':>15}{'Usage':>68}{'':6}|",
        "|" + "=" * 89 + "|",
    ]
    rows = [_process(gpu, p) for gpu in gpus for p in machine.processes(gpu)]
    return [*lines, *(rows or [f"| {' No running processes found':<87} |"]), WIDE]


def table(machine: Machine, gpus: list[Gpu]) -> str:
    head = f"NVIDIA-SMI {DRIVER:<22} Driver Version: {DRIVER:<14} CUDA Version: {CUDA}"
    lines = [
        time.strftime("%a %b %e %H:%M:%S %Y       "),
        WIDE,
        f"| {head:<87} |",
        RULE,
        "| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |",
        "| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |",
        "|                                         |                        |               MIG M. |",
        RULE.replace("-", "=").replace("+=", "|=", 1).removesuffix("+") + "|",
    ]
    for gpu in gpus:
        lines += _row(machine, gpu)
    return "\n".join([*lines, "", *_processes(machine, gpus)]) + "\n"


LEGEND = """
Legend:

  X    = Self
  SYS  = between NUMA nodes
  NODE = within a NUMA node
  NV#  = a bonded set of # NVLinks
"""


def _link(one: Gpu, other: Gpu) -> str:
    if one is other:
        return " X "
    if one.nvlink_domain and one.nvlink_domain == other.nvlink_domain:
        return f"NV{one.model.nvlink_count}"
    return "NODE" if one.numa_node == other.numa_node else "SYS"


def topology(gpus: list[Gpu]) -> str:
    cpus = f"0-{(os.cpu_count() or 1) - 1}"
    header = "\t".join([*(f"GPU{g.index}" for g in gpus), "CPU Affinity", "NUMA Affinity", "GPU NUMA ID"])
    lines = [f"\t\x1b[4m{header}\x1b[0m"]
    for gpu in gpus:
        links = "\t".join(_link(gpu, other) for other in gpus)
        lines.append(f"GPU{gpu.index}\t{links}\t{cpus}\t{gpu.numa_node}\t\tN/A")
    return "\n".join(lines) + "\n" + LEGEND


def nvlinks(gpus: list[Gpu]) -> str:
    lines = []
    for gpu in gpus:
        lines.append(name_line(gpu))
        if gpu.mig_enabled:
            lines.append("Nvlink queries are not supported for Devices in MIG mode\n")
        elif not gpu.model.nvlink_count:
            lines.append("Device does not have or support Nvlink\n")
        else:
            speed = gpu.model.nvlink_speed
            up = gpu.model.nvlink_count - gpu.state["nvlinks_down"]
            lines += [
                f"\t Link {n}: {f'{speed} GB/s' if n < up else '<inactive>'}\n"
                for n in range(gpu.model.nvlink_count)
            ]
    return "".join(lines)
