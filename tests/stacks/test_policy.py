"""Every policy with a stack that it lets pass and one that it refuses, with the reason and the place."""

from __future__ import annotations

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
from stacks.policy.pods import ALLOWED
from stacks.policy.rules import RULES, is_excepted, policies
from stacks.policy.sealed import keep_marks
from stacks.policy.subject import UNKNOWN, Sealed, Subject, Whole, known

RESOURCES = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
WEB = {"name": "web", "image": "ghcr.io/example/web:1.4.2", "resources": RESOURCES}
PLATFORM = "urn:pulumi:local::ironyard-platform::ironyard:platform:"


def subject(
    kind: str, *, name: str = "web", component: str = "", protect: bool = False, **props: Any
) -> Subject:
    token = kind if ":" in kind and kind.startswith(("pulumi:", "aws:")) else f"kubernetes:{kind}"
    urn = f"{PLATFORM}{component}${token}::{name}" if component else f"urn:pulumi:local::p::{token}::{name}"
    return Subject(token, name, props, protect, urn)


def deployment(*, containers: Any = (WEB,), **more: Any) -> Subject:
    pod = {"containers": list(containers), **more.pop("pod", {})}
    metadata = {"name": "web", "namespace": "shop"}
    return subject("apps/v1:Deployment", metadata=metadata, spec={"template": {"spec": pod}}, **more)


def release(chart: versions.Chart = versions.HARBOR, *, values: Any = None, **more: Any) -> Subject:
    props = {"chart": chart.name, "version": chart.version, "namespace": "shop", **more.pop("props", {})}
    return subject(
        "helm.sh/v3:Release", name=more.pop("name", chart.name), values=values or {}, **props, **more
    )


def namespace(*, level: str | None = "restricted", **more: Any) -> Subject:
    labels = {} if level is None else {"pod-security.kubernetes.io/enforce": level}
    return subject("core/v1:Namespace", metadata={"name": "shop", "labels": labels}, **more)


def config_map(**data: str) -> Subject:
    return subject("core/v1:ConfigMap", metadata={"name": "web"}, data=data)


def with_env(**variable: Any) -> Subject:
    return deployment(containers=[{**WEB, "env": [variable]}])


NETWORK_POLICY = subject(
    "networking.k8s.io/v1:NetworkPolicy", metadata={"name": "default", "namespace": "shop"}
)
CLAIM = {
    "metadata": {"name": "data", "namespace": "shop"},
    "spec": {"resources": {"requests": {"storage": "1Gi"}}},
}

