"""Many small jobs on a few threads: reading and hashing release the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, TypeVar

WORKERS = 4
PORTIONS = 8 * WORKERS  # a future for every file would cost more than its hash
Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The results in no particular order; the first exception is raised."""
    portions = [items[number::PORTIONS] for number in range(PORTIONS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        done = pool.map(lambda portion: [function(item) for item in portion], portions)
        return [result for portion in done for result in portion]
