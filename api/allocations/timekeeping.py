"""What the clock brings about, in the order that makes room: ends, then begins, then warnings.

What waits for a decision ends as well: a request whose time has passed, a change of what is over.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

from api.allocations import activation, changes, decisions, expiry, reminders
from api.core.access import Actor
from api.core.db import Database
from api.settings import Settings

log = logging.getLogger("ironyard.allocations")


def keep(database: Database, actor: Actor, settings: Settings) -> None:
    """Each in a transaction of its own. Several workers may do so at once, and any may die in between."""
    over = database.run(expiry.overdue, reading=True)
    if over:  # whoever begins on a host that another leaves now need not wait for a clean of it
        _begin_due(database, actor, settings, quietly=True)
    for allocation_id in over:
        _do(database, partial(expiry.expire, actor=actor, allocation_id=allocation_id), allocation_id)
    _begin_due(database, actor, settings)
    for allocation_id in database.run(decisions.lapsed, reading=True):
        _do(database, partial(decisions.lapse, actor=actor, allocation_id=allocation_id), allocation_id)
    for allocation_id in database.run(changes.left_over, reading=True):
        _do(
            database, partial(changes.drop_left_over, actor=actor, allocation_id=allocation_id), allocation_id
        )
    while database.run(partial(reminders.warn, settings=settings)) >= reminders.BATCH:
        pass


def _begin_due(database: Database, actor: Actor, settings: Settings, *, quietly: bool = False) -> None:
    for allocation_id in database.run(activation.due, reading=True):
        begin = partial(activation.activate, settings=settings, quietly=quietly)
        _do(database, partial(begin, actor=actor, allocation_id=allocation_id), allocation_id)


def _do(database: Database, work: Callable[..., Any], allocation_id: UUID) -> None:
    """One that fails is tried again next time, and holds up no other."""
    try:
        database.run(work)
    except Exception:
        log.exception("allocation %s: its time has come, and it failed; trying again", allocation_id)
