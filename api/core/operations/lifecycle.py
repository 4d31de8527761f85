"""An operation's states and the only ways between them."""

from __future__ import annotations

from enum import StrEnum

from api.core.errors import WrongState


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    START = "start"
    REQUEUE = "requeue"
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"


OPEN = (State.QUEUED, State.RUNNING)
TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.QUEUED, Event.START): State.RUNNING,
    (State.RUNNING, Event.START): State.RUNNING,  # a living worker takes over from a dead one
    (State.RUNNING, Event.REQUEUE): State.QUEUED,
    (State.RUNNING, Event.SUCCEED): State.SUCCEEDED,
    (State.RUNNING, Event.FAIL): State.FAILED,
    (State.QUEUED, Event.FAIL): State.FAILED,
    (State.RUNNING, Event.CANCEL): State.CANCELLED,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
}


def advance(state: State, event: Event) -> State:
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise WrongState(f"An operation that is {state} cannot {event}.", state=state) from None
