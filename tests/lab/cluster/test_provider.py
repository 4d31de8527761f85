"""The stand-in provider's rules that need no cluster."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pulumi.provider.experimental.property_value import PropertyValue

from tests.lab.cluster.provider import awaits
from tests.lab.cluster.provider.api import Api
from tests.lab.cluster.provider.documents import (
    INPUTS,
    UNKNOWN,
    differences,
    document,
    has_unknown,
    plain,
    properties,
    wrapped,
)
from tests.lab.cluster.provider.errors import Failure
from tests.lab.cluster.provider.objects import AUTONAMED, Objects, drifted, type_of
from tests.lab.cluster.provider.releases import Releases
from tests.lab.cluster.provider.service import stated, token_of

URN = "urn:pulumi:test::p::own:Part$kubernetes:core/v1:ConfigMap::settings"
SEEN = {"observedGeneration": 1}
CONFIG_MAP = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}


@pytest.fixture
def objects() -> Objects:
    return Objects(Api("/nowhere", None), None, {})


def test_a_name_that_is_missing_is_made_once_and_kept(objects: Objects) -> None:
    first = objects.check("kubernetes:core/v1:ConfigMap", URN, {}, {"data": {}}, b"one")
    again = objects.check("kubernetes:core/v1:ConfigMap", URN, first, {"data": {"k": "v"}}, b"two")
    assert first["metadata"]["name"].startswith("settings-")
    assert first["metadata"]["annotations"] == {AUTONAMED: "true"}
    assert again["metadata"] == first["metadata"]
    assert (first["apiVersion"], first["kind"]) == ("v1", "ConfigMap")


def test_the_provider_s_namespace_is_for_objects_that_name_none() -> None:
    within = Objects(Api("/nowhere", None), "own", {})
    token = "kubernetes:core/v1:ConfigMap"
    assert within.check(token, URN, {}, {"metadata": {"name": "a"}}, b"")["metadata"]["namespace"] == "own"
    named = {"metadata": {"name": "a", "namespace": "other"}}
    assert within.check(token, URN, {}, named, b"")["metadata"]["namespace"] == "other"


@pytest.mark.parametrize("token", ["kubernetes:yaml/v2:ConfigGroup", "kubernetes:core/v1:ServicePatch"])
def test_what_only_the_real_provider_does_is_said(token: str, objects: Objects) -> None:
    with pytest.raises(Failure, match="real Kubernetes provider"):
        objects.check(token, URN, {}, {}, b"")


@pytest.mark.parametrize(
    ("kind", "paths", "settings", "forced"),
    [
        ("Deployment", ["spec.replicas"], {}, []),
        ("Deployment", ["spec.selector.matchLabels.app"], {}, ["spec.selector.matchLabels.app"]),
        ("Job", ["spec.template.spec.containers[0].image"], {}, ["spec.template.spec.containers[0].image"]),
        ("Job", ["spec.backoffLimit"], {}, []),
        ("ConfigMap", ["data.k"], {}, ["data.k"]),
        ("ConfigMap", ["data.k"], {"enableConfigMapMutable": "true"}, []),
        ("Secret", ['data["a.b"]'], {"enableSecretMutable": "true"}, []),
        ("Namespace", ["metadata.labels.team"], {}, []),
        ("Namespace", ["metadata.name"], {}, ["metadata.name"]),
    ],
)
def test_what_replaces(kind: str, paths: list[str], settings: dict[str, str], forced: list[str]) -> None:
    objects = Objects(Api("/nowhere", None), None, settings)
    assert objects.replaces({"kind": kind}, paths)[0] == forced


def test_an_object_of_the_same_name_goes_before_its_replacement(objects: Objects) -> None:
    assert objects.replaces({"kind": "ConfigMap"}, ["data.k"]) == (["data.k"], True)
    assert objects.replaces({"kind": "ConfigMap"}, ["metadata.name"]) == (["metadata.name"], False)


def test_differences_have_property_paths() -> None:
    old = {"a": {"b.c": 1, "d": [1, 2]}, "e": 1, "n": None}
    new = {"a": {"b.c": 2, "d": [1, 2, 3]}, "f": 1}
    assert list(differences(old, new)) == [
        ('a["b.c"]', "update"),
        ("a.d[2]", "add"),
        ("e", "delete"),
        ("f", "add"),
    ]


def test_drift_shows_only_what_is_spoken_of() -> None:
    live = {**CONFIG_MAP, "data": {"k": "changed", "other": "x"}, "status": {}}
    assert drifted(CONFIG_MAP, live)["data"] == {"k": "changed"}
    assert "data" not in drifted(CONFIG_MAP, {"metadata": {"name": "a"}})


def test_whole_numbers_are_integers() -> None:
    given = PropertyValue(
        {"port": PropertyValue(80.0), "share": PropertyValue(0.5), "on": PropertyValue(value=True)}
    )
    assert repr(plain(given)) == "{'port': 80, 'share': 0.5, 'on': True}"


def test_what_was_secret_stays_secret() -> None:
    like = {"user": wrapped("u", secret=True), "deep": wrapped([{"name": "a", "password": "p"}])}
    shown = properties({"user": "other", "deep": [{"name": "a", "password": "p"}]}, like)
    assert shown["user"].is_secret
    assert not shown["deep"].contains_secret()


def test_a_secret_s_data_is_secret_whatever_it_was_made_from() -> None:
    live = {"kind": "Secret", "metadata": {"name": "a", "managedFields": []}, "data": {"k": "dg=="}}
    outputs = stated(live, {"stringData": PropertyValue({"k": PropertyValue("v")}, is_secret=True)})
    assert outputs["data"].is_secret
    assert outputs[INPUTS].contains_secret()
    assert plain(outputs["metadata"]) == {"name": "a"}
    assert document(outputs)["data"] == {"k": "dg=="}


def test_the_type_is_the_resource_s_own() -> None:
    assert token_of(URN) == "kubernetes:core/v1:ConfigMap"
    assert type_of("kubernetes:apps/v1:Deployment") == ("apps/v1", "Deployment")
    assert type_of("kubernetes:core/v1:Secret") == ("v1", "Secret")


def test_unknown_values_are_seen_at_any_depth() -> None:
    assert has_unknown({"a": [{"b": UNKNOWN}]})
    assert not has_unknown({"a": [{"b": "c"}]})


@pytest.mark.parametrize(
    ("live", "lacking"),
    [
        ({"kind": "ConfigMap"}, None),
        ({"kind": "Namespace", "status": {"phase": "Active"}}, None),
        ({"kind": "Job", "status": {}}, "the job has not completed"),
        ({"kind": "Pod", "status": {"phase": "Succeeded"}}, None),
        (
            {
                "kind": "Deployment",
                "spec": {"replicas": 2},
                "status": {"observedGeneration": 1, "updatedReplicas": 2},
            },
            "0 of 2 availableReplicas",
        ),
        (
            {
                "kind": "DaemonSet",
                "status": {"observedGeneration": 1, "desiredNumberScheduled": 2, "numberReady": 1},
            },
            "0 of 2 nodes run it",
        ),
        ({"kind": "Service", "spec": {"type": "LoadBalancer"}}, "the load balancer has no address"),
        ({"kind": "Service", "spec": {"type": "ExternalName"}}, None),
    ],
)
def test_what_is_waited_for(live: dict[str, Any], lacking: str | None) -> None:
    assert awaits.pending(Api("/nowhere", None), {"metadata": {"generation": 1}, **live}) == lacking


def test_waiting_can_be_switched_off() -> None:
    live = {"kind": "Job", "metadata": {"annotations": {awaits.SKIP: "true"}}, "status": {}}
    assert awaits.pending(Api("/nowhere", None), live) is None


def test_a_failed_job_is_not_waited_for() -> None:
    failed = {"type": "Failed", "status": "True", "message": "BackoffLimitExceeded"}
    live = {"kind": "Job", "metadata": {}, "status": {"conditions": [failed]}}
    with pytest.raises(awaits.WillNotBeReady, match="BackoffLimitExceeded"):
        awaits.pending(Api("/nowhere", None), live)


def test_a_release_without_a_name_gets_one_and_keeps_it() -> None:
    releases = Releases(Api("/nowhere", None), None, threading.Event())
    first = releases.check(URN, {}, {"chart": "oci://x/y"}, b"seed")
    assert first["name"].startswith("settings-")
    assert releases.check(URN, first, {"chart": "oci://x/y"}, b"other")["name"] == first["name"]
    assert first["namespace"] == "default"
    with pytest.raises(Failure, match="valueYamlFiles"):
        releases.check(URN, {}, {"chart": "x", "valueYamlFiles": ["a"]}, b"")
