"""From when until when: a claim's window, its grace and the clean after it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from api.core.errors import Invalid

if TYPE_CHECKING:
    from api.allocations.models import ClaimRequest
    from api.settings import Settings


@dataclass(frozen=True, slots=True)
class Window:
    """`[starts_at, expires_at)` is asked for; the hold ends at `ends_at`, the GPU is free at `free_at`."""

    starts_at: datetime
    expires_at: datetime
    ends_at: datetime
    free_at: datetime
    later: bool = False


def of(asked: ClaimRequest, now: datetime, settings: Settings) -> Window:
    """Raises Invalid for a window that is past, empty, too far off or too long."""
    later = asked.not_before is not None and asked.not_before > now
    starts_at = asked.not_before if later and asked.not_before else now
    furthest = now + timedelta(seconds=settings.reservation_horizon)
    if starts_at > furthest:
        raise Invalid(
            f"A window may begin no later than {furthest:%Y-%m-%dT%H:%M:%SZ}.", latest=furthest.isoformat()
        )
    seconds = asked.duration_seconds or settings.allocation_lifetime
    end = checked_end(asked.expires_at or starts_at + timedelta(seconds=seconds), starts_at, settings)
    return between(starts_at, end, settings, later=later)


def between(starts_at: datetime, expires_at: datetime, settings: Settings, *, later: bool = False) -> Window:
    ends_at = expires_at + timedelta(seconds=settings.allocation_grace)
    return Window(starts_at, expires_at, ends_at, free_at(ends_at, settings), later)


def free_at(ends_at: datetime, settings: Settings) -> datetime:
    return ends_at + timedelta(seconds=settings.cleaning_gap)


def checked_end(end: datetime, start: datetime, settings: Settings) -> datetime:
    """Raises Invalid when the end is not after the start, or later than an allocation may last."""
    furthest = start + timedelta(seconds=settings.allocation_lifetime_limit)
    if end <= start:
        raise Invalid("The end lies before the begin, or in the past.", expires_at=end.isoformat())
    if end > furthest:
        raise Invalid(
            f"The end may be no later than {furthest:%Y-%m-%dT%H:%M:%SZ}.", latest=furthest.isoformat()
        )
    return end
