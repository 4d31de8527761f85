"""Every policy with a stack that it lets pass and one that it refuses, with the reason and the place."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pulumi_policy.policy as sdk
import pytest
from google.protobuf import struct_pb2
from pulumi.runtime.proto import analyzer_pb2
from pulumi_policy.deserialize import SPECIAL_SECRET_SIG, SPECIAL_SIG_KEY, deserialize_properties
from pulumi_policy.proxy import UNKNOWN_STRING_VALUE

from stacks import versions
from stacks.components.base import Component
from stacks.policy.networks import GATEWAY, PRIVILEGED
from stacks.policy.pods import ALLOWED
from stacks.policy.rules import RULES, is_excepted, policies
from stacks.policy.sealed import keep_marks
from stacks.policy.subject import UNKNOWN, Subject, Whole, known
from tests.stacks.policy_stacks import (
    CLAIM,
    PASSING,
    REFUSED,
    RESOURCES,
    WEB,
    config_map,
    deployment,
    namespace,
    release,
    subject,
    with_env,
)


def faults(name: str, subjects: tuple[Subject, ...], config: Mapping[str, Any] | None = None) -> list[str]:
    row = RULES[name]
    if row.stack_rule is not None:
        return [str(fault) for _, fault in row.stack_rule(Whole(subjects), config or {})]
    assert row.rule is not None
    return [str(fault) for one in subjects for fault in row.rule(one, config or {})]


def test_each_policy_has_a_stack_that_passes_and_one_that_is_refused() -> None:
    assert PASSING.keys() == REFUSED.keys() == RULES.keys()
    assert all(row.level.value == "mandatory" for row in RULES.values())


@pytest.mark.parametrize(("name", "stack"), [(name, stack) for name in PASSING for stack in PASSING[name]])
def test_passes(name: str, stack: tuple[Subject, ...]) -> None:
    assert faults(name, stack) == []


@pytest.mark.parametrize(("name", "case"), [(name, case) for name in REFUSED for case in REFUSED[name]])
def test_is_refused_with_the_place_the_reason_and_what_to_do(
    name: str, case: tuple[tuple[Subject, ...], str]
) -> None:
    stack, words = case
    found = faults(name, stack)
    assert len([fault for fault in found if words in fault]) == 1, found
    assert all(fault.endswith(".") and fault.count(". ") >= 1 for fault in found)


def test_what_is_demanded_of_containers_can_be_configured() -> None:
    lean = deployment(containers=[{**WEB, "resources": {**RESOURCES, "limits": {"memory": "1Gi"}}}])
    assert faults("resources-set", (lean,)) != []
    assert faults("resources-set", (lean,), {"limits": ["memory"]}) == []


def test_charts_and_data_can_be_configured() -> None:
    own = release(versions.Chart("own", "2.0.0", "oci://example.org/charts"))
    assert faults("charts-pinned", (own,)) != []
    assert faults("charts-pinned", (own,), {"pins": {"own": "2.0.0"}}) == []
    assert faults("charts-pinned", (own,), {"pins": {"own": "2.0.1"}}) != []
    assert faults("data-protected", (own,)) == []
    assert faults("data-protected", (own,), {"charts": ["own"]}) != []


def test_the_stack_s_own_versions_are_pins_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    older = release(props={"version": "1.18.0"})
    config = {"ironyard-platform:cluster": json.dumps({"versions": {"harbor": "1.18.0"}})}
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(config))
    assert faults("charts-pinned", (older,)) == []
    assert faults("charts-pinned", (release(),)) != []
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps({"ironyard-platform:cluster": "[]"}))
    assert faults("charts-pinned", (older,)) != []


def test_an_exception_names_one_resource() -> None:
    config = {"exceptions": [{"resource": "web*", "reason": "being replaced"}]}
    assert is_excepted(deployment(name="web-2"), config)
    assert not is_excepted(deployment(name="api"), config)
    by_urn = {"exceptions": [{"resource": "*ironyard:platform:Gpu$*::web", "reason": "x"}]}
    assert is_excepted(deployment(component="Gpu"), by_urn)
    assert not is_excepted(deployment(component="Cache"), by_urn)


def test_each_allowance_says_why_and_names_a_component() -> None:
    components = {f"ironyard:platform:{one.__name__}" for one in Component.known.values()}
    assert all(one.reason and one.powers for one in ALLOWED)
    assert {GATEWAY, *PRIVILEGED, *(one.component for one in ALLOWED)} <= components


# What follows goes through the SDK as the engine's messages do.

SECRET = {SPECIAL_SIG_KEY: SPECIAL_SECRET_SIG}


@contextmanager
def analyzer() -> Iterator[Any]:
    before = vars(sdk)["deserialize_properties"]
    keep_marks()
    try:
        yield sdk._PolicyAnalyzerServicer("ironyard", "1", policies(), sdk.EnforcementLevel.MANDATORY)
    finally:
        vars(sdk)["deserialize_properties"] = before


def request(one: Subject, cls: Any = analyzer_pb2.AnalyzeRequest) -> Any:
    props = struct_pb2.Struct()
    props.update(dict(one.props))
    options = analyzer_pb2.AnalyzerResourceOptions(protect=one.protect)
    return cls(type=one.type, urn=one.urn, name=one.name, properties=props, options=options)


def diagnostics(one: Subject, policy: str | None = None) -> list[str]:
    with analyzer() as servicer:
        found = servicer.Analyze(request(one), None).diagnostics
    return [item.message for item in found if policy in (None, item.policyName)]


def test_a_marked_secret_passes_and_the_same_text_unmarked_does_not() -> None:
    plain = release(values={"harborAdminPassword": "hunter22"})
    marked = release(values={"harborAdminPassword": {**SECRET, "value": "hunter22"}})
    all_marked = Subject(
        plain.type, "x", {**plain.props, "values": {**SECRET, "value": plain.props["values"]}}
    )
    assert diagnostics(plain) == [
        """No password, token or key lies open.
