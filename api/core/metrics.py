"""Prometheus metrics: what the API's processes did, and at scrape time what the database holds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

disable_created_metrics()  # type: ignore[no-untyped-call]
REQUESTS = Counter(
    "ironyard_http_requests_total", "Requests answered", ["method", "route", "status"], registry=None
)
SECONDS = Histogram(
    "ironyard_http_request_seconds",
    "Time to answer a request",
    ["method", "route"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
    registry=None,
)
TRANSACTION_RETRIES = Counter(
    "ironyard_transaction_retries_total",
    "Transactions run again after a lost race or a dead connection",
    ["route", "reason"],
    registry=None,
)

Rows = Iterable[tuple[tuple[str, ...], float]]
Probe = tuple[str, str, tuple[str, ...], Callable[[], Rows]]


def observe_request(method: str, route: str, status: int, seconds: float) -> None:
    REQUESTS.labels(method, route, str(status)).inc()
    SECONDS.labels(method, route).observe(seconds)


class _Probes(Collector):
    def __init__(self, probes: list[Probe]) -> None:
        self.probes = probes

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, text, labels, read in self.probes:
            family = GaugeMetricFamily(name, text, labels=labels)
            for values, number in read():
                family.add_metric(values, number)
            yield family


def exposition(probes: list[Probe]) -> bytes:
    """The text that Prometheus scrapes. A probe is (name, help, label names, reader)."""
    registry = CollectorRegistry(auto_describe=False)
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        for collector in (REQUESTS, SECONDS, TRANSACTION_RETRIES):
            registry.register(collector)
    registry.register(_Probes(probes))
    return generate_latest(registry)
