"""Sources of capacity: what each could lend, in one form, so that all can be ranked together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from sqlalchemy.orm import Session

from api.fleet.health_models import Verdict


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody looks for. Memory in MiB, of each GPU; a region is a wish, no condition."""

    gpus: int
    model: str | None = None
    memory_mib: int | None = None
    region: str | None = None
    same_host: bool = False
    nvlink: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a source could lend: GPUs of a model in a region, on any hosts, on one, or NVLink-connected.

    `price` is of one GPU-hour. `opened` and `left`: GPUs of the hosts that would be begun, and those of them
    that would stay unused. `verdict` and `checked_at` are of the GPUs' last health checks, if known.
    """

    source: str
    model: str
    region: str
    memory_mib: int
    gpus: int
    same_host: bool
    nvlink: bool
    price: Decimal | None
    available_at: datetime
    opened: int = 0
    left: int = 0
    verdict: Verdict | None = None
    checked_at: datetime | None = None


class Source(Protocol):
    """A provider's folder has one. It reads what is known already and asks nobody: a transaction is open."""

    name: str

    def candidates(self, tx: Session, wish: Wish, now: datetime, until: datetime) -> Sequence[Candidate]: ...
