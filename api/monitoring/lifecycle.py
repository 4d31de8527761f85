"""A finding's states and the only ways between them."""

from __future__ import annotations

from enum import StrEnum

from api.core.errors import WrongState


class State(StrEnum):
    OPEN = "open"
    WARNED = "warned"
    DISMISSED = "dismissed"
    ACTED = "acted"
    RESOLVED = "resolved"


SENTENCES: dict[State, str] = {
    State.OPEN: "Found, and its owner was told.",
    State.WARNED: "Its owner was told when the platform will act.",
    State.DISMISSED: "Somebody knows of it and wants it so; it is neither told again nor acted upon.",
    State.ACTED: "The platform did what it had announced, or an operator had it done.",
    State.RESOLVED: "It was looked for and is no longer there.",
}


class Event(StrEnum):
    WARN = "warn"
    CALM = "calm"
    DISMISS = "dismiss"
    ACT = "act"
    RESOLVE = "resolve"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.OPEN, Event.WARN): State.WARNED,
    (State.WARNED, Event.CALM): State.OPEN,
    (State.OPEN, Event.DISMISS): State.DISMISSED,
    (State.WARNED, Event.DISMISS): State.DISMISSED,
    (State.OPEN, Event.ACT): State.ACTED,
    (State.WARNED, Event.ACT): State.ACTED,
    (State.OPEN, Event.RESOLVE): State.RESOLVED,
    (State.WARNED, Event.RESOLVE): State.RESOLVED,
    (State.DISMISSED, Event.RESOLVE): State.RESOLVED,
}

ENDED = frozenset({State.ACTED, State.RESOLVED})


def advance(state: State, event: Event) -> State:
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        allowed = sorted(known for at, known in TRANSITIONS if at is state)
        raise WrongState(
            f"A finding that is {state} cannot {event}; from here: {', '.join(allowed) or 'nothing'}.",
            state=state,
            event=event,
            allowed=allowed,
        ) from None