PASSING: dict[str, list[tuple[Subject, ...]]] = {
    "resources-set": [
        (deployment(), subject("core/v1:Service", metadata={}, spec={"type": "ClusterIP"})),
        (
            release(
                values={
                    "core": {"resources": RESOURCES},
                    "data": {"resources": {"requests": {"storage": "1"}}},
                }
            ),
        ),
        (subject("apps/v1:DeploymentPatch", spec={"template": {"spec": {"containers": [{"name": "web"}]}}}),),
    ],
    "images-pinned": [
        (deployment(), deployment(containers=[{**WEB, "image": "web@sha256:" + "0" * 64}])),
        (deployment(containers=[{**WEB, "image": "localhost:5000/web:1"}]),),
        (deployment(containers=[{**WEB, "image": UNKNOWN}]),),
        (
            release(
                values={
                    "image": {"repository": "goharbor/core", "tag": "v2.15.1"},
                    "exporter": {"image": "a/b"},
                }
            ),
        ),
        (
            subject(
                "postgresql.cnpg.io/v1:Cluster", spec={"imageName": "ghcr.io/cloudnative-pg/postgresql:17.6"}
            ),
        ),
    ],
    "pods-confined": [
        (deployment(pod={"hostNetwork": False, "volumes": [{"name": "tmp", "emptyDir": {}}]}),),
        (
            deployment(
                containers=[
                    {**WEB, "securityContext": {"privileged": False, "capabilities": {"drop": ["ALL"]}}}
                ]
            ),
        ),
        (release(versions.GPU_OPERATOR, component="Gpu", values={"driver": {"privileged": True}}),),
        (
            release(
                versions.PROMETHEUS_STACK, component="Monitoring", values={"nodeExporter": {"hostPID": True}}
            ),
        ),
        (release(versions.DCGM_EXPORTER, component="Gpu", values={"capabilities": {"add": ["SYS_ADMIN"]}}),),
    ],
    "charts-pinned": [
        (release(),),
        (release(versions.CERT_MANAGER, props={"chart": "oci://mirror.example/charts/cert-manager"}),),
        (release(props={"version": UNKNOWN}),),
        (deployment(),),
    ],
    "data-protected": [
        (subject("core/v1:PersistentVolumeClaim", protect=True, **CLAIM),),
        (subject("postgresql.cnpg.io/v1:Cluster", protect=True, spec={"instances": 1}),),
        (release(versions.SEAWEEDFS, protect=True), release(versions.HARBOR)),
        (subject("apps/v1:StatefulSet", spec={"template": {"spec": {"containers": [WEB]}}}),),
        (subject("aws:s3/bucket:Bucket", protect=True),),
    ],
    "data-homes-protected": [
        (namespace(protect=True), subject("core/v1:PersistentVolumeClaim", protect=True, **CLAIM)),
        (namespace(), deployment()),
    ],
    "secrets-kept": [
        (with_env(name="DATABASE_PASSWORD", valueFrom={"secretKeyRef": {"name": "db", "key": "password"}}),),
        (
            with_env(name="PASSWORD_FILE", value="/run/secrets/password"),
            with_env(name="API_TOKEN", value="$(OTHER)"),
        ),
        (with_env(name="TOKEN", value="/run/secrets/token"), with_env(name="TOKEN_LIFETIME", value="3600")),
        (
            config_map(
                **{"app.ini": "token_lifetime = 3600\npassword = ${DB_PASSWORD}\nurl = https://example.org/"}
            ),
        ),
        (
            release(
                values={"harborAdminPassword": Sealed("x"), "existingSecretAdminPassword": "harbor-admin"}
            ),
        ),
        (release(values={"tlsSecret": "harbor-tls", "passwordKey": "admin-password", "createToken": True}),),
        (
            subject(
                "core/v1:Secret", metadata={}, stringData={"password": Sealed("hunter2"), "port": Sealed("1")}
            ),
        ),
        (subject("pulumi:providers:kubernetes", kubeconfig=Sealed("users:\n- user:\n    token: abc")),),
        (subject("pulumi:providers:kubernetes", kubeconfig="/home/ada/.kube/config"),),
    ],
    "services-inside": [
        (subject("core/v1:Service", metadata={}, spec={"type": "ClusterIP"}),),
        (subject("core/v1:Service", metadata={}, spec={"ports": [{"port": 80}]}),),
        (release(values={"expose": {"type": "clusterIP"}}),),
        (
            subject(
                "gateway.envoyproxy.io/v1alpha1:EnvoyProxy",
                component="Gateway",
                spec={"s": {"type": "LoadBalancer"}},
            ),
        ),
    ],
    "namespaces-confined": [
        (namespace(), namespace(level="baseline")),
        (namespace(level="privileged", component="Gpu"),),
    ],
    "network-policies": [
        (deployment(), NETWORK_POLICY),
        (release(), NETWORK_POLICY),
        (namespace(), config_map(a="b")),
    ],
}

