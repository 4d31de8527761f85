"""The one source of time: UTC, timezone-aware."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    return datetime.now(UTC)


def whole_seconds(moment: datetime) -> int:
    """Whole seconds since the epoch, rounded down.

    Durations metered as differences of this add up exactly over adjoining intervals.
    """
    return int(moment.timestamp() // 1)
