"""The ledger's tenants, by the real engine on a real Kubernetes API: by hand, and by the operation."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from api.core.crypto import SecretBox
from api.core.db import Database, make_engine
from api.core.operations.background import DbosDispatcher
from api.core.operations.service import QUEUE
from api.core.proof import SIGNER, Signer
from api.identity.tokens import Tokens
from api.settings import Settings
from stacks.tenancy.names import name_of
from tests.lab.cluster.engine import PASSPHRASE, ROOT, Stack
from tests.lab.cluster.lab import ClusterLab
from tests.stacks.harbor import PASSWORD, FakeHarbor
from tests.support import ledger
from tests.support.ledger import H100
from tests.support.server import api_server, worker_process

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900)]
STACK = "lab"


@dataclass
class Cluster:
    """What the tests look at."""

    lab: ClusterLab

    def get(self, kind: str, name: str, namespace: str = "") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._kubectl("get", kind, name, *_in(namespace), "-o", "json"))
        return found

    def names(self, kind: str, namespace: str = "") -> list[str]:
        rows = json.loads(self._kubectl("get", kind, *_in(namespace), "-o", "json"))["items"]
        return sorted(row["metadata"]["name"] for row in rows)

    def versions(self) -> dict[str, str]:
        """Every object of the tenants → its resource version: what was touched is what differs."""
        kinds = (
            "namespaces,resourcequotas,limitranges,networkpolicies,rolebindings,serviceaccounts,"
            "clusterqueues,localqueues,resourceflavors"
        )
        selector = "app.kubernetes.io/part-of=ironyard"
        listed = json.loads(self._kubectl("get", kinds, "-A", "-l", selector, "-o", "json"))["items"]
        return {
            "/".join(
                filter(None, (row["kind"], row["metadata"].get("namespace"), row["metadata"]["name"]))
            ): row["metadata"]["resourceVersion"]
            for row in listed
        }

    def delete(self, *what: str) -> None:
        self._kubectl("delete", *what)

    def _kubectl(self, *arguments: str) -> str:
        return self.lab.control_plane.kubectl(*arguments)


def _in(namespace: str) -> list[str]:
    return ["-n", namespace] if namespace else []


@pytest.fixture(scope="module")
def cluster(cluster_lab: ClusterLab, contracts: Path) -> Iterator[Cluster]:
    """With Kueue's definitions, so that the API server holds the queues to them."""
    definitions = json.loads((contracts / "crds" / "kueue.json").read_text())
    for definition in definitions:  # no controller runs that could convert between versions
        definition["spec"].pop("conversion", None)
    names = [f"crd/{definition['metadata']['name']}" for definition in definitions]
    plane = cluster_lab.control_plane
    wanted = json.dumps({"apiVersion": "v1", "kind": "List", "items": definitions})
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=wanted)
    deadline = time.monotonic() + 60
    while not _established(plane.kubectl("get", *names, "-o", "json")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    yield Cluster(cluster_lab)
    plane.kubectl("delete", "--wait=false", *names)


def _established(listed: str) -> bool:
    conditions = [row.get("status", {}).get("conditions") or [] for row in json.loads(listed)["items"]]
    return all(any(c["type"] == "Established" and c["status"] == "True" for c in row) for row in conditions)


@dataclass
class Platform:
    """A facade with its ledger, and the stack of its tenants, which its workers and a person share."""

    url: str
    token: str
    stack: Stack
    start_worker: Callable[[], Any]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        answer = httpx.request(method, f"{self.url}/api/v1{path}", json=body, headers=headers, timeout=60)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def syncs(self, **wanted: Any) -> list[Any]:
        """Newest first."""
        query = "&".join(f"{name}={value}" for name, value in {"kind": "tenancy", **wanted}.items())
        found: list[Any] = self.call("GET", f"/operations?{query}")["items"]
        return found

    def settled(self) -> Any:
        """The newest sync, once none waits or runs; its log is shown when it did not succeed."""
        deadline = time.monotonic() + 600
        while True:
            newest = self.syncs()[0]
            if newest["ended_at"]:
                return newest
            assert time.monotonic() < deadline, newest
            time.sleep(0.3)

    def log(self, operation: Any) -> list[str]:
        lines = self.call("GET", f"/operations/{operation['id']}/log")
        return [" ".join(filter(None, (row["status"], row["task"], row["message"]))) for row in lines]

    def wait_until_it_creates(self) -> Any:
        """The running sync, when it has made its first namespace."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            for found in self.syncs(state="running"):
                if any(line.startswith("changed create Namespace") for line in self.log(found)):
                    return found
            time.sleep(0.05)
        raise AssertionError(f"nothing was created: {self.syncs()[0]}")


@pytest.fixture
def platform(
    cluster: Cluster, tmp_path: Path, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Platform]:
    for name, value in {**cluster.lab.environment, "PULUMI_HOME": str(tmp_path / "pulumi")}.items():
        monkeypatch.setenv(name, value)
    shutil.copy(migrated_sqlite, tmp_path / "ironyard.db")
    url = f"sqlite:///{tmp_path / 'ironyard.db'}"
    database, token = _ledger(Settings(_env_file=None, data_dir=tmp_path, database_url=url))
    stack = Stack(ROOT / "stacks" / "tenancy", tmp_path / "stack", cluster.lab.environment, STACK)
    own = {
        "tenancy_stack": STACK,
        "tenancy_backend": (stack.folder / "state").as_uri(),
        "tenancy_passphrase": PASSPHRASE,
        "tenancy_config": str(stack.config_file),
        "worker_timeout": "3",
        "worker_heartbeat": "0.5",
    }
    with api_server(tmp_path, url, **own) as address:
        facade = {"url": address, "token": token}
        stack.configure({"ironyard-tenancy:facade": facade, "ironyard-tenancy:limits": {"pods": 50}})
        yield Platform(address, token, stack, lambda: worker_process(tmp_path, url, **own))
    database.engine.dispose()
    for namespace in cluster.names("namespaces"):
        if namespace.startswith("ws-"):
            cluster.delete("namespace", namespace, "--wait=false")
    for kind in ("clusterqueues", "resourceflavors"):
        cluster.delete(kind, "--all", "--wait=false")


def _ledger(settings: Settings) -> tuple[Database, str]:
    """An administrator with a workspace, and a host of eight GPUs."""
    engine = make_engine(settings)
    carried = {QUEUE: DbosDispatcher(engine), SIGNER: Signer(settings.proof_key)}
    database = Database(engine, **carried)
    user, _ = ledger.first_administrator(database)
    ledger.idle_host(database, SecretBox(settings.encryption_key), "gpu-01", "198.51.100.1")
    return database, Tokens(settings.signing_key, 3600).issue(user)


def test_changes_in_the_ledger_reach_the_cluster_and_nothing_else(
    platform: Platform, cluster: Cluster
) -> None:
    platform.call("POST", "/workspaces", {"slug": "vision", "name": "Vision", "gpus": 4})
    with platform.start_worker():
        done = platform.settled()
        assert done["state"] == "succeeded", platform.log(done)
        assert {"ws-default", "ws-vision"} <= set(cluster.names("namespaces"))
        assert cluster.names("clusterqueues") == ["ws-default", "ws-vision"]
        assert cluster.names("localqueues", "ws-vision") == ["default"]
        hard = cluster.get("resourcequota", "workspace", "ws-vision")["spec"]["hard"]
        assert (hard["requests.nvidia.com/gpu"], hard["pods"]) == ("4", "50")

        before = cluster.versions()
        quota = {"gpus": 6, "models": {H100: 2}}
        platform.call("PUT", "/workspaces/vision/quotas", quota)
        done = platform.settled()
        assert done["state"] == "succeeded", platform.log(done)
        assert done["outcome"]["changes"]["update"] == 2
        after = cluster.versions()
        assert {name for name, version in after.items() if before.get(name) != version} == {
            "ResourceQuota/ws-vision/workspace",
            "ClusterQueue/ws-vision",
        }
        hard = cluster.get("resourcequota", "workspace", "ws-vision")["spec"]["hard"]
        assert hard["requests.nvidia.com/gpu"] == "6"
        groups = cluster.get("clusterqueue", "ws-vision")["spec"]["resourceGroups"]
        assert groups[1]["flavors"][0]["resources"][0]["nominalQuota"] in ("2", 2)

        ada = platform.call("POST", "/admin/users", {"email": "ada@example.org", "name": "Ada"})
        platform.call("PUT", f"/workspaces/vision/members/{ada['id']}", {"role": "viewer"})
        done = platform.settled()
        assert done["state"] == "succeeded", platform.log(done)
        assert set(cluster.versions()) - set(after) == {f"RoleBinding/ws-vision/{name_of('ada@example.org')}"}
        binding = cluster.get("rolebinding", name_of("ada@example.org"), "ws-vision")
        assert binding["roleRef"]["name"] == "view"
        assert binding["subjects"][0]["name"] == "ada@example.org"

        platform.call("PUT", f"/workspaces/vision/members/{ada['id']}", {"role": "owner"})
        done = platform.settled()
        assert done["state"] == "succeeded", platform.log(done)
        binding = cluster.get("rolebinding", name_of("ada@example.org"), "ws-vision")
        assert binding["roleRef"]["name"] == "admin"
    by_hand = platform.stack.up()
    assert by_hand.changed == 0, by_hand.operations


def test_what_was_changed_by_hand_is_mended_by_a_sync_that_is_asked_for(
    platform: Platform, cluster: Cluster
) -> None:
    platform.stack.up()
    cluster.delete("networkpolicy", "default-deny", "-n", "ws-default")
    with platform.start_worker():
        platform.call("POST", "/tenancy/sync")
        done = platform.settled()
    assert done["state"] == "succeeded", platform.log(done)
    assert "default-deny" in cluster.names("networkpolicies", "ws-default")


def test_a_sync_that_is_cancelled_stops_and_the_next_goes_on(platform: Platform, cluster: Cluster) -> None:
    wanted = many_workspaces(platform)
    with platform.start_worker():
        running = platform.wait_until_it_creates()
        platform.call("POST", f"/operations/{running['id']}/cancel")
        ended = platform.settled()
        assert (ended["state"], ended["outcome"]["status"]) == ("cancelled", "cancelled")
        platform.call("POST", "/tenancy/sync")
        done = platform.settled()
    assert done["state"] == "succeeded", platform.log(done)
    assert not any("left over" in line for line in platform.log(done)), "it stopped cleanly"
    assert set(wanted) <= set(cluster.names("clusterqueues"))


def test_a_worker_killed_with_all_of_its_processes_is_followed_by_another(
    platform: Platform, cluster: Cluster
) -> None:
    wanted = many_workspaces(platform)
    with platform.start_worker() as worker:
        platform.wait_until_it_creates()
        family = psutil.Process(worker.pid)
        for process in [family, *family.children(recursive=True)]:
            process.kill()
        worker.wait()
    with platform.start_worker():
        done = platform.settled()
    assert (done["state"], done["attempt"]) == ("succeeded", 2), (done["reason"], platform.log(done))
    assert any("is left over from a run that was killed" in line for line in platform.log(done))
    assert set(wanted) <= set(cluster.names("clusterqueues"))
    assert platform.stack.up().changed == 0


def many_workspaces(platform: Platform) -> list[str]:
    """Enough that a sync takes a while. Their queues' names."""
    slugs = [f"team-{number}" for number in range(8)]
    for slug in slugs:
        platform.call("POST", "/workspaces", {"slug": slug, "name": slug, "gpus": 1})
    return [f"ws-{slug}" for slug in slugs]


def test_by_hand_a_workspace_that_goes_leaves_its_namespace_closed(
    platform: Platform, cluster: Cluster
) -> None:
    first = platform.stack.up()
    assert first.changes["create"] > 10
    assert platform.stack.up().changed == 0
    assert platform.stack.drift().code == 0
    platform.stack.destroy()
    assert "ws-default" in cluster.names("namespaces")
    assert "default-deny" in cluster.names("networkpolicies", "ws-default")
    assert cluster.names("resourcequotas", "ws-default") == ["workspace"]
    assert cluster.names("rolebindings", "ws-default") == []
    assert cluster.names("clusterqueues") == []


def test_a_facade_that_refuses_and_a_cluster_that_is_away_are_named(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.stack.configure({"ironyard-tenancy:facade": {"url": platform.url, "token": "iry_wrong"}})
    refused = platform.stack.up(check=False)
    assert refused.code != 0
    assert "answered 401" in refused.problem
    platform.stack.configure({})
    monkeypatch.setenv("KUBECONFIG", str(platform.stack.folder / "nowhere"))
    with platform.start_worker():
        platform.call("POST", "/tenancy/sync")
        done = platform.settled()
    assert done["state"] == "failed"
    assert "update failed" not in done["reason"]
    assert done["reason"]


def test_each_workspace_has_a_project_in_the_registry(
    platform: Platform, cluster: Cluster, contracts: Path
) -> None:
    fake = FakeHarbor(contracts)
    fake.add_user("admin@ironyard.local", "admin@ironyard.local")

    def configure(key: str, value: str, *options: str) -> None:
        argv = ("config", "set", "--path", *options, f"ironyard-tenancy:registry.{key}", value)
        platform.stack._pulumi(*argv, "--stack", STACK, check=True)

    try:
        configure("password", PASSWORD, "--secret")
        for key, value in {"mode": "harbor", "url": fake.url, "delete_projects": "true"}.items():
            configure(key, value)
        with platform.start_worker():
            done = platform.settled()
            assert done["state"] == "succeeded", (done["reason"], platform.log(done))
        (project,) = fake.projects.values()
        assert project["name"] == "default"
        assert fake.roles("default") == {"admin": 1, "admin@ironyard.local": 1}
        secret = cluster.get("secret", "registry", "ws-default")
        login = json.loads(base64.b64decode(secret["data"][".dockerconfigjson"]))
        (entry,) = login["auths"].values()
        assert entry["username"] == "robot$default+workloads"
        assert entry["password"] not in json.dumps(platform.stack.state())
        assert PASSWORD not in json.dumps(platform.stack.state())
        by_hand = platform.stack.up()
        assert by_hand.changed == 0, by_hand.operations
        configure("storage_gib", "5")
        changed = platform.stack.up()
        ours = [urn for urn in changed.operations if "::pulumi:providers:" not in urn]
        assert [urn.rpartition("::")[2] for urn in ours] == ["default-registry"]
        assert set(fake.quotas.values()) == {5 * 1024**3}
        platform.stack.destroy()
        assert fake.projects == {}
    finally:
        fake.stop()
    assert fake.faults == []
