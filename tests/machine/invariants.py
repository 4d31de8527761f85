"""What must be true of the ledger at any moment: read by SQL of its own, not by the code that is tried."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from uuid import UUID

from tests.machine import promises_of_money, promises_of_turns
from tests.machine.snapshot import Ledger, Memory

DIRTY = {"allocated", "maintenance", "enrolling"}
OPEN = {"requested", "queued", "reserved", "active"}


def check(ledger: Ledger, memory: Memory) -> None:
    for promise in PROMISES:
        promise(ledger, memory)


def holds_never_overlap(ledger: Ledger, _: Memory) -> None:
    of_gpu: dict[UUID, list[Any]] = defaultdict(list)
    for hold in ledger.holds:
        of_gpu[hold.gpu_id].append(hold)
    for holds in of_gpu.values():
        for first, second in pairwise(sorted(holds, key=lambda hold: hold.started_at)):
            assert first.ended_at is not None, "a GPU has a later hold beside an open one"
            assert first.ended_at <= second.started_at, "two holds of a GPU overlap"


def a_gpu_knows_its_holder(ledger: Ledger, _: Memory) -> None:
    by_hold = {hold.gpu_id: hold.allocation_id for hold in ledger.open_holds}
    by_gpu = {gpu.id: gpu.held_by for gpu in ledger.gpus.values() if gpu.held_by is not None}
    assert by_hold == by_gpu, "holds and GPUs name different holders"
    for gpu in ledger.gpus.values():
        assert (gpu.held_by is None) == (gpu.held_until is None), "held, and until when, go together"


def allocations_hold_what_their_state_says(ledger: Ledger, _: Memory) -> None:
    held = Counter(hold.allocation_id for hold in ledger.open_holds)
    ever = {hold.allocation_id for hold in ledger.holds}
    booked = {row.allocation_id for row in ledger.reservations if row.closed_at is None}
    for row in ledger.allocations.values():
        assert (held[row.id] > 0) == (row.state == "active"), f"{row.state} with {held[row.id]} open holds"
        assert (row.id in booked) == (row.state == "reserved"), f"{row.state} and its reservations"
        assert (row.ended_at is None) == (row.state in OPEN)
        assert (row.started_at is not None) == (row.id in ever)
        wanted = row.wanted["gpus"]
        assert row.state != "active" or held[row.id] >= wanted, "part of a claim is held"


def hosts_are_lent_as_they_say(ledger: Ledger, _: Memory) -> None:
    held = {gpu.host_id for gpu in ledger.gpus.values() if gpu.held_by is not None}
    for host in ledger.hosts.values():
        assert (host.id in held) == (host.state == "allocated"), f"{host.name} is {host.state}"
    for gpu in ledger.gpus.values():
        assert gpu.host_lent == (ledger.hosts[gpu.host_id].state == "allocated")


def hosts_become_idle_only_by_a_clean(ledger: Ledger, _: Memory) -> None:
    for host_id, rows in ledger.periods.items():
        stays = sorted(rows, key=lambda row: (row.started_at, row.id))
        assert [row.ended_at is None for row in stays].count(True) == 1, "a host is in one state at a time"
        assert stays[-1].state == ledger.hosts[host_id].state
        for first, second in pairwise(stays):
            assert first.ended_at == second.started_at, "a host's history has a hole"
            assert not (second.state == "idle" and first.state in DIRTY), "idle without a clean"


def holds_lie_within_lent_time(ledger: Ledger, _: Memory) -> None:
    for hold in ledger.holds:
        lent = [row for row in ledger.periods[hold.host_id] if row.state == "allocated"]
        assert any(
            row.started_at <= hold.started_at
            and (row.ended_at is None or (hold.ended_at is not None and hold.ended_at <= row.ended_at))
            for row in lent
        ), "a GPU was held while its host was not lent"


def a_closed_hold_stays_as_it_is(ledger: Ledger, memory: Memory) -> None:
    closed = {hold.id: hold.ended_at for hold in ledger.holds if hold.ended_at is not None}
    assert memory.closed.items() <= closed.items(), "history was changed"
    memory.closed = closed


def quotas_count_and_are_kept(ledger: Ledger, memory: Memory) -> None:
    seen = {}
    for row in ledger.quotas:
        if row.resource != "gpus":
            continue
        counted = sum(
            1
            for hold in ledger.open_holds
            if row.model in ("", hold.model) and hold_counts(ledger, row, hold.workspace_id, hold.user_id)
        )
        assert row.used == counted, f"a quota counts {row.used} where {counted} are held"
        key = (row.scope_id, row.resource, row.model)
        if row.hard_limit is not None and row.used > row.hard_limit:
            assert row.used <= memory.used.get(key, row.used), "more was held past a quota"
        seen[key] = row.used
    memory.used = seen


def hold_counts(ledger: Ledger, row: Any, workspace_id: UUID, user_id: UUID | None) -> bool:
    if row.scope == "workspace":
        found: bool = workspace_id == row.scope_id
        return found
    if row.scope == "organisation":
        belongs: bool = ledger.workspaces[workspace_id].organisation_id == row.scope_id
        return belongs
    member = ledger.members.get(row.scope_id)
    return member is not None and (member.workspace_id, member.user_id) == (workspace_id, user_id)


def reservations_never_overlap(ledger: Ledger, _: Memory) -> None:
    of_gpu: dict[UUID, list[Any]] = defaultdict(list)
    for row in ledger.reservations:
        if row.closed_at is None:
            of_gpu[row.gpu_id].append(row)
    for gpu in ledger.gpus.values():
        rows = sorted(of_gpu[gpu.id], key=lambda row: row.starts_at)
        for first, second in pairwise(rows):
            assert first.free_at <= second.starts_at, "two reservations of a GPU overlap"
        assert gpu.booked_from == (rows[0].starts_at if rows else None)
        if gpu.held_by is not None and rows:
            assert gpu.held_until <= rows[0].starts_at, "a hold runs into a reservation"


PROMISES: tuple[Callable[[Ledger, Memory], None], ...] = (
    holds_never_overlap,
    a_gpu_knows_its_holder,
    allocations_hold_what_their_state_says,
    hosts_are_lent_as_they_say,
    hosts_become_idle_only_by_a_clean,
    holds_lie_within_lent_time,
    a_closed_hold_stays_as_it_is,
    quotas_count_and_are_kept,
    reservations_never_overlap,
    *promises_of_money.PROMISES,
    *promises_of_turns.PROMISES,
)
