"""Which changes an API does not take in place: the object is made anew."""

from __future__ import annotations

ALWAYS = ("apiVersion", "kind", "metadata.name", "metadata.namespace")
# kind → property paths; a change at or below one of them replaces
IMMUTABLE: dict[str, tuple[str, ...]] = {
    "ClusterRoleBinding": ("roleRef",),
    "ConfigMap": ("binaryData", "data"),
    "DaemonSet": ("spec.selector",),
    "Deployment": ("spec.selector",),
    "Job": ("spec.completionMode", "spec.selector", "spec.template"),
    "PersistentVolumeClaim": (
        "spec.accessModes",
        "spec.selector",
        "spec.storageClassName",
        "spec.volumeMode",
        "spec.volumeName",
    ),
    "RoleBinding": ("roleRef",),
    "Secret": ("data", "stringData", "type"),
    "Service": ("spec.clusterIP",),
    "StatefulSet": (
        "spec.podManagementPolicy",
        "spec.selector",
        "spec.serviceName",
        "spec.volumeClaimTemplates",
    ),
    "StorageClass": ("parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"),
}
# the provider's settings that let these be changed in place
MUTABLE_SETTINGS = {"ConfigMap": "enableConfigMapMutable", "Secret": "enableSecretMutable"}


def replacing(kind: str, paths: list[str], settings: dict[str, str]) -> list[str]:
    """Those of the changed `paths` that force a replacement."""
    immutable = IMMUTABLE.get(kind, ())
    if settings.get(MUTABLE_SETTINGS.get(kind, ""), "").lower() == "true":
        immutable = ()
    return [path for path in paths if any(_within(path, root) for root in (*ALWAYS, *immutable))]


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith((f"{root}.", f"{root}["))
