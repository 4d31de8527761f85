"""Which GPUs can be cut into a MIG profile, and into how many instances of it.

Source: NVIDIA Multi-Instance GPU User Guide, "Supported MIG Profiles" (driver branch 580).
"""

from __future__ import annotations

from typing import NamedTuple

SEVENTHS = (7, 4, 3, 2, 1, 1)  # instances of 1g, 1g with twice the memory, 2g, 3g, 4g, 7g


class Family(NamedTuple):
    """GPUs whose name, as nvidia-smi prints it, begins so and whose memory (MiB) lies between."""

    name: str
    least_mib: int
    most_mib: int
    profiles: dict[str, int]


def _sevenths(*names: str) -> dict[str, int]:
    return dict(zip(names, SEVENTHS, strict=True))


OF_40 = _sevenths("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb")
OF_80 = _sevenths("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
OF_94 = _sevenths("1g.12gb", "1g.24gb", "2g.24gb", "3g.47gb", "4g.47gb", "7g.94gb")
OF_96 = _sevenths("1g.12gb", "1g.24gb", "2g.24gb", "3g.48gb", "4g.48gb", "7g.96gb")
OF_141 = _sevenths("1g.18gb", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb")
OF_180 = _sevenths("1g.23gb", "1g.45gb", "2g.45gb", "3g.90gb", "4g.90gb", "7g.180gb")

FAMILIES = (
    Family("NVIDIA A30", 23_000, 25_000, {"1g.6gb": 4, "2g.12gb": 2, "4g.24gb": 1}),
    Family("NVIDIA A100", 39_000, 42_000, OF_40),
    Family("NVIDIA A100", 79_000, 82_500, OF_80),
    Family("NVIDIA H100", 79_000, 82_500, OF_80),
    Family("NVIDIA H100", 94_000, 97_000, OF_94),
    Family("NVIDIA H100", 97_001, 99_000, OF_96),
    Family("NVIDIA GH200", 94_000, 99_000, OF_96),
    Family("NVIDIA H20", 94_000, 99_000, OF_96),
    Family("NVIDIA H200", 138_000, 146_000, OF_141),
    Family("NVIDIA B200", 178_000, 186_000, OF_180),
    Family("NVIDIA RTX PRO 6000", 94_000, 99_000, {"1g.24gb": 4, "2g.48gb": 2, "4g.96gb": 1}),
)


def families(profile: str) -> list[Family]:
    """Those that can be cut into it."""
    return [family for family in FAMILIES if profile in family.profiles]


def instances(profile: str, model: str, memory_mib: int) -> int:
    """How many instances of the profile one such GPU carries; 0: it cannot be cut so."""
    for family in families(profile):
        if named(family.name, model) and family.least_mib <= memory_mib <= family.most_mib:
            return family.profiles[profile]
    return 0


def named(family: str, model: str) -> bool:
    """`NVIDIA H20` is neither an H200 nor an H20-something else: a name ends at a space or a hyphen."""
    return model == family or model.startswith((f"{family} ", f"{family}-"))
