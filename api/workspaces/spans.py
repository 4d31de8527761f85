"""What one GPU costs a budget while it is held, or is to be held."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from uuid import UUID

from api.core.clock import whole_seconds
from api.workspaces.models import Spent
from api.workspaces.periods import Period

MILLIONTH = Decimal("0.000001")
HOUR = 3600


@dataclass(frozen=True, slots=True)
class Span:
    """One GPU of a tenant in `[start, end)`, the planned time or what was used of it.

    `late` is when a hold ended that nobody ended in time; else None. `rate` is the price of an hour. `open`:
    its end is still a plan. `held`: it has begun; else it is only reserved.
    """

    workspace_id: UUID
    user_id: UUID | None
    start: datetime
    end: datetime
    rate: Decimal | None = None
    late: datetime | None = None
    open: bool = True
    held: bool = True

    def until(self, end: datetime) -> Span:
        """No longer than to `end`, as far as it is still a plan."""
        return replace(self, end=max(self.start, min(self.end, end))) if self.open else self


Spans = Counter[Span]


def planned(spans: Spans, resource: Spent, period: Period) -> Decimal:
    """GPU-seconds, or money, of the spans' planned time in the period."""
    return sum(
        (n * _cost(span, resource, _seconds(span.start, span.end, period)) for span, n in spans.items()),
        Decimal(0),
    )


def overrun(spans: Spans, resource: Spent, period: Period) -> Decimal:
    """GPU-seconds, or money, that were used after the planned end, in the period."""
    return sum(
        (
            n * _cost(span, resource, _seconds(span.end, span.late, period))
            for span, n in spans.items()
            if span.late is not None
        ),
        Decimal(0),
    )


def metered(spans: Spans, resource: Spent, within: Period) -> Decimal:
    """GPU-seconds, or money, that were used in the time, which ends by now."""
    return sum(
        (
            n * _cost(span, resource, _seconds(span.start, _left(span, within.end), within))
            for span, n in spans.items()
            if span.held
        ),
        Decimal(0),
    )


def outlook(spans: Spans, resource: Spent, within: Period) -> Decimal:
    """GPU-seconds, or money, of what is held or reserved until its planned end, in a time that begins now."""
    return planned(Spans({span: n for span, n in spans.items() if span.open}), resource, within)


def unpriced_seconds(spans: Spans) -> int:
    """GPU-seconds for which there is no price."""
    return sum(
        n * (whole_seconds(span.end) - whole_seconds(span.start))
        for span, n in spans.items()
        if span.rate is None
    )


def money(rate: Decimal, seconds: int) -> Decimal:
    """`seconds` of one GPU at `rate` an hour, in millionths, half up: the same wherever it is computed."""
    return (rate * seconds / HOUR).quantize(MILLIONTH, ROUND_HALF_UP)


def _cost(span: Span, resource: Spent, seconds: int) -> Decimal:
    if resource is Spent.GPU_SECONDS:
        return Decimal(seconds)
    return money(span.rate, seconds) if span.rate is not None else Decimal(0)


def _seconds(start: datetime, end: datetime, period: Period) -> int:
    """Whole seconds of `[start, end)` in the period; over adjoining periods they add up exactly."""
    return max(0, whole_seconds(min(end, period.end)) - whole_seconds(max(start, period.start)))


def _left(span: Span, now: datetime) -> datetime:
    """When the GPU was given back; what is open goes on, whatever was planned."""
    return now if span.open else span.late or span.end
