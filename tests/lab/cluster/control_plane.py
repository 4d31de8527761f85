"""A Kubernetes control plane on loopback: etcd, API server, controllers, scheduler, nodes played by kwok."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.lab.cluster.processes import Daemon, answers, free_ports
from tests.lab.cluster.tools import Tools
from tests.lab.run import LabError

READY_SECONDS = 120.0
SERVICE_RANGE = "10.96.0.0/16"
STORAGE_CLASS = "kwok-volume"
PLAIN_NODES, GPU_NODES, GPUS_EACH = 3, 2, 8
# in the order of starting; stopped in the reverse one
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")


class ControlPlane:
    """An API that is empty but for its nodes; all of its files are in `folder`."""

    def __init__(self, folder: Path, tools: Tools, *, tied: bool = True) -> None:
        """`tied`: it ends with the process that started it, however that ends."""
        self.folder = folder
        self.tools = tools
        self.tied = tied
        self.daemons = {name: Daemon(name, folder) for name in PROGRAMS}

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def running(self) -> bool:
        return all(daemon.pid is not None for daemon in self.daemons.values())

    def start(self) -> None:
        """Returns when every node is Ready. Raises LabError with the log of what did not start."""
        if self.running:
            return
        self.stop()
        try:
            self._start_all()
        except BaseException:
            self.stop()
            raise

    def _start_all(self) -> None:
        for leftover in ("etcd-data", "certificates"):
            shutil.rmtree(self.folder / leftover, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        client, peer, api, controllers, scheduler, kwok = free_ports(6)
        self._start_etcd(client, peer)
        self._start_api(api, client)
        self._write_kubeconfig(api)
        self._start_controllers(controllers, scheduler)
        self._start_kwok(kwok)
        self._add_nodes()

    def stop(self) -> None:
        for name in reversed(PROGRAMS):
            self.daemons[name].stop()

    def get(self, path: str) -> Any:
        """The API's answer to a GET of `path`. Raises OSError where there is none or it is an error."""
        config = json.loads(self.kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        trust = ssl.create_default_context(cafile=cluster["certificate-authority"])
        asked = urllib.request.Request(
            cluster["server"] + path, headers={"Authorization": f"Bearer {user['token']}"}
        )
        with urllib.request.urlopen(asked, context=trust, timeout=10) as answer:
            body = answer.read()
        return json.loads(body) if body.startswith((b"{", b"[")) else body.decode()

    def create(self, *documents: dict[str, Any]) -> None:
        """Raises LabError with kubectl's words when the API refuses one."""
        wanted = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        self.kubectl("create", "-f", "-", stdin=json.dumps(wanted))

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            [self.tools["kubectl"], *arguments],
            input=stdin,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def _start(self, name: str, *options: str) -> Daemon:
        daemon = self.daemons[name]
        daemon.start(self.tools[name], *options, tied=self.tied)
        return daemon

    def _start_etcd(self, client: int, peer: int) -> None:
        here, others = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
        self._start(
            "etcd",
            "--unsafe-no-fsync",
            f"--data-dir={self.folder / 'etcd-data'}",
            f"--listen-client-urls={here}",
            f"--advertise-client-urls={here}",
            f"--listen-peer-urls={others}",
            f"--initial-advertise-peer-urls={others}",
            f"--initial-cluster=default={others}",
        ).wait(lambda: answers(client), READY_SECONDS)

    def _start_api(self, port: int, etcd: int) -> None:
        certificates = self.folder / "certificates"
        certificates.mkdir(mode=0o700)
        key = rsa.generate_private_key(65537, 2048)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (certificates / "accounts.key").write_bytes(private)
        token = secrets.token_urlsafe(24)
        tokens = self.folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f"{token},administrator,administrator,system:masters\n")
        accounts = certificates / "accounts.key"
        self._start(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={certificates}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            "--anonymous-auth=false",
            # pods are played, so nothing mounts an account's token
            "--disable-admission-plugins=ServiceAccount",
            f"--service-account-key-file={accounts}",
            f"--service-account-signing-key-file={accounts}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--allow-privileged=true",
            "--profiling=false",
            # Debian's etcd is too old for streamed lists: clients that are offered them wait in vain
            "--feature-gates=WatchList=false",
        ).wait(lambda: answers(port), READY_SECONDS)

    def _write_kubeconfig(self, port: int) -> None:
        token = (self.folder / "tokens.csv").read_text().split(",")[0]
        server = {
            "server": f"https://127.0.0.1:{port}",
            "certificate-authority": str(self.folder / "certificates" / "apiserver.crt"),
        }
        name = "ironyard-lab"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [{"name": name, "cluster": server}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        }
        self.kubeconfig.touch(mode=0o600)
        self.kubeconfig.write_text(json.dumps(config, indent=2))
        self.daemons["kube-apiserver"].wait(self._api_ready, READY_SECONDS)

    def _api_ready(self) -> bool:
        try:
            return bool(self.get("/readyz") == "ok")
        except OSError:
            return False

    def _start_controllers(self, controllers: int, scheduler: int) -> None:
        shared = (f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1")
        self._start(
            "kube-controller-manager",
            *shared,
            f"--secure-port={controllers}",
            f"--cert-dir={self.folder / 'certificates' / 'controllers'}",
            f"--service-account-private-key-file={self.folder / 'certificates' / 'accounts.key'}",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--controllers=*,-cloud-node-lifecycle-controller,-service-lb-controller,-node-route-controller",
        )
        self._start(
            "kube-scheduler",
            *shared,
            f"--secure-port={scheduler}",
            f"--cert-dir={self.folder / 'certificates' / 'scheduler'}",
        )

    def _start_kwok(self, port: int) -> None:
        stages = []
        if self.tools.stages is not None:
            documents = [path.read_text() for path in sorted(self.tools.stages.glob("*.yaml"))]
            config = self.folder / "kwok.yaml"
            config.write_text("\n---\n".join([*documents, LOAD_BALANCER_STAGE]))
            stages = [f"--config={config}"]
        self._start(
            "kwok",
            f"--kubeconfig={self.kubeconfig}",
            *stages,
            "--manage-all-nodes",
            "--node-lease-duration-seconds=40",
            f"--server-address=127.0.0.1:{port}",
        )

    def _add_nodes(self) -> None:
        names = [f"node-{n}" for n in range(1, PLAIN_NODES + 1)]
        gpu_names = [f"gpu-{n}" for n in range(1, GPU_NODES + 1)]
        self.create(
            *(node(name, gpus=0) for name in names),
            *(node(name, gpus=GPUS_EACH) for name in gpu_names),
            storage_class(),
        )
        self.daemons["kwok"].wait(self._nodes_ready, READY_SECONDS)

    def _nodes_ready(self) -> bool:
        nodes = self.get("/api/v1/nodes")["items"]
        conditions = [c for n in nodes for c in n["status"].get("conditions", []) if c["type"] == "Ready"]
        return len(conditions) == len(nodes) and all(c["status"] == "True" for c in conditions)


def node(name: str, *, gpus: int) -> dict[str, Any]:
    """A node of 64 cores and 512 GiB; with GPUs as the device plugin and feature discovery announce them."""
    room = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti", "pods": "250"}
    labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"}
    if gpus:
        room["nvidia.com/gpu"] = str(gpus)
        labels["nvidia.com/gpu.present"] = "true"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": room, "capacity": room},
    }


def storage_class() -> dict[str, Any]:
    """The cluster's default: kwok plays its provisioner."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kwok.x-k8s.io/volume",
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


# what a cloud's or MetalLB's controller does: without an address a service of this type never becomes ready
LOAD_BALANCER_STAGE = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: service-load-balancer}
spec:
  resourceRef: {apiGroup: v1, kind: Service}
  selector:
    matchExpressions:
    - cel: {expression: "self.spec.type == 'LoadBalancer'"}
    - cel: {expression: "!has(self.status.loadBalancer.ingress)"}
  steps:
  - patch:
      root: status
      subresource: status
      template: |
        loadBalancer:
          ingress:
          - ip: 198.51.100.1
"""
