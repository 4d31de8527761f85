"""`lspci` for the described GPUs: plain, -n, -nn and -mm, with or without the domain."""

from __future__ import annotations

import sys

from .state import read

VENDOR = "10de"
SWITCH = ("22a3", "GH100 [H100 NVSwitch]")


def main(arguments: list[str]) -> int:
    flags = "".join(a.lstrip("-") for a in arguments if a.startswith("-") and not a.startswith("-d"))
    machine_readable = flags.count("m") > 0
    numbers = min(2, flags.count("n"))
    machine = read()
    for number in range(machine.switches):
        _switch(number, numbers, domain="D" in flags, machine_readable=machine_readable)
    for gpu in machine.gpus:
        if gpu.state["lost"] == "gone":
            continue
        device, subsystem = gpu.model.device_id[:4].lower(), gpu.model.subsystem_id[:4].lower()
        slot = gpu.bus if "D" in flags else gpu.bus.removeprefix("0000:")
        revision = "ff" if gpu.state["lost"] else "a1"
        if machine_readable:
            names = {
                0: (
                    "3D controller",
                    "NVIDIA Corporation",
                    gpu.model.chip,
                    "NVIDIA Corporation",
                    f"Device {subsystem}",
                ),
                1: ("0302", VENDOR, device, VENDOR, subsystem),
                2: (
                    "3D controller [0302]",
                    f"NVIDIA Corporation [{VENDOR}]",
                    f"{gpu.model.chip} [{device}]",
                    f"NVIDIA Corporation [{VENDOR}]",
                    f"Device [{subsystem}]",
                ),
            }[numbers]
            a, b, c, d, e = (f'"{name}"' for name in names)
            print(f"{slot} {a} {b} {c} -r{revision} -p00 {d} {e}")
            continue
        line = {
            0: f"3D controller: NVIDIA Corporation {gpu.model.chip}",
            1: f"0302: {VENDOR}:{device}",
            2: f"3D controller [0302]: NVIDIA Corporation {gpu.model.chip} [{VENDOR}:{device}]",
        }[numbers]
        sys.stdout.write(f"{slot} {line} (rev {revision})\n")
    return 0


def _switch(number: int, numbers: int, *, domain: bool, machine_readable: bool) -> None:
    device, name = SWITCH
    slot = f"{'0000:' if domain else ''}{0x05 + number:02x}:00.0"
    kind = ("Bridge", "0680", "Bridge [0680]")[numbers]
    vendor = ("NVIDIA Corporation", VENDOR, f"NVIDIA Corporation [{VENDOR}]")[numbers]
    chip = (name, device, f"{name} [{device}]")[numbers]
    if machine_readable:
        print(f'{slot} "{kind}" "{vendor}" "{chip}" -ra1 "{vendor}" "{chip}"')
    else:
        plain = (f"{vendor} {name}", f"{VENDOR}:{device}", f"NVIDIA Corporation {name} [{VENDOR}:{device}]")
        print(f"{slot} {kind}: {plain[numbers]} (rev a1)")
