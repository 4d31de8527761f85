"""Times that a request names: with a zone, and so that sums with a length stay within the calendar."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime

EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(3000, 1, 1, tzinfo=UTC)
LONGEST = 3_200_000_000  # seconds, a century: far beyond every limit, and no sum with it overflows


def _within(moment: datetime) -> datetime:
    if not EARLIEST <= moment < LATEST:
        raise ValueError(f"a time lies from {EARLIEST:%Y} to {LATEST:%Y}")
    return moment.astimezone(UTC)


Moment = Annotated[AwareDatetime, AfterValidator(_within)]
