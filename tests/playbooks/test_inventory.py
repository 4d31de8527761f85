"""The ledger as Ansible's inventory, asked for by the real ansible-inventory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.playbooks import ledger as ledgers
from tests.playbooks.conftest import ROOT

HOST: dict[str, Any] = {
    "id": "7d0b0c06-0f0e-4a0b-9d0c-000000000001",
    "name": "gpu-01",
    "address": "192.0.2.11",
    "port": 2222,
    "user": "root",
    "key_reference": "/etc/ironyard/keys/fleet",
    "host_keys": ["ssh-ed25519 AAAAfirst", "ssh-rsa AAAAsecond"],
    "state": "idle",
    "cordoned": False,
    "region": "fra",
    "labels": {"rack": "r1"},
    "models": ["NVIDIA H100 80GB HBM3"],
    "workspaces": ["Vision Lab"],
    "manifest": {"format": 2, "files": {}},
    "health": {"since": 1740327858.5, "gpus_reset_at": 1740328000.0, "gpus_held": ["GPU-1"]},
}


@pytest.fixture
def ledger() -> Iterator[ledgers.Ledger]:
    with ledgers.serve() as running:
        yield running


def ask(tmp_path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(sys.executable).parent / "ansible-inventory")
    clean = {key: said for key, said in os.environ.items() if not key.startswith(("IRONYARD_", "ANSIBLE_"))}
    return subprocess.run(
        [program, "-i", "inventory/ironyard.yml", "--list"],
        cwd=ROOT,
        env={**clean, "HOME": str(tmp_path), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_hosts_groups_and_variables(ledger: ledgers.Ledger, tmp_path: Path) -> None:
    ledger.hosts = [
        HOST,
        {**HOST, "id": "b", "name": "gpu-02", "state": "allocated", "workspaces": [], "manifest": None},
    ]
    listed = ask(tmp_path, IRONYARD_URL=ledger.url, IRONYARD_TOKEN=ledgers.TOKEN)
    assert listed.returncode == 0, listed.stderr
    # what comes from the ledger is never a template to Ansible
    inventory = json.loads(listed.stdout, object_hook=lambda found: found.get("__ansible_unsafe", found))
    assert inventory["state_idle"]["hosts"] == ["gpu-01"]
    assert inventory["state_allocated"]["hosts"] == ["gpu-02"]
    assert inventory["region_fra"]["hosts"] == ["gpu-01", "gpu-02"]
    assert inventory["model_nvidia_h100_80gb_hbm3"]["hosts"] == ["gpu-01", "gpu-02"]
    assert inventory["workspace_vision_lab"]["hosts"] == ["gpu-01"]
    found = inventory["_meta"]["hostvars"]["gpu-01"]
    assert found["ansible_host"] == "192.0.2.11"
    assert found["ansible_port"] == 2222
    assert found["ansible_ssh_private_key_file"] == "/etc/ironyard/keys/fleet"
    assert found["ironyard_host_id"] == HOST["id"]
    assert found["ironyard_manifest"] == HOST["manifest"]
    assert found["ironyard_labels"] == {"rack": "r1"}
    assert (found["ironyard_health_since"], found["ironyard_gpus_reset_at"]) == (1740327858.5, 1740328000.0)
    assert found["ironyard_gpus_held"] == ["GPU-1"]
    assert f"HostKeyAlias={HOST['id']}" in found["ansible_ssh_common_args"]
    assert "StrictHostKeyChecking=yes" in found["ansible_ssh_common_args"]


def test_known_hosts_are_private_and_only_the_ledgers(ledger: ledgers.Ledger, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "known_hosts.announced").write_text(
        f"{HOST['id']} ssh-ed25519 AAAAfirst\n{HOST['id']} ssh-ed25519 AAAAnext\n"
    )
    ledger.hosts = [HOST]
    listed = ask(tmp_path, IRONYARD_URL=ledger.url, IRONYARD_TOKEN=ledgers.TOKEN, IRONYARD_CACHE=str(cache))
    assert listed.returncode == 0, listed.stderr
    known = cache / "known_hosts"
    assert known.read_text() == f"{HOST['id']} ssh-ed25519 AAAAfirst\n{HOST['id']} ssh-rsa AAAAsecond\n"
    assert known.stat().st_mode & 0o777 == 0o600
    # a key that the ledger has learnt meanwhile leaves the announced ones
    assert (cache / "known_hosts.announced").read_text() == f"{HOST['id']} ssh-ed25519 AAAAnext\n"


def test_credentials_file(ledger: ledgers.Ledger, tmp_path: Path) -> None:
    ledger.hosts = [HOST]
    path = tmp_path / "credentials.json"
    path.write_text(json.dumps({"url": ledger.url, "token": ledgers.TOKEN}))
    assert ask(tmp_path, IRONYARD_CREDENTIALS=str(path)).returncode == 0


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"IRONYARD_TOKEN": "wrong"}, "(HTTP 401): Not signed in: the token is not valid"),
        ({"IRONYARD_TOKEN": ledgers.TOKEN, "IRONYARD_URL": "http://127.0.0.1:9"}, "cannot be reached"),
        ({"IRONYARD_URL": ""}, "address or token is not set"),
    ],
)
def test_failures_are_clear_and_fail(
    ledger: ledgers.Ledger, tmp_path: Path, env: dict[str, str], said: str
) -> None:
    listed = ask(tmp_path, **{"IRONYARD_URL": ledger.url, **env})
    assert listed.returncode != 0
    assert said in " ".join(listed.stderr.split())
    assert "Traceback" not in listed.stderr


def test_sample_inventory_is_valid(tmp_path: Path) -> None:
    program = str(Path(sys.executable).parent / "ansible-inventory")
    listed = subprocess.run(
        [program, "-i", "inventory/sample.yml", "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(listed.stdout)["region_fra"]["hosts"] == ["gpu-01", "gpu-02"]
