"""Rules about what holds data."""

from __future__ import annotations

from collections.abc import Iterator

from stacks.policy.subject import Config, Fault, Subject, Whole, at

DATA_CHARTS = ("seaweedfs", "minio", "rustfs", "rook-ceph-cluster")
REMEDY = "Give it protect=True, so that no update or destroy removes data unasked"


def data_is_protected(subject: Subject, config: Config) -> Iterator[Fault]:
    """`charts` of the configuration names further charts whose releases hold data."""
    what = _data(subject, (*DATA_CHARTS, *config.get("charts", ())))
    if what and not subject.protect and not subject.is_patch:
        yield Fault("", f"{what} is not protected", REMEDY)


def homes_of_data_are_protected(whole: Whole, _config: Config) -> Iterator[tuple[Subject, Fault]]:
    """Deleting a namespace deletes the data in it."""
    inside: dict[str, Subject] = {}
    for subject in whole.subjects:
        if subject.protect and subject.namespace:
            inside.setdefault(subject.namespace, subject)
    for space in whole.of_kind("Namespace"):
        name = at(space.props, "metadata", "name")
        if isinstance(name, str) and name in inside and not space.protect:
            held = inside[name]
            yield (
                space,
                Fault("", f"namespace {name} holds {held.name}, which is protected, and is not", REMEDY),
            )


def _data(subject: Subject, charts: tuple[str, ...]) -> str:
    if subject.is_chart and subject.chart in charts:
        return f"chart {subject.chart}, which holds data,"
    if subject.in_cluster:
        match subject.group, subject.kind:
            case "core", "PersistentVolumeClaim" | "PersistentVolume":
                return f"a {subject.kind}"
            case "apps", "StatefulSet" if at(subject.props, "spec", "volumeClaimTemplates"):
                return "a StatefulSet with volumes"
            case "postgresql.cnpg.io", "Cluster":
                return "a PostgreSQL cluster"
        return ""
    return "a bucket" if subject.kind.lower().removesuffix("v2").endswith("bucket") else ""
