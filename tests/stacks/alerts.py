"""For each alert: series that make it fire, and series that must not."""

from __future__ import annotations

from dataclasses import dataclass

# the labels of a series of dcgm-exporter, with those that Prometheus adds
GPU = (
    'gpu="3",UUID="GPU-a65a773d",pci_bus_id="00000000:86:00.0",device="nvidia3",'
    'modelName="NVIDIA H100 80GB HBM3",DCGM_FI_DRIVER_VERSION="580.105.08",'
    'hostname="gpu-7",region="east",job="dcgm-exporter",instance="10.0.0.7:9400"'
)
NODE = 'job="node-exporter",hostname="gpu-7",instance="10.0.0.7:9100"'
EXPORTER = 'job="dcgm-exporter",hostname="gpu-7",instance="10.0.0.7:9400"'
FACADE = 'job="ironyard-api",instance="10.1.0.9:8080"'


def gpu(field: str, values: str) -> dict[str, str]:
    """One series of the GPU; `values` in promtool's notation, one a minute."""
    return {f"DCGM_FI_{field}{{{GPU}}}": values}


def state(values: str, name: str, hostname: str = "gpu-7") -> dict[str, str]:
    """What the facade says of a host."""
    return facade("host_info", values, f'hostname="{hostname}",host_id="1",region="east",state="{name}"')


def up(values: str, labels: str = NODE) -> dict[str, str]:
    return {f"up{{{labels}}}": values}


def facade(metric: str, values: str, labels: str = "") -> dict[str, str]:
    return {f"ironyard_{metric}{{{FACADE}{',' if labels else ''}{labels}}}": values}


def requests(failed: int, answered: int) -> dict[str, str]:
    return facade("http_requests_total", f"0+{failed}x60", 'status="500"') | facade(
        "http_requests_total", f"0+{answered}x60", 'status="200"'
    )


def durations(fast: int, slow: int) -> dict[str, str]:
    """Requests a minute that took less than a second and less than five."""
    buckets = {"1.0": fast, "5.0": fast + slow, "+Inf": fast + slow}
    series: dict[str, str] = {}
    for le, count in buckets.items():
        series |= facade("http_request_seconds_bucket", f"0+{count}x60", f'le="{le}"')
    return series


@dataclass(frozen=True)
class Case:
    """At `minutes` the first series have made the alert fire, the second have not."""

    alert: str
    firing: dict[str, str]
    quiet: dict[str, str]
    minutes: int = 30


CASES = [
    Case("GPUFailed", gpu("DEV_XID_ERRORS", "0x10 79x50"), gpu("DEV_XID_ERRORS", "0x10 31x50")),
    Case("GPUReportedXid", gpu("DEV_XID_ERRORS", "0x10 109x50"), gpu("DEV_XID_ERRORS", "0x10 13x50")),
    Case(
        "GPUUncorrectedMemoryErrors",
        gpu("DEV_ECC_DBE_VOL_TOTAL", "0 1x50"),
        gpu("DEV_ECC_DBE_VOL_TOTAL", "0x50"),
    ),
    Case(
        "GPUMemoryWearsOut", gpu("DEV_ECC_DBE_AGG_TOTAL", "4x10 9x50"), gpu("DEV_ECC_DBE_AGG_TOTAL", "4x60")
    ),
    Case(
        "GPURowRemapPending", gpu("DEV_ROW_REMAP_PENDING", "1x60"), gpu("DEV_ROW_REMAP_PENDING", "0x20 1x60")
    ),
    Case("GPURowRemapFailed", gpu("DEV_ROW_REMAP_FAILURE", "0 1x60"), gpu("DEV_ROW_REMAP_FAILURE", "0x60")),
    Case(
        "GPUNVLinkErrors",
        gpu("DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "7x5 9x60"),
        gpu("DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL", "7x60")
        | gpu("DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", "0+1x60"),
    ),
    Case("GPUTooHot", gpu("DEV_GPU_TEMP", "60x10 91x50"), gpu("DEV_GPU_TEMP", "85x60")),
    # 64: heat by hardware; 4: the power limit, which is how a busy GPU runs
    Case(
        "GPUThrottledByHeat",
        gpu("DEV_CLOCK_THROTTLE_REASONS", "68x60"),
        gpu("DEV_CLOCK_THROTTLE_REASONS", "4x60"),
    ),
    Case(
        "GPUThrottledByHardware",
        gpu("DEV_CLOCK_THROTTLE_REASONS", "132x60"),
        gpu("DEV_CLOCK_THROTTLE_REASONS", "72x60"),
    ),
    Case(
        "GPUPowerAboveLimit",
        gpu("DEV_POWER_USAGE", "760x60") | gpu("DEV_POWER_MGMT_LIMIT", "700x60"),
        gpu("DEV_POWER_USAGE", "699x60") | gpu("DEV_POWER_MGMT_LIMIT", "700x60"),
    ),
    Case("HostDown", up("1x5 0x60"), up("0x60") | state("1x60", "maintenance")),
    Case(
        "GPUExporterAbsent",
        up("1x60") | up("1x5 0x60", EXPORTER),
        up("0x60") | up("0x60", EXPORTER),  # the host is down: one alert is enough
    ),
    Case("GPUExporterEmpty", up("1x60", EXPORTER), up("1x60", EXPORTER) | gpu("DEV_GPU_TEMP", "40x60")),
    Case("FacadeAbsent", up("1x60"), facade("workers_alive", "1x60")),
    Case("FacadeErrors", requests(failed=10, answered=90), requests(failed=1, answered=99)),
    Case("FacadeSlow", durations(fast=80, slow=20), durations(fast=99, slow=1)),
    Case("WorkerAbsent", facade("workers_alive", "1x5 0x60"), facade("workers_alive", "2x60")),
    Case(
        "OperationsWait",
        facade("operations", "30x60", 'kind="host.reclaim",state="queued"'),
        facade("operations", "3000x60", 'kind="host.reclaim",state="succeeded"'),
    ),
    Case(
        "HostsInMaintenance",
        facade("hosts", "2x120", 'state="maintenance"'),
        facade("hosts", "0x120", 'state="maintenance"') | facade("hosts", "5x120", 'state="idle"'),
        minutes=90,
    ),
]
