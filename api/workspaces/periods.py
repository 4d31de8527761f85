"""Calendar months in a time zone: contiguous, half-open, their edges in UTC."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

LEAST = timedelta(days=14)  # a period that a change of zone has begun at an odd hour is no sliver


class Period(NamedTuple):
    start: datetime
    end: datetime


def month_of(moment: datetime, zone: str) -> Period:
    """The calendar month that holds the moment."""
    local = moment.astimezone(ZoneInfo(zone))
    return Period(_edge(local.year, local.month, zone), _edge(local.year, local.month + 1, zone))


def following(start: datetime, zone: str) -> datetime:
    """The end of the period that begins at `start`: the next edge of a month, at least 14 days later."""
    month = month_of(start + LEAST, zone)
    return month.start if month.start >= start + LEAST else month.end


def cover(known: Sequence[Period], zone: str, until: datetime) -> list[Period]:
    """The known periods, which are contiguous and at least one, and those after them that reach `until`."""
    periods = list(known)
    while periods[-1].end < until:
        start = periods[-1].end
        periods.append(Period(start, following(start, zone)))
    return periods


def _edge(year: int, month: int, zone: str) -> datetime:
    """Month 13 is the next year's first."""
    years, months = divmod(month - 1, 12)
    return datetime(year + years, months + 1, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)
