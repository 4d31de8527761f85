"""Lifecycles are tables: every state is reached, and no way leads round a clean."""

from __future__ import annotations

from enum import StrEnum
from types import ModuleType
from typing import Any

import pytest

from api.allocations import lifecycle as allocation
from api.core.errors import WrongState
from api.core.operations import lifecycle as operation
from api.fleet import lifecycle as host
from api.fleet.lifecycle import Event, State
from api.monitoring import lifecycle as finding

TABLES: list[tuple[ModuleType, StrEnum]] = [
    (host, host.State.NEW),
    (allocation, allocation.State.REQUESTED),
    (operation, operation.State.QUEUED),
    (finding, finding.State.OPEN),
]


def reached(transitions: dict[Any, Any], start: Any, *, without: frozenset[Any] = frozenset()) -> set[Any]:
    seen, pending = set(), [start]
    while pending:
        state = pending.pop()
        if state not in seen:
            seen.add(state)
            pending += [to for (at, event), to in transitions.items() if at == state and event not in without]
    return seen


@pytest.mark.parametrize(("table", "start"), TABLES)
def test_every_state_is_reachable_and_every_event_used(table: ModuleType, start: StrEnum) -> None:
    assert reached(table.TRANSITIONS, start) == set(table.State)
    assert {event for _, event in table.TRANSITIONS} == set(table.Event)


@pytest.mark.parametrize(("table", "start"), TABLES)
def test_what_is_not_in_the_table_is_refused(table: ModuleType, start: StrEnum) -> None:
    for state in table.State:
        for event in table.Event:
            if (state, event) in table.TRANSITIONS:
                assert table.advance(state, event) == table.TRANSITIONS[state, event]
            else:
                with pytest.raises(WrongState):
                    table.advance(state, event)


@pytest.mark.parametrize("dirty", [State.MAINTENANCE, State.RECLAIMING, State.ENROLLING, State.ALLOCATED])
def test_only_a_proof_leads_to_idle(dirty: State) -> None:
    assert State.IDLE not in reached(host.TRANSITIONS, dirty, without=frozenset({Event.VERIFIED}))


def test_nothing_is_lent_but_from_idle() -> None:
    assert {at for (at, _), to in host.TRANSITIONS.items() if to is State.ALLOCATED} == {State.IDLE}


def test_every_stay_of_a_host_has_a_sentence_and_a_name_in_the_past() -> None:
    from api.fleet.service import PAST

    assert host.SENTENCES.keys() == set(State)
    assert PAST.keys() == set(Event)


def test_retired_is_final() -> None:
    assert reached(host.TRANSITIONS, State.RETIRED) == {State.RETIRED}
