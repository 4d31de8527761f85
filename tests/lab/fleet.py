"""The fleet's description: which hosts there are and what GPUs each has."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

DEFAULT = Path(__file__).with_name("fleet.yml")
NAMESPACE = uuid.UUID("5f0a3c0e-9c1b-4b57-8b8e-6a2f2f0f7d11")
# where eight-GPU boards really have them; the rest follow
BUSES = ("1b", "43", "52", "61", "9d", "c3", "d1", "df")


@dataclass(frozen=True)
class Described:
    region: str
    labels: dict[str, str]
    model: str
    count: int
    nvlink: bool
    uuids: tuple[str, ...]
    switches: int = 0

    def gpus(self, host: str) -> dict[str, Any]:
        """The simulator's description of this host's GPUs; the same for the same host name."""
        domain = str(uuid.uuid5(NAMESPACE, f"{host}/nvlink")) if self.nvlink else None
        return {
            "switches": self.switches,
            "gpus": [
                {
                    "model": self.model,
                    "uuid": self.uuids[n]
                    if n < len(self.uuids)
                    else f"GPU-{uuid.uuid5(NAMESPACE, f'{host}/{n}')}",
                    "serial": str(1650000000000 + uuid.uuid5(NAMESPACE, f"{host}/{n}/serial").int % 10**9),
                    "bus": f"0000:{BUSES[n] if n < len(BUSES) else format(0xE0 + n, 'x')}:00.0",
                    "numa_node": 0 if n < (self.count + 1) // 2 else 1,
                    "nvlink_domain": domain,
                }
                for n in range(self.count)
            ],
        }


def load(path: Path = DEFAULT) -> list[Described]:
    document = yaml.safe_load(path.read_text())
    return [
        Described(
            region=entry["region"],
            labels=entry.get("labels", {}),
            model=entry["gpus"]["model"],
            count=entry["gpus"]["count"],
            nvlink=entry["gpus"].get("nvlink", False),
            uuids=tuple(entry["gpus"].get("uuids", ())),
            switches=entry["gpus"].get("switches", 0),
        )
        for entry in document["hosts"]
    ]
