"""The clock, ids, cursors, sealed secrets and column types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import postgresql, sqlite

from api.core import clock
from api.core.columns import EnumText, UtcDateTime
from api.core.crypto import SecretBox
from api.core.errors import Invalid
from api.core.ids import new_id
from api.core.pagination import _decode, _encode
from api.fleet.lifecycle import State

MOMENTS = st.datetimes(timezones=st.just(UTC)).filter(lambda moment: 1 < moment.year < 9999)


@given(st.lists(MOMENTS, min_size=2, max_size=20))
def test_adjoining_durations_add_up_exactly(moments: list[datetime]) -> None:
    moments.sort()
    parts = [clock.whole_seconds(b) - clock.whole_seconds(a) for a, b in pairwise(moments)]
    assert sum(parts) == clock.whole_seconds(moments[-1]) - clock.whole_seconds(moments[0])
    assert all(part >= 0 for part in parts)


def test_ids_grow() -> None:
    made = [new_id() for _ in range(1000)]
    assert made == sorted(made)
    assert {value.version for value in made} == {7}


@given(st.uuids())
def test_cursors_come_back(value: object) -> None:
    assert _decode(_encode(value)) == value  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "x", "AAAA", "!!!!", "A" * 40])
def test_foreign_cursors_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        _decode(text)


def test_a_sealed_secret_opens_only_with_its_key() -> None:
    box = SecretBox("one")
    sealed = box.seal("private")
    assert "private" not in sealed
    assert box.open(sealed) == "private"
    for other, text in ((SecretBox("two"), sealed), (box, sealed[:-6] + "AAAAAA")):
        with pytest.raises(ValueError, match="cannot be decrypted"):
            other.open(text)


@pytest.mark.parametrize("dialect", [sqlite.dialect(), postgresql.dialect()])
@given(moment=MOMENTS)
def test_moments_come_back_in_utc(dialect: sa.Dialect, moment: datetime) -> None:
    column = UtcDateTime()
    east = moment.astimezone(timezone(timedelta(hours=5)))
    assert column.process_result_value(column.process_bind_param(east, dialect), dialect) == moment
    with pytest.raises(ValueError, match="time zone"):
        column.process_bind_param(moment.replace(tzinfo=None), dialect)


def test_enums_refuse_strangers() -> None:
    column = EnumText(State)
    assert column.process_bind_param("idle", sqlite.dialect()) == "idle"
    with pytest.raises(ValueError, match="broken"):
        column.process_bind_param("broken", sqlite.dialect())
