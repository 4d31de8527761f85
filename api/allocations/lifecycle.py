"""An allocation's states and the only ways between them."""

from __future__ import annotations

from enum import StrEnum

from api.core.errors import WrongState


class State(StrEnum):
    ACTIVE = "active"
    RELEASED = "released"
    EXPIRED = "expired"


class Event(StrEnum):
    EXTEND = "extend"
    RELEASE = "release"
    EXPIRE = "expire"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.ACTIVE, Event.EXTEND): State.ACTIVE,
    (State.ACTIVE, Event.RELEASE): State.RELEASED,
    (State.ACTIVE, Event.EXPIRE): State.EXPIRED,
}


def advance(state: State, event: Event) -> State:
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise WrongState(f"An allocation that is {state} cannot {event}.", state=state, event=event) from None
