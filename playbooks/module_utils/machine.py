"""The machine's own facts: firmware names, CPU, memory, NUMA, PCI, operating system.

Absent is None, never a guess.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.steps import StepFailed, run

ROOT = Path("/")
NVIDIA = "10de"
MELLANOX = "15b3"
GPU_CLASSES = ("0300", "0302")
SWITCH_CLASSES = ("0680",)  # NVSwitches are bridges of no other kind
SUPPORTED = {"debian": ("12",), "ubuntu": ("22.04", "24.04")}
RHEL_FAMILY = ("rhel", "rocky", "almalinux", "ol", "centos")


def read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip() or None
    except OSError:
        return None


def os_release(root: Path = ROOT) -> dict[str, str]:
    text = read(root / "etc/os-release") or read(root / "usr/lib/os-release") or ""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip(): said.strip().strip("\"'") for key, said in pairs}


def operating_system(root: Path = ROOT) -> dict[str, str | None]:
    release = os_release(root)
    return {"id": release.get("ID"), "version": release.get("VERSION_ID"), "kernel": platform.release()}


def supported(release: dict[str, str]) -> bool:
    name, version = release.get("ID", ""), release.get("VERSION_ID", "")
    if name in RHEL_FAMILY:
        return version.split(".")[0] == "9"
    return version in SUPPORTED.get(name, ())


def firmware(root: Path = ROOT) -> dict[str, str | None]:
    dmi = root / "sys/class/dmi/id"
    names = {
        "vendor": "sys_vendor",
        "product": "product_name",
        "serial": "product_serial",
        "uuid": "product_uuid",
    }
    return {key: read(dmi / name) for key, name in names.items()}


def cpu(root: Path = ROOT) -> dict[str, Any]:
    blocks = [_pairs(block) for block in (read(root / "proc/cpuinfo") or "").split("\n\n") if block.strip()]
    processors = [block for block in blocks if "processor" in block]
    cores = {
        (block.get("physical id", "0"), block.get("core id", block["processor"])) for block in processors
    }
    models = [block["model name"] for block in processors if "model name" in block]
    return {
        "model": models[0] if models else None,
        "sockets": len({block.get("physical id", "0") for block in processors}) or None,
        "cores": len(cores) or None,
        "threads": len(processors) or os.cpu_count(),
    }


def _pairs(block: str) -> dict[str, str]:
    lines = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {key.strip(): said.strip() for key, said in lines}


def memory_mib(root: Path = ROOT) -> int | None:
    found = re.search(r"^MemTotal:\s+(\d+) kB", read(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found.group(1)) // 1024 if found else None


def numa(root: Path = ROOT) -> list[dict[str, Any]]:
    nodes = []
    for path in sorted((root / "sys/devices/system/node").glob("node[0-9]*"), key=lambda p: int(p.name[4:])):
        total = re.search(r"MemTotal:\s+(\d+) kB", read(path / "meminfo") or "")
        nodes.append(
            {
                "node": int(path.name[4:]),
                "cpus": read(path / "cpulist"),
                "memory_mib": int(total.group(1)) // 1024 if total else None,
            }
        )
    return nodes


def numa_node(address: str | None, root: Path = ROOT) -> int | None:
    said = read(root / "sys/bus/pci/devices" / address / "numa_node") if address else None
    return int(said) if said and said.lstrip("-").isdigit() and int(said) >= 0 else None


def pci_gpus(root: Path = ROOT) -> list[dict[str, str]]:
    """NVIDIA display and 3D controllers on the bus."""
    return pci_devices(GPU_CLASSES, root)


def pci_switches(root: Path = ROOT) -> list[dict[str, str]]:
    """NVSwitches, whose links work only under a fabric manager.

    Those of NVLink 5 are not on the bus; a network adapter whose product data says SW_MNG leads to them.
    """
    found = pci_devices(SWITCH_CLASSES, root)
    for adapter in sorted((root / "sys/class/infiniband").glob("*/device/vpd")):
        try:
            manages = b"SW_MNG" in adapter.read_bytes()
        except OSError:  # some adapters refuse to read it
            continue
        if manages:
            address = adapter.parent.resolve().name
            found.append({"address": address, "vendor_id": MELLANOX, "device_id": adapter.parent.parent.name})
    return found


def pci_devices(classes: tuple[str, ...], root: Path = ROOT) -> list[dict[str, str]]:
    """NVIDIA's devices of these PCI classes.

    Lspci comes first: it also answers where sysfs is not the host's.
    """
    listed = run("lspci", "-Dnmm", timeout=20) if root == ROOT else None
    if listed is not None and listed.ok:
        return parse_lspci(listed.out, classes)
    devices = root / "sys/bus/pci/devices"
    if not devices.is_dir():
        raise StepFailed("the PCI bus cannot be read: no lspci and no /sys/bus/pci/devices")
    found = []
    for device in sorted(devices.iterdir()):
        kind, vendor, model = (
            (read(device / name) or "0x").replace("0x", "") for name in ("class", "vendor", "device")
        )
        if vendor == NVIDIA and kind[:4] in classes:
            found.append({"address": device.name, "vendor_id": vendor, "device_id": model})
    return found


def parse_lspci(text: str, classes: tuple[str, ...] = GPU_CLASSES) -> list[dict[str, str]]:
    """Lines of `lspci -Dnmm` (0000:01:00.0 "0302" "10de" "2330" …); `lspci -Dnn` is understood as well."""
    found = []
    for line in text.splitlines():
        plain = re.match(r'(\S+) "?(?:Class )?([0-9a-f]{4})"? "([0-9a-f]{4})" "([0-9a-f]{4})"', line)
        named = re.match(r"(\S+) .*?\[([0-9a-f]{4})\]: .*\[([0-9a-f]{4}):([0-9a-f]{4})\]", line)
        match = plain or named
        if match and match.group(3) == NVIDIA and match.group(2) in classes:
            found.append(
                {"address": match.group(1), "vendor_id": match.group(3), "device_id": match.group(4)}
            )
    return sorted(found, key=lambda item: item["address"])


def lost_gpus(on_bus: list[dict[str, str]], seen: list[dict[str, Any]]) -> list[str]:
    """Findings about GPUs that the bus shows and the driver does not, or the other way round."""
    driver = {gpu["pci_address"] for gpu in seen}
    bus = {device["address"] for device in on_bus}
    lost = [f"GPU {address} is on the PCI bus but not in nvidia-smi" for address in sorted(bus - driver)]
    return lost + [
        f"GPU {address} is in nvidia-smi but not on the PCI bus"
        for address in sorted(filter(None, driver - bus))
    ]
