"""What the page on placement says of MIG, factors and refusals is the code's."""

from __future__ import annotations

from api.fleet.mig import FAMILIES
from api.fleet.shortage import SENTENCES
from api.providers.ranking import WEIGHTS
from tests.docs import pages


def test_the_profiles_are_the_code_s() -> None:
    told = [(row[0], row[2]) for row in pages.table(pages.PLACEMENT, "GPU")]
    known = [
        (family.name, ", ".join(f"{profile} {number}" for profile, number in family.profiles.items()))
        for family in FAMILIES
    ]
    assert told == known


def test_the_weights_are_the_code_s() -> None:
    assert {row[0]: float(row[1]) for row in pages.table(pages.PLACEMENT, "Factor")} == WEIGHTS


def test_the_numbers_of_a_refusal_are_the_code_s() -> None:
    rows = {row[0] for row in pages.table(pages.PLACEMENT, "Member")}
    assert rows == {"matching", "free", *SENTENCES}
