"""Who has to wait for whom: decisions, the queue, and those that yield."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from api.settings import Settings
from tests.machine.snapshot import Ledger, Memory

PLAIN = {"gpus", "model"}


def only_the_preemptible_yield(ledger: Ledger, _: Memory) -> None:
    for row in ledger.allocations.values():
        if row.preempt_at is not None:
            assert row.state == "active", f"an allocation that is {row.state} has its end announced"
            assert "yields_to" in row.why, "an end is announced for nobody"
        if row.preempt_at is not None or row.state == "preempted":
            assert row.preemptible, "an allocation with a guarantee yields"


def decisions_are_made_once(ledger: Ledger, _: Memory) -> None:
    waiting = Counter((row.allocation_id, row.kind) for row in ledger.changes if row.state == "requested")
    assert not waiting or max(waiting.values()) == 1, "two changes of a kind wait"
    for row in ledger.changes:
        decided = row.state in ("denied", "cancelled")
        assert decided <= (row.decided_at is not None)
        assert row.state != "requested" or row.decided_at is None
    for row in ledger.allocations.values():
        assert row.state != "denied" or row.decided_at is not None
        assert row.state != "requested" or (row.decided_at is None and row.why["waits_for"] == "approval")


def nobody_waits_in_vain(ledger: Ledger, first: Any, now: datetime, settings: Settings) -> None:
    """After the queue was served: the first that waits for GPUs does so because there are too few."""
    row = ledger.allocations[first]
    if row.state != "queued" or row.why["waits_for"] != "capacity" or not row.wanted.keys() <= PLAIN:
        return
    lasts = timedelta(seconds=settings.allocation_grace + settings.cleaning_gap)
    ends_at = now + timedelta(seconds=row.duration_seconds) if row.duration_seconds else row.expires_at
    free = sum(
        1
        for gpu in ledger.gpus.values()
        if gpu.held_by is None
        and gpu.schedulable
        and row.wanted.get("model") in (None, gpu.model)
        and (gpu.booked_from is None or gpu.booked_from >= ends_at + lasts)
    )
    assert free < row.wanted["gpus"], (
        f"the first in line waits for {row.wanted['gpus']} while {free} are free"
    )


def nothing_is_left_over(ledger: Ledger, now: datetime) -> None:
    """After the worker kept time: nobody is asked about what has passed."""
    held = {row.id for row in ledger.allocations.values() if row.state in ("active", "reserved")}
    assert all(row.allocation_id in held for row in ledger.changes if row.state == "requested")
    for row in ledger.allocations.values():
        assert row.state != "requested" or row.expires_at is None or row.expires_at > now
        assert row.state != "active" or row.ends_at > now, "an allocation is held after its end"


PROMISES = (only_the_preemptible_yield, decisions_are_made_once)
