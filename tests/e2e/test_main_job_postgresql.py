"""The main job again with PostgreSQL underneath: what touches the database most."""

from __future__ import annotations

import pytest

from tests.e2e.test_main_job import (
    fleet,
    test_a_loan_from_claim_to_report,
    test_a_stopped_worker_gives_its_work_to_the_next,
    test_a_worker_killed_in_the_middle_of_a_reclaim,
    test_enroll_records_the_hardware,
)

__all__ = [
    "fleet",
    "test_a_loan_from_claim_to_report",
    "test_a_stopped_worker_gives_its_work_to_the_next",
    "test_a_worker_killed_in_the_middle_of_a_reclaim",
    "test_enroll_records_the_hardware",
]
ENGINE = "postgresql"
pytestmark = [pytest.mark.lab, pytest.mark.postgres]
