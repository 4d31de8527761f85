"""One try of the machine: its ledger, its clock, and how a step is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import ClassVar
from uuid import UUID

import sqlalchemy as sa
import time_machine
from hypothesis.stateful import RuleBasedStateMachine
from sqlalchemy.orm import Session

from api.allocations.models import Allocation
from api.core.access import Actor
from api.core.db import table
from api.core.errors import Problem
from tests.machine.snapshot import Ledger, Memory, read
from tests.machine.stage import BEGIN, Stage, Template

ALLOCATIONS = table(Allocation)
WHO = ("operator", "owner", "plain")


class Mistakes(logging.Handler):
    """What a worker logs and tries again: in a try nothing but a mistake makes it fail."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def check(self) -> None:
        for record in self.records:
            raise AssertionError(record.getMessage()) from (record.exc_info or (None, None))[1]


class Base(RuleBasedStateMachine):
    """A copy of the furnished ledger, and steps on it. `template` is given by the test."""

    template: ClassVar[Template]
    without: ClassVar[Callable[[sa.Connection], None] | None] = None
    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.stage: Stage = self.stack.enter_context(self.template.copy(without=type(self).without))
        self.clock = self.stack.enter_context(time_machine.travel(BEGIN + timedelta(hours=1), tick=False))
        self.memory, self.mistakes = Memory(), Mistakes()
        logger = logging.getLogger("ironyard")
        logger.addHandler(self.mistakes)
        self.stack.callback(logger.removeHandler, self.mistakes)

    def teardown(self) -> None:
        self.stack.close()

    @contextmanager
    def transaction(self, *, crash: bool = False) -> Iterator[Session]:
        """Refusals are answers; a crash before the commit leaves nothing; anything else fails the test."""
        try:
            with self.stage.database.transaction() as tx:
                yield tx
                if crash:
                    tx.rollback()
        except Problem:
            return

    def snapshot(self) -> Ledger:
        with self.stage.database.snapshot() as tx:
            return read(tx)

    def actor(self, who: str, slug: str) -> Actor:
        """An administrator, an owner of the workspace, or a member of both who decides nothing."""
        if who == "owner":
            return self.stage.members[slug]
        return self.stage.administrator if who == "operator" else self.stage.plain

    def one_of(self, pick: int, *states: str) -> UUID | None:
        with self.stage.database.snapshot() as tx:
            statement = sa.select(ALLOCATIONS.c.id).where(ALLOCATIONS.c.state.in_(states))
            found = list(tx.execute(statement.order_by(ALLOCATIONS.c.id)).scalars())
        return found[pick % len(found)] if found else None
