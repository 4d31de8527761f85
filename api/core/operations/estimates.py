"""How long an operation will still take, by those of its kind that succeeded before."""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import Any

import sqlalchemy as sa
from cachetools import TTLCache
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import clock
from api.core.operations.lifecycle import OPEN, State
from api.core.operations.models import Operation, OperationRead

SAMPLES = 10
KEPT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Medians in seconds: of the whole, and of each step in the order of the steps."""

    total: float
    steps: dict[str, float]

    def left(self, step: str | None, elapsed: float) -> float:
        """A late operation still has the steps before it that follow the present one."""
        names = list(self.steps)
        ahead = sum(self.steps[name] for name in names[names.index(step) + 1 :]) if step in names else 0.0
        return round(max(self.total - elapsed, ahead, 0.0), 1)


class Estimates:
    """Remembers for half a minute what the database said of a kind."""

    def __init__(self) -> None:
        self._known: TTLCache[str, Estimate | None] = TTLCache(maxsize=64, ttl=KEPT_SECONDS)
        self._lock = threading.Lock()

    def read(self, tx: Session, operation: Operation) -> OperationRead:
        """The operation as it is shown, with `eta_seconds` while it goes on."""
        found = OperationRead.model_validate(operation)
        if operation.state in OPEN:
            estimate = self._of(tx, operation.kind)
            if estimate is not None:
                began = operation.started_at
                elapsed = (clock.now() - began).total_seconds() if began else 0.0
                found.eta_seconds = estimate.left(operation.step, elapsed)
        return found

    def _of(self, tx: Session, kind: str) -> Estimate | None:
        with self._lock:
            if kind in self._known:
                return self._known[kind]
        made = _estimate(tx, kind)
        with self._lock:
            self._known[kind] = made
        return made


def _estimate(tx: Session, kind: str) -> Estimate | None:
    steps = col(Operation.outcome)[("report", "steps")].label("steps")
    rows = tx.execute(
        sa.select(col(Operation.started_at), col(Operation.ended_at), steps)
        .where(col(Operation.kind) == kind, col(Operation.state) == State.SUCCEEDED)
        .order_by(col(Operation.id).desc())
        .limit(SAMPLES)
    ).all()
    whole = [(row.ended_at - row.started_at).total_seconds() for row in rows if row.started_at]
    if not whole:
        return None
    seconds: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for step in row.steps or []:
            _collect(seconds, step)
    return Estimate(median(whole), {name: median(found) for name, found in seconds.items()})


def _collect(seconds: dict[str, list[float]], step: Any) -> None:
    if isinstance(step, dict) and isinstance(step.get("seconds"), int | float):
        seconds[str(step.get("name"))].append(float(step["seconds"]))
