"""A ScrapeConfig of Prometheus's operator as Prometheus's own configuration spells it."""

from __future__ import annotations

import re
from typing import Any

# where Prometheus's own name is not the operator's in snake case
RENAMED = {
    "httpSDConfigs": "http_sd_configs",
    "relabelings": "relabel_configs",
    "metricRelabelings": "metric_relabel_configs",
}


def own_form(part: Any) -> Any:
    if isinstance(part, list):
        return [own_form(item) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        RENAMED.get(name, re.sub(r"(?<!^)([A-Z])", r"_\1", name).lower()): own_form(value)
        for name, value in part.items()
    }
