"""How busy GPUs were, by DCGM's metrics in Prometheus. What was not measured is unknown, never idle."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from api.monitoring.prometheus import Prometheus, Unanswered

LABEL = "UUID"  # dcgm-exporter's name of the GPU; instances of MIG carry that of their GPU
BATCH = 500  # GPUs a question
STEPS = 60  # moments of the window at which there has to be a value
COVERED = 0.95  # share of those moments
SAMPLES = 5  # readings in the window, at least

# What a busy GPU shows, in percent. Under MIG the first three are not measured and the last is; a card
# that only encodes or decodes runs no kernel.
KERNELS, ENGINE = "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
ACTIVITY = {KERNELS: 1, "DCGM_FI_DEV_ENC_UTIL": 1, "DCGM_FI_DEV_DEC_UTIL": 1, ENGINE: 100}
PRESENCE = (KERNELS, ENGINE)
MEMORY = "DCGM_FI_DEV_FB_USED"  # MiB

NOT_CONFIGURED = "IRONYARD_PROMETHEUS_URL is not set."
NO_SERIES = "Prometheus has no utilisation of it in the whole window."
NO_TIME = "The time for measuring was over."


@dataclass(frozen=True, slots=True)
class Reading:
    """Of one GPU over a window: percent, MiB, number of samples. `covered` is a share of the window."""

    most: float
    average: float
    memory_least: float | None
    memory_most: float | None
    samples: int
    covered: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Readings by UUID; why there is none of the others; what was asked, for one GPU."""

    window: int
    readings: Mapping[str, Reading] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)

    def evidence(self) -> dict[str, Any]:
        return {"window_seconds": self.window, "query": _over("max", KERNELS, '{UUID="…"}', self.window)}


Clock = Callable[[], float]


def measure(
    prometheus: Prometheus | None,
    uuids: Iterable[str],
    window: int,
    *,
    until: float | None = None,
    monotonic: Clock = time.monotonic,
) -> Measured:
    """Readings of the GPUs over the last `window` seconds; no question is begun after `until`."""
    wanted = sorted(set(uuids))
    readings: dict[str, Reading] = {}
    unknown: dict[str, str] = {}
    for batch in _batches(wanted):
        why = NO_SERIES
        found: dict[str, Reading] = {}
        if prometheus is None:
            why = NOT_CONFIGURED
        elif until is not None and monotonic() >= until:
            why = NO_TIME
        else:
            try:
                found = _batch(prometheus, batch, window)
            except Unanswered as error:
                why = str(error)
        for uuid in batch:
            reading = found.get(uuid)
            short = _too_little(reading) if reading else why
            if reading is None or short:
                unknown[uuid] = short or why
            else:
                readings[uuid] = reading
    return Measured(window, readings, unknown)


def _batches(uuids: list[str]) -> Iterator[list[str]]:
    rest = iter(uuids)
    while batch := list(islice(rest, BATCH)):
        yield batch


def _batch(prometheus: Prometheus, uuids: list[str], window: int) -> dict[str, Reading]:
    select = f'{{{LABEL}=~"{"|".join(uuids)}"}}'

    def ask(over: str, metric: str) -> dict[str, float]:
        return prometheus.ask(_over(over, metric, select, window), LABEL)

    most: dict[str, float] = {}
    for metric, percent in ACTIVITY.items():
        _raise(most, ask("max", metric), percent)
    average: dict[str, float] = {}
    samples: dict[str, float] = {}
    for metric in PRESENCE:
        _raise(average, ask("avg", metric), ACTIVITY[metric])
        _raise(samples, ask("count", metric), 1)
    covered = prometheus.ask(_coverage(select, window), LABEL)
    least, highest = ask("min", MEMORY), ask("max", MEMORY)
    return {
        uuid: Reading(
            most=most[uuid],
            average=average[uuid],
            memory_least=least.get(uuid),
            memory_most=highest.get(uuid),
            samples=int(samples.get(uuid, 0)),
            covered=min(1.0, covered.get(uuid, 0.0) * _step(window) / window),
        )
        for uuid in most.keys() & average.keys()
    }


def _raise(highest: dict[str, float], found: dict[str, float], percent: int) -> None:
    for uuid, value in found.items():
        highest[uuid] = max(highest.get(uuid, 0.0), value * percent)


def _over(function: str, metric: str, select: str, window: int) -> str:
    return f"max by ({LABEL}) ({function}_over_time({metric}{select}[{window}s]))"


def _step(window: int) -> int:
    return max(1, window // STEPS)


def _coverage(select: str, window: int) -> str:
    """At how many moments of the window there was a value, however often the exporters are scraped.

    A scrape that fails marks its series as gone, so that this counts gaps of minutes as well.
    """
    present = " or ".join(f"max by ({LABEL}) ({metric}{select})" for metric in PRESENCE)
    return f"count_over_time(({present})[{window}s:{_step(window)}s])"


def _too_little(reading: Reading) -> str | None:
    if reading.samples < SAMPLES:
        return f"Prometheus has {reading.samples} samples of the window, of {SAMPLES} that are needed."
    if reading.covered < COVERED:
        return (
            f"Prometheus has values in {reading.covered:.0%} of the window, of {COVERED:.0%} that are needed."
        )
    return None
