"""How Prometheus finds and labels the bare-metal hosts: plain data, in the shape of a ScrapeConfig.

The facade lists every enrolled host by HTTP service discovery. Each target carries the ledger's name of its
host as `hostname`, so that the series of both exporters join on it.
"""

from __future__ import annotations

from typing import Any

API_VERSION = "monitoring.coreos.com/v1alpha1"
DISCOVERY_PATH = "/api/v1/discovery/prometheus"
META = "__meta_ironyard_"
REFRESH_INTERVAL = "30s"
SCRAPE_INTERVAL = "30s"
SCRAPE_TIMEOUT = "20s"
TOKEN_SECRET = "ironyard-discovery"  # noqa: S105  # names, not values
TOKEN_KEY = "token"  # noqa: S105
# Only what never changes while a host is enrolled. A label with its state would give every series of the host
# a new identity at each change, and for a moment two of each, which makes joins on `hostname` fail for the
# whole fleet. The state is a metric of the facade: ironyard_host_info{hostname, host_id, region, state}.
LABELS = {"hostname": "host", "host_id": "host_id", "region": "region"}
# exporter to job; the rules of kube-prometheus-stack select these jobs
JOBS = {"node": "node-exporter", "dcgm": "dcgm-exporter"}
# dcgm-exporter's own idea of the host's name; the ledger's is `hostname`
DROPPED = {"dcgm": "Hostname"}


def scrape_configs(
    facade_url: str, *, token_secret: str = TOKEN_SECRET, token_key: str = TOKEN_KEY
) -> list[dict[str, Any]]:
    """One ScrapeConfig for each exporter, without a namespace.

    The Secret `token_secret`, in the namespace of these objects, holds the facade's discovery token under
    `token_key`.
    """
    return [_scrape_config(facade_url, exporter, token_secret, token_key) for exporter in JOBS]


def _scrape_config(facade_url: str, exporter: str, token_secret: str, token_key: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "jobName": JOBS[exporter],
        "scrapeInterval": SCRAPE_INTERVAL,
        "scrapeTimeout": SCRAPE_TIMEOUT,
        "httpSDConfigs": [
            {
                "url": f"{facade_url.rstrip('/')}{DISCOVERY_PATH}/{exporter}",
                "refreshInterval": REFRESH_INTERVAL,
                "authorization": {
                    "type": "Bearer",
                    "credentials": {"name": token_secret, "key": token_key},
                },
            }
        ],
        "relabelings": [
            {"action": "replace", "sourceLabels": [META + meta], "targetLabel": label}
            for label, meta in LABELS.items()
        ],
    }
    if exporter in DROPPED:
        spec["metricRelabelings"] = [{"action": "labeldrop", "regex": DROPPED[exporter]}]
    return {
        "apiVersion": API_VERSION,
        "kind": "ScrapeConfig",
        "metadata": {"name": f"ironyard-{JOBS[exporter]}"},
        "spec": spec,
    }
