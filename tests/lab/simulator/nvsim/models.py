"""What one GPU of each model says about itself when nothing has happened to it yet.

Memory in MiB, power in watts, clocks in MHz. MIG memory and multiprocessor counts per profile.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

LIBRARY = Path("/usr/share/nvidia-sim/driver")  # what a driver package brought
DRIVER = LIBRARY.read_text(encoding="utf-8").strip() if LIBRARY.exists() else "595.80"
CUDA = "13.2"


@dataclass(frozen=True)
class MigProfile:
    name: str
    id: int
    compute_slices: int
    memory_slices: int
    memory: int
    multiprocessors: int
    copy_engines: int
    decoders: int
    jpegs: int
    ofas: int
    first_instance: int


@dataclass(frozen=True)
class Model:
    name: str
    architecture: str
    compute_capability: str
    memory: int
    reserved: int
    bar1: int
    device_id: str
    subsystem_id: str
    chip: str
    vbios: str
    board_part: str
    gpu_part: str
    inforom_image: str
    inforom_ecc: str
    power: int
    power_min: int
    idle_watts: float
    graphics_clock: int
    idle_clock: int
    memory_clocks: tuple[int, ...]
    video_clock: int
    pcie_gen: int
    remap_banks: int
    addressing: str = "None"
    memory_temp: int | None = None
    slowest_clock: int = 210
    nvlink_count: int = 0
    nvlink_speed: str = ""
    fabric: bool = False
    oem: str = "2.1"
    edpp: bool = False
    mig: tuple[MigProfile, ...] = field(default=())


def _mig(memory: tuple[int, ...], processors: tuple[int, ...], jpeg7: int) -> tuple[MigProfile, ...]:
    one, two, three, seven = memory
    p1, p2, p3, p4, p7 = processors
    return (
        MigProfile("1g.10gb", 19, 1, 1, one, p1, 1, 1, 1, 0, 7),
        MigProfile("1g.10gb+me", 20, 1, 1, one, p1, 1, 1, 1, 1, 7),
        MigProfile("1g.20gb", 15, 1, 2, two, p1, 1, 1, 1, 0, 3),
        MigProfile("2g.20gb", 14, 2, 2, two, p2, 2, 2, 2, 0, 3),
        MigProfile("3g.40gb", 9, 3, 4, three, p3, 3, 3, 3, 0, 1),
        MigProfile("4g.40gb", 5, 4, 4, three, p4, 4, 4, 4, 0, 1),
        MigProfile("7g.80gb", 0, 7, 8, seven, p7, 8, 7, jpeg7, 1, 0),
    )


MODELS = {
    "h100-sxm": Model(
        name="NVIDIA H100 80GB HBM3",
        architecture="Hopper",
        compute_capability="9.0",
        memory=81559,
        reserved=479,
        bar1=131072,
        device_id="233010DE",
        subsystem_id="16C110DE",
        chip="GH100 [H100 SXM5 80GB]",
        vbios="96.00.A5.00.01",
        board_part="692-2G520-0200-000",
        gpu_part="2330-885-A1",
        inforom_image="G520.0200.00.05",
        inforom_ecc="7.16",
        power=700,
        power_min=200,
        idle_watts=69.85,
        graphics_clock=1980,
        idle_clock=345,
        memory_clocks=(2619, 1593),
        video_clock=1545,
        pcie_gen=5,
        remap_banks=2560,
        memory_temp=48,
        slowest_clock=345,
        nvlink_count=18,
        nvlink_speed="26.562",
        fabric=True,
        edpp=True,
        mig=_mig((9984, 20096, 40448, 81089), (16, 32, 60, 64, 132), 7),
    ),
    "a100-sxm": Model(
        name="NVIDIA A100-SXM4-80GB",
        architecture="Ampere",
        compute_capability="8.0",
        memory=81920,
        reserved=869,
        bar1=131072,
        device_id="20B210DE",
        subsystem_id="147F10DE",
        chip="GA100 [A100 SXM4 80GB]",
        vbios="92.00.36.00.02",
        board_part="692-2G506-0212-002",
        gpu_part="20B2-895-A1",
        inforom_image="G506.0212.00.01",
        inforom_ecc="6.16",
        power=500,
        power_min=100,
        idle_watts=67.03,
        graphics_clock=1410,
        idle_clock=210,
        memory_clocks=(1593,),
        video_clock=1290,
        pcie_gen=4,
        remap_banks=640,
        memory_temp=44,
        nvlink_count=12,
        nvlink_speed="25",
        fabric=False,
        oem="2.0",
        mig=_mig((9728, 19968, 40192, 81152), (14, 28, 42, 56, 98), 1),
    ),
    "l40s": Model(
        name="NVIDIA L40S",
        architecture="Ada Lovelace",
        compute_capability="8.9",
        memory=46068,
        reserved=609,
        bar1=65536,
        device_id="26B910DE",
        subsystem_id="185110DE",
        chip="AD102GL [L40S]",
        vbios="95.02.66.00.02",
        board_part="900-2G133-0080-000",
        gpu_part="26B9-896-A1",
        inforom_image="G133.0242.00.03",
        inforom_ecc="6.16",
        power=350,
        power_min=100,
        idle_watts=35.12,
        graphics_clock=2520,
        idle_clock=210,
        memory_clocks=(9001, 405),
        video_clock=1965,
        pcie_gen=4,
        remap_banks=192,
        addressing="HMM",
    ),
}