REFUSED: dict[str, list[tuple[tuple[Subject, ...], str]]] = {
    "resources-set": [
        (
            (deployment(containers=[{**WEB, "resources": {"requests": RESOURCES["requests"]}}]),),
            "spec.template.spec.containers[0].resources: limits.cpu, limits.memory not set",
        ),
        (
            (deployment(pod={"initContainers": [{"name": "init", "image": "a:1"}]}),),
            "spec.template.spec.initContainers[0].resources: requests.cpu, requests.memory, limits.cpu,",
        ),
        (
            (
                subject(
                    "batch/v1:CronJob",
                    spec={"jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}},
                ),
            ),
            "spec.jobTemplate.spec.template.spec.containers[0].resources",
        ),
        ((subject("core/v1:Pod", spec={"containers": [{"name": "a"}]}),), "spec.containers[0].resources"),
        (
            (release(values={"core": {"resources": {"limits": {"memory": "1Gi"}}}}),),
            "values.core.resources: requests.cpu, requests.memory, limits.cpu not set",
        ),
    ],
    "images-pinned": [
        ((deployment(containers=[{**WEB, "image": "web:latest"}]),), "web:latest is whatever is newest"),
        ((deployment(containers=[{**WEB, "image": "localhost:5000/web"}]),), "localhost:5000/web has no tag"),
        ((deployment(containers=[{"name": "web"}]),), "containers[0].image: there is no image"),
        ((deployment(pod={"initContainers": [{"image": "a"}]}),), "initContainers[0].image: a has no tag"),
        (
            (release(values={"core": {"image": {"tag": "latest"}}}),),
            "values.core.image.tag: the tag is latest",
        ),
        ((release(values={"image": "a/b:latest"}),), "values.image: a/b:latest is whatever"),
        (
            (subject("postgresql.cnpg.io/v1:Cluster", spec={"imageName": "pg"}),),
            "spec.imageName: pg has no tag",
        ),
    ],
    "pods-confined": [
        (
            (deployment(containers=[{**WEB, "securityContext": {"privileged": True}}]),),
            "spec.template.spec.containers[0].securityContext.privileged: privileged reaches out",
        ),
        ((deployment(pod={"hostPID": True}),), "spec.template.spec.hostPID: hostPID"),
        ((deployment(pod={"hostNetwork": True}),), "hostNetwork: hostNetwork"),
        (
            (deployment(pod={"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}),),
            "spec.template.spec.volumes[0].hostPath: hostPath",
        ),
        (
            (deployment(containers=[{**WEB, "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]),),
            "securityContext.capabilities: SYS_ADMIN",
        ),
        ((release(values={"agent": {"privileged": True}}),), "values.agent.privileged"),
        (
            (release(versions.GPU_OPERATOR, component="Cache", values={"privileged": True}),),
            "values.privileged",
        ),
        (
            (release(versions.DCGM_EXPORTER, component="Gpu", values={"privileged": True}),),
            "values.privileged",
        ),
        ((release(values={"master": {"data": {"type": "hostPath"}}}),), "values.master.data.type: hostPath"),
    ],
    "charts-pinned": [
        ((release(props={"version": None}),), "version: chart harbor has no version. Pin it"),
        ((release(props={"version": "^1.19.0"}),), "^1.19.0 is not one exact version"),
        ((release(props={"version": "1.18.0"}),), "1.18.0 is not the pinned 1.19.1 of harbor"),
        ((release(props={"chart": "surprise"}),), "chart: surprise is not pinned"),
        ((release(props={"devel": True}),), "devel: development versions"),
        ((subject("helm.sh/v4:Chart", chart="harbor", version="1.19"),), "1.19 is not one exact version"),
    ],
    "data-protected": [
        ((subject("core/v1:PersistentVolumeClaim", **CLAIM),), "a PersistentVolumeClaim is not protected"),
        ((subject("postgresql.cnpg.io/v1:Cluster", spec={}),), "a PostgreSQL cluster is not protected"),
        (
            (release(versions.SEAWEEDFS),),
            "chart seaweedfs, which holds data, is not protected. Give it protect",
        ),
        (
            (subject("apps/v1:StatefulSet", spec={"volumeClaimTemplates": [CLAIM]}),),
            "a StatefulSet with volumes",
        ),
        ((subject("aws:s3/bucketV2:BucketV2"),), "a bucket is not protected"),
    ],
    "data-homes-protected": [
        (
            (namespace(), subject("core/v1:PersistentVolumeClaim", name="disk", protect=True, **CLAIM)),
            "namespace shop holds disk, which is protected, and is not",
        ),
    ],
    "secrets-kept": [
        (
            (with_env(name="DATABASE_PASSWORD", value="hunter2"),),
            "spec.template.spec.containers[0].env[0].value: DATABASE_PASSWORD shows to everybody",
        ),
        ((with_env(name="API_TOKEN", value=Sealed("abc")),), "API_TOKEN shows to everybody"),
        ((config_map(password="hunter2"),), "data.password: a secret lies in a ConfigMap"),
        (
            (config_map(**{"app.ini": "[db]\nadmin.password = hunter2"}),),
            'data["app.ini"]: line 2 sets admin.password',
        ),
        ((config_map(**{"app.yaml": "auth:\n  bearer_token: 'abc'"}),), "line 2 sets bearer_token"),
        (
            (release(values={"harborAdminPassword": "Harbor12345"}),),
            "values.harborAdminPassword: harborAdminPassword",
        ),
        ((release(values={"core": {"secret": "not-a-secret-key"}}),), "values.core.secret: secret lies open"),
        ((release(values={"env": [{"name": "S3_SECRET_KEY", "value": "abc"}]}),), "values.env[0].value"),
        (
            (subject("core/v1:Secret", metadata={}, stringData={"a": "b"}),),
            "stringData.a: the value is not marked",
        ),
        (
            (release(values={"db": "postgresql://ada:lovelace@db/x"}),),
            "values.db: an address holds a password",
        ),
        ((config_map(key="-----BEGIN RSA PRIVATE KEY-----\nMII"),), "data.key: a private key lies open"),
        (
            (subject("pulumi:providers:kubernetes", kubeconfig="users:\n- user:\n    token: abc"),),
            "kubeconfig: it holds",
        ),
    ],
    "services-inside": [
        (
            (subject("core/v1:Service", metadata={}, spec={"type": "NodePort"}),),
            "spec.type: NodePort opens a way",
        ),
        ((subject("core/v1:Service", metadata={}, spec={"externalIPs": ["192.0.2.1"]}),), "spec.externalIPs"),
        ((release(values={"expose": {"type": "loadBalancer"}}),), "values.expose.type: loadBalancer opens"),
        (
            (subject("core/v1:Service", component="Cache", spec={"type": "LoadBalancer"}),),
            "LoadBalancer opens",
        ),
    ],
    "namespaces-confined": [
        ((namespace(level=None),), "the pod security level is not set. Set one of restricted"),
        ((namespace(level="lax"),), "the pod security level is lax"),
        ((namespace(level="privileged", component="Cache"),), "pods may do anything"),
    ],
    "network-policies": [
        ((deployment(),), "namespace shop runs web and has no network policy"),
        (
            (release(), subject("core/v1:Service", metadata={"namespace": "shop"})),
            "namespace shop runs harbor",
        ),
        ((subject("postgresql.cnpg.io/v1:Cluster", name="pg", metadata={"namespace": "shop"}),), "runs pg"),
    ],
}


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


def test_an_exception_names_one_resource() -> None:
    config = {"exceptions": [{"resource": "web*", "reason": "being replaced"}]}
    assert is_excepted(deployment(name="web-2"), config)
    assert not is_excepted(deployment(name="api"), config)
    by_urn = {"exceptions": [{"resource": "*ironyard:platform:Gpu$*::web", "reason": "x"}]}
    assert is_excepted(deployment(component="Gpu"), by_urn)
    assert not is_excepted(deployment(component="Cache"), by_urn)


def test_each_allowance_says_why() -> None:
    assert all(one.reason and one.powers for one in ALLOWED)


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
