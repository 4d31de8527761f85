"""Rules about namespaces and the ways into them."""

from __future__ import annotations

from collections.abc import Iterator

from stacks.policy.pods import free_form, is_workload
from stacks.policy.subject import UNKNOWN, Config, Fault, Subject, Whole, at

GATEWAY = "ironyard:platform:Gateway"
EXPOSED = ("nodeport", "loadbalancer")
ENFORCE = "pod-security.kubernetes.io/enforce"
LEVELS = ("restricted", "baseline", "privileged")
PRIVILEGED = {
    "ironyard:platform:Gpu": "drivers and profiling counters need the node",
    "ironyard:platform:Monitoring": "node exporter reads the node's own counters",
}
OPERATED = {"postgresql.cnpg.io": "Cluster"}  # workloads that an operator makes pods of
POLICY_KINDS = ("NetworkPolicy", "CiliumNetworkPolicy")


def services_stay_inside(subject: Subject, _config: Config) -> Iterator[Fault]:
    """Only the gateway has a port on nodes or a load balancer."""
    if subject.component == GATEWAY:
        return
    if subject.in_cluster and (subject.group, subject.kind) == ("core", "Service"):
        nested = [("spec.type", "type", at(subject.props, "spec", "type"))]
        if at(subject.props, "spec", "externalIPs"):
            yield Fault("spec.externalIPs", "the service takes over addresses of nodes", "Leave it out")
    else:
        nested = list(free_form(subject))
    for path, key, value in nested:
        if key.lower().endswith("type") and isinstance(value, str) and value.lower() in EXPOSED:
            yield Fault(path, f"{value} opens a way past the gateway", "Use ClusterIP and an HTTPRoute")


def namespaces_confine_pods(subject: Subject, _config: Config) -> Iterator[Fault]:
    """Each namespace names its level of the Pod Security Standards."""
    if not subject.in_cluster or (subject.group, subject.kind) != ("core", "Namespace") or subject.is_patch:
        return
    labels = at(subject.props, "metadata", "labels")
    level = at(labels, ENFORCE)
    if UNKNOWN in (labels, level):
        return
    path = f'metadata.labels["{ENFORCE}"]'
    if level not in LEVELS:
        what = "is not set" if level is None else f"is {level}"
        yield Fault(path, f"the pod security level {what}", f"Set one of {', '.join(LEVELS)}")
    elif level == "privileged" and subject.component not in PRIVILEGED:
        yield Fault(path, "pods may do anything", "Use restricted or baseline")


def namespaces_have_network_policies(whole: Whole, _config: Config) -> Iterator[tuple[Subject, Fault]]:
    """A namespace with workloads says who may talk to them."""
    guarded = {one.namespace for one in whole.of_kind(*POLICY_KINDS)}
    reported: set[str] = set()
    for subject in whole.subjects:
        space = subject.namespace
        if space and _runs_pods(subject) and space not in guarded | reported:
            reported.add(space)
            yield (
                subject,
                Fault(
                    "",
                    f"namespace {space} runs {subject.name} and has no network policy",
                    "Register a NetworkPolicy there that denies what is not needed",
                ),
            )


def _runs_pods(subject: Subject) -> bool:
    return is_workload(subject) or subject.is_chart or OPERATED.get(subject.group) == subject.kind
