"""The rules of the policy pack, by name; `policies()` is what the engine runs.

Each is a plain function, so that it can be tried without the engine. All are mandatory unless their row
says otherwise; the pack's configuration changes that, and names exceptions with their reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from pulumi_policy import (
    EnforcementLevel,
    Policy,
    PolicyConfigSchema,
    PolicyResource,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)

from stacks.policy import charts, data, networks, pods, secrecy
from stacks.policy.subject import Config, Rule, StackRule, Subject, Whole, known

NAMES = {"type": "array", "items": {"type": "string"}}
EXCEPTIONS = {
    "type": "array",
    "description": "resources, by a pattern of their names, that this rule does not hold for",
    "items": {
        "type": "object",
        "properties": {"resource": {"type": "string"}, "reason": {"type": "string", "minLength": 1}},
        "required": ["resource", "reason"],
        "additionalProperties": False,
    },
}


@dataclass(frozen=True)
class Row:
    """`properties` are JSON schemas of what can be configured beside `exceptions`."""

    description: str
    rule: Rule | None = None
    stack_rule: StackRule | None = None
    level: EnforcementLevel = EnforcementLevel.MANDATORY
    properties: dict[str, dict[str, Any]] = field(default_factory=dict)


RULES = {
    "resources-set": Row(
        "Every container has requests and limits.",
        pods.resources_are_set,
        properties={"requests": NAMES, "limits": NAMES},
    ),
    "images-pinned": Row("Every image has an exact tag or a digest.", pods.images_are_pinned),
    "pods-confined": Row(
        "No container is privileged, shares the node's namespaces or paths, or has added capabilities.",
        pods.pods_are_confined,
    ),
    "charts-pinned": Row(
        "Every chart has the exact version that stacks/versions.py pins.",
        charts.charts_are_pinned,
        properties={"pins": {"type": "object", "additionalProperties": {"type": "string"}}},
    ),
    "data-protected": Row(
        "What holds data is protected.", data.data_is_protected, properties={"charts": NAMES}
    ),
    "data-homes-protected": Row(
        "A namespace that holds protected data is protected.", stack_rule=data.homes_of_data_are_protected
    ),
    "secrets-kept": Row("No password, token or key lies open.", secrecy.secrets_are_kept),
    "services-inside": Row("Only the gateway can be reached from outside.", networks.services_stay_inside),
    "namespaces-confined": Row(
        "Every namespace names a level of the Pod Security Standards.", networks.namespaces_confine_pods
    ),
    "network-policies": Row(
        "Every namespace with workloads has a network policy.",
        stack_rule=networks.namespaces_have_network_policies,
    ),
}


def policies() -> list[Policy]:
    """RULES as the engine takes them."""
    return [_policy(name, row) for name, row in RULES.items()]


def _policy(name: str, row: Row) -> Policy:
    schema = PolicyConfigSchema({"exceptions": EXCEPTIONS, **row.properties})
    if row.stack_rule is not None:
        check = _stack_check(row.stack_rule)
        return StackValidationPolicy(name, row.description, check, row.level, schema)
    assert row.rule is not None
    return ResourceValidationPolicy(name, row.description, _check(row.rule), row.level, schema)


def _check(rule: Rule) -> Any:
    def validate(args: ResourceValidationArgs, report: ReportViolation) -> None:
        config = known(args.get_config())
        subject = _subject(args)
        if not is_excepted(subject, config):
            for fault in rule(subject, config):
                report(str(fault), None)

    return validate


def _stack_check(rule: StackRule) -> Any:
    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        config = known(args.get_config())
        for subject, fault in rule(Whole([_subject(one) for one in args.resources]), config):
            if not is_excepted(subject, config):
                report(str(fault), subject.urn)

    return validate


def _subject(args: ResourceValidationArgs | PolicyResource) -> Subject:
    return Subject(args.resource_type, args.name, known(args.props), args.opts.protect, args.urn)


def is_excepted(subject: Subject, config: Config) -> bool:
    """Whether the configuration names it, by its name or by its URN."""
    listed: Iterable[Any] = config.get("exceptions", ())
    return any(
        fnmatchcase(subject.name, one["resource"]) or fnmatchcase(subject.urn, one["resource"])
        for one in listed
    )