values.harborAdminPassword: harborAdminPassword lies open in the state. \
Name an existing Secret, or mark the value with pulumi.Output.secret."""
    ]
    assert diagnostics(marked) == diagnostics(all_marked) == []


def test_the_secret_itself_is_never_told() -> None:
    told = diagnostics(with_env(name="API_TOKEN", value="hunter22")) + diagnostics(
        config_map(password="hunter22")
    )
    assert len(told) == 2
    assert not any("hunter22" in message for message in told)


def test_a_value_that_is_not_known_yet_hides_no_fault() -> None:
    half_known = deployment(
        containers=[{**WEB, "image": UNKNOWN_STRING_VALUE}, {**WEB, "image": "web:latest"}],
        pod={"serviceAccountName": UNKNOWN_STRING_VALUE},
    )
    assert [message for message in diagnostics(half_known) if "newest" in message]
    assert not [message for message in diagnostics(half_known) if "known during preview" in message]
    sealed = release(values={"password": {**SECRET, "value": UNKNOWN_STRING_VALUE}})
    assert diagnostics(sealed) == []


def test_the_whole_stack_is_looked_at_and_the_fault_names_its_resource() -> None:
    held = subject("core/v1:PersistentVolumeClaim", name="disk", protect=True, **CLAIM)
    stack = analyzer_pb2.AnalyzeStackRequest(
        resources=[
            request(one, analyzer_pb2.AnalyzerResource)
            for one in (namespace(name="shop"), held, deployment())
        ]
    )
    with analyzer() as servicer:
        found = servicer.AnalyzeStack(stack, None).diagnostics
    assert {(item.policyName, item.urn.rsplit("::", 1)[-1]) for item in found} == {
        ("data-homes-protected", "shop"),
        ("network-policies", "web"),
    }


def configured(servicer: Any, policy: str, level: int, **properties: Any) -> None:
    config = analyzer_pb2.PolicyConfig(enforcementLevel=level)
    config.properties.update(properties)
    servicer.Configure(analyzer_pb2.ConfigureAnalyzerRequest(policyConfig={policy: config}), None)


def test_levels_and_exceptions_come_from_the_policy_configuration() -> None:
    bad = request(deployment(containers=[{**WEB, "image": "web:latest"}]))
    with analyzer() as servicer:
        configured(servicer, "images-pinned", analyzer_pb2.ADVISORY)
        assert [one.enforcementLevel for one in servicer.Analyze(bad, None).diagnostics] == [
            analyzer_pb2.ADVISORY
        ]
        exception = {"resource": "web", "reason": "a demonstration"}
        configured(servicer, "images-pinned", analyzer_pb2.MANDATORY, exceptions=[exception])
        assert list(servicer.Analyze(bad, None).diagnostics) == []


def test_the_engine_is_told_what_can_be_configured() -> None:
    with analyzer() as servicer:
        told = {one.name: one for one in servicer.GetAnalyzerInfo(None, None).policies}
    assert told.keys() == RULES.keys()
    assert all("exceptions" in one.configSchema.properties for one in told.values())
    assert "pins" in told["charts-pinned"].configSchema.properties


def test_assets_are_read_as_the_sdk_reads_them() -> None:
    with analyzer():
        read = vars(sdk)["deserialize_properties"]
        document = {
            "a": {SPECIAL_SIG_KEY: "c44067f5952c0a294b673a41bacd8c17", "text": "x"},
            "b": [1, {"c": None}],
        }
        ours, theirs = read(document), deserialize_properties(document)
    assert ours["a"].text == theirs["a"].text
    assert ours["b"] == theirs["b"]


def test_known_keeps_what_is_known() -> None:
    proxy = sdk.unknown_checking_proxy({"a": [UNKNOWN_STRING_VALUE, 1], "b": {"c": UNKNOWN_STRING_VALUE}})
    assert known(proxy) == {"a": [UNKNOWN, 1], "b": {"c": UNKNOWN}}
