"""Stacks that the policies let pass, and stacks that they refuse, with words of the reason."""

from __future__ import annotations

from typing import Any

from stacks import versions
from stacks.policy.subject import UNKNOWN, Sealed, Subject

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
