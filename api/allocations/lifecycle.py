"""An allocation's states and the only ways between them."""

from __future__ import annotations

from enum import StrEnum

from api.core.errors import WrongState


class State(StrEnum):
    REQUESTED = "requested"
    QUEUED = "queued"
    RESERVED = "reserved"
    ACTIVE = "active"
    DENIED = "denied"
    CANCELLED = "cancelled"
    RELEASED = "released"
    EXPIRED = "expired"
    PREEMPTED = "preempted"


SENTENCES: dict[State, str] = {
    State.REQUESTED: "Waits for somebody to approve it.",
    State.QUEUED: "Waits for GPUs to come free.",
    State.RESERVED: "GPUs are set aside for its window, which has not begun.",
    State.ACTIVE: "Holds its GPUs.",
    State.DENIED: "Somebody decided against it.",
    State.CANCELLED: "Withdrawn before it held anything.",
    State.RELEASED: "Given back by its holder.",
    State.EXPIRED: "Its time was over.",
    State.PREEMPTED: "Yielded to a claim with a guarantee.",
}


class Event(StrEnum):
    GRANT = "grant"
    RESERVE = "reserve"
    QUEUE = "queue"
    DENY = "deny"
    CANCEL = "cancel"
    EXTEND = "extend"
    GROW = "grow"
    TRANSFER = "transfer"
    RELEASE = "release"
    EXPIRE = "expire"
    PREEMPT = "preempt"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.REQUESTED, Event.GRANT): State.ACTIVE,
    (State.REQUESTED, Event.RESERVE): State.RESERVED,
    (State.REQUESTED, Event.QUEUE): State.QUEUED,
    (State.REQUESTED, Event.DENY): State.DENIED,
    (State.REQUESTED, Event.CANCEL): State.CANCELLED,
    (State.REQUESTED, Event.EXPIRE): State.EXPIRED,
    (State.QUEUED, Event.GRANT): State.ACTIVE,
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.QUEUED, Event.EXPIRE): State.EXPIRED,
    (State.RESERVED, Event.GRANT): State.ACTIVE,
    (State.RESERVED, Event.CANCEL): State.CANCELLED,
    (State.RESERVED, Event.EXPIRE): State.EXPIRED,
    (State.RESERVED, Event.EXTEND): State.RESERVED,
    (State.ACTIVE, Event.EXTEND): State.ACTIVE,
    (State.ACTIVE, Event.GROW): State.ACTIVE,
    (State.ACTIVE, Event.TRANSFER): State.ACTIVE,
    (State.ACTIVE, Event.RELEASE): State.RELEASED,
    (State.ACTIVE, Event.EXPIRE): State.EXPIRED,
    (State.ACTIVE, Event.PREEMPT): State.PREEMPTED,
}

OPEN = frozenset({State.REQUESTED, State.QUEUED, State.RESERVED, State.ACTIVE})


def advance(state: State, event: Event) -> State:
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        allowed = sorted(known for at, known in TRANSITIONS if at is state)
        raise WrongState(
            f"An allocation that is {state} cannot {event}; from here: {', '.join(allowed) or 'nothing'}.",
            state=state,
            event=event,
            allowed=allowed,
        ) from None
