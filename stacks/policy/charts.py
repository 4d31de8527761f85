"""Rules about Helm charts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pulumi

from stacks import versions
from stacks.policy.subject import UNKNOWN, Config, Fault, Subject

PROJECT = "ironyard-platform"
EXACT = re.compile(r"^v?\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$")
PINS = {chart.name: chart.version for chart in versions.CHARTS}


def chosen() -> dict[str, str]:
    """Versions that the stack's own configuration asks for, which the engine hands to policies as well."""
    try:
        cluster = json.loads(pulumi.runtime.get_config_env().get(f"{PROJECT}:cluster", "{}"))
        return {str(name): str(version) for name, version in cluster.get("versions", {}).items()}
    except (ValueError, AttributeError):
        return {}  # the program refuses such a configuration itself


def charts_are_pinned(subject: Subject, config: Config) -> Iterator[Fault]:
    """Each chart has the exact version of stacks/versions.py.

    `versions` of the stack's cluster section, and `pins` of this policy's configuration, name others.
    """
    if not subject.is_chart:
        return
    given, pins = subject.props.get("version"), PINS | chosen() | dict(config.get("pins", {}))
    if UNKNOWN in (given, subject.props.get("chart")):
        return
    if subject.props.get("devel") is True:
        yield Fault("devel", "development versions are taken as well", "Leave it out; the version is exact")
    if not isinstance(given, str) or not given:
        yield Fault("version", f"chart {subject.chart} has no version", "Pin it in stacks/versions.py")
    elif not EXACT.fullmatch(given):
        yield Fault("version", f"{given} is not one exact version", "Pin one in stacks/versions.py")
    elif subject.chart not in pins:
        yield Fault(
            "chart",
            f"{subject.chart or 'this chart'} is not pinned",
            "Add it to stacks/versions.py, or to `pins` of this policy's configuration",
        )
    elif given != pins[subject.chart]:
        yield Fault(
            "version",
            f"{given} is not the pinned {pins[subject.chart]} of {subject.chart}",
            "Use the pin, or change it in stacks/versions.py",
        )
