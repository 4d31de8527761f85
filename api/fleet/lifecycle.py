"""A host's states and the only ways between them."""

from __future__ import annotations

from enum import StrEnum

from api.core.errors import WrongState


class State(StrEnum):
    NEW = "new"
    ENROLLING = "enrolling"
    CLEANING = "cleaning"
    IDLE = "idle"
    ALLOCATED = "allocated"
    RECLAIMING = "reclaiming"
    MAINTENANCE = "maintenance"
    RETIRED = "retired"


SENTENCES: dict[State, str] = {
    State.NEW: "Known by address; not enrolled yet.",
    State.ENROLLING: "The enroll playbook is at work.",
    State.CLEANING: "Enrolled or asked to be checked; proven clean before it is lent.",
    State.IDLE: "Proven clean; may be lent.",
    State.ALLOCATED: "At least one of its GPUs is held.",
    State.RECLAIMING: "Given back or repaired; every trace of the tenant is being removed.",
    State.MAINTENANCE: "Something failed or an operator took it out; only a full reclaim leads back.",
    State.RETIRED: "Left the fleet; its history stays.",
}


class Event(StrEnum):
    ENROLL = "enroll"
    ENROLLED = "enrolled"
    CHECK = "check"
    CLAIM = "claim"
    RELEASE = "release"
    RECLAIM = "reclaim"
    VERIFIED = "verified"
    FAILED = "failed"
    MAINTAIN = "maintain"
    RETIRE = "retire"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.NEW, Event.ENROLL): State.ENROLLING,
    (State.IDLE, Event.ENROLL): State.ENROLLING,
    (State.MAINTENANCE, Event.ENROLL): State.ENROLLING,
    (State.ENROLLING, Event.ENROLLED): State.CLEANING,
    (State.IDLE, Event.CHECK): State.CLEANING,
    (State.CLEANING, Event.VERIFIED): State.IDLE,
    (State.IDLE, Event.CLAIM): State.ALLOCATED,
    (State.ALLOCATED, Event.RELEASE): State.RECLAIMING,
    (State.IDLE, Event.RECLAIM): State.RECLAIMING,
    (State.MAINTENANCE, Event.RECLAIM): State.RECLAIMING,
    (State.RECLAIMING, Event.VERIFIED): State.IDLE,
    (State.ENROLLING, Event.FAILED): State.MAINTENANCE,
    (State.CLEANING, Event.FAILED): State.MAINTENANCE,
    (State.RECLAIMING, Event.FAILED): State.MAINTENANCE,
    (State.NEW, Event.MAINTAIN): State.MAINTENANCE,
    (State.IDLE, Event.MAINTAIN): State.MAINTENANCE,
    (State.NEW, Event.RETIRE): State.RETIRED,
    (State.IDLE, Event.RETIRE): State.RETIRED,
    (State.MAINTENANCE, Event.RETIRE): State.RETIRED,
}

LENDABLE = frozenset({State.IDLE, State.ALLOCATED})


def advance(state: State, event: Event) -> State:
    """Raises WrongState, naming the events that the state does allow."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        allowed = sorted(known for at, known in TRANSITIONS if at is state)
        raise WrongState(
            f"A host that is {state} cannot {event}; from here: {', '.join(allowed) or 'nothing'}.",
            state=state,
            event=event,
            allowed=allowed,
        ) from None
