"""The ledger under a state machine, on both engines.

`IRONYARD_MACHINE_STEPS=10000` is the long run; an engine's share of it in the suite is shorter.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.machine.machine import LedgerMachine
from tests.machine.stage import Template, furnish

STEPS = int(os.environ.get("IRONYARD_MACHINE_STEPS", "800"))
STEPS_A_TRY = 100
ENGINES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(scope="module", params=ENGINES)
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    directory: Path = tmp_path_factory.mktemp("machine")
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    yield furnish(directory, server)
    if server:
        server.drop("machine_template")


def tries(number: int, **more: object) -> settings:
    return settings(
        max_examples=number,
        stateful_step_count=STEPS_A_TRY,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        **more,  # type: ignore[arg-type]
    )


def test_every_promise_is_kept_after_every_step(template: Template) -> None:
    machine = type("Machine", (LedgerMachine,), {"template": template, "steps": 0})
    while machine.steps < STEPS:  # a try can be shorter than it might be
        left = STEPS - machine.steps
        run_state_machine_as_test(machine, settings=tries(max(1, left // STEPS_A_TRY)))


def drop_what_forbids_overlaps(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("DROP TRIGGER holds_no_overlap")
        connection.exec_driver_sql("DROP TRIGGER reservations_no_overlap")
    else:
        connection.exec_driver_sql("ALTER TABLE holds DROP CONSTRAINT ex_holds_overlap")
        connection.exec_driver_sql("ALTER TABLE reservations DROP CONSTRAINT ex_reservations_overlap")


def test_the_machine_notices_a_database_that_allows_overlaps(template: Template) -> None:
    parts = {"template": template, "without": staticmethod(drop_what_forbids_overlaps)}
    machine = type("Careless", (LedgerMachine,), parts)
    with pytest.raises(AssertionError, match=r"overlap|later hold"):
        run_state_machine_as_test(machine, settings=tries(20, phases=[Phase.generate], derandomize=True))
