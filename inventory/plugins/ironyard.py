"""Inventory plugin: the hosts of the ledger, grouped by state, region, GPU model and workspace."""

from __future__ import annotations

import json
import os
import re
import shlex
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin

DOCUMENTATION = r"""
name: ironyard
short_description: Hosts of an Ironyard ledger
description:
  - Reads GET /api/v1/inventory and makes the groups state_*, region_*, model_* and workspace_*.
  - Host keys come from the ledger and are written to a known_hosts file of our own; a host without
    keys there is not connected to.
author: Ironyard
options:
  plugin:
    description: Marks the file as this plugin's.
    required: true
    choices: [ironyard]
    type: str
  url:
    description: The facade's address; IRONYARD_URL or the credentials file otherwise.
    type: str
    env:
      - name: IRONYARD_URL
  credentials:
    description: A JSON file with url and token.
    type: path
    default: ~/.config/ironyard/credentials.json
    env:
      - name: IRONYARD_CREDENTIALS
  cache_dir:
    description: Where known_hosts is written.
    type: path
    default: ~/.cache/ironyard
    env:
      - name: IRONYARD_CACHE
  timeout:
    description: Seconds to wait for the facade.
    type: int
    default: 20
"""
EXAMPLES = r"""
# inventory/ironyard.yml
plugin: ironyard
"""
ANNOUNCED = "known_hosts.announced"


def credentials(url: str | None, path: str) -> tuple[str | None, str | None]:
    """(address, token) from the environment, else from the credentials file.

    Raises ValueError when that is not JSON.
    """
    token = os.environ.get("IRONYARD_TOKEN")
    file = Path(path).expanduser()
    stored = json.loads(file.read_text()) if file.exists() and not (url and token) else {}
    address = url or stored.get("url")
    return (address.rstrip("/") if address else None), token or stored.get("token")


def fetch(address: str, token: str, timeout: int) -> list[dict[str, Any]]:
    """The ledger's hosts. Raises AnsibleParserError with what to do."""
    request = urllib.request.Request(  # noqa: S310 - the address is the operator's own setting
        f"{address}/api/v1/inventory",
        headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
            return list(json.load(answer)["hosts"])
    except urllib.error.HTTPError as error:
        raise AnsibleParserError(refusal(address, error)) from error
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise AnsibleParserError(
            f"Ironyard at {address} cannot be reached: {reason}. Is IRONYARD_URL right?"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise AnsibleParserError(f"{address}/api/v1/inventory did not answer with hosts: {error}") from error


def refusal(address: str, error: urllib.error.HTTPError) -> str:
    try:
        problem = json.load(error)
        said = f"{problem.get('title', '')}: {problem.get('detail', '')}".strip(": ")
    except (ValueError, AttributeError):
        said = error.reason
    hints = {
        401: "the token is missing, wrong or expired; sign in again or set IRONYARD_TOKEN",
        403: "this identity may not read the inventory",
    }
    hint = hints.get(error.code, "")
    return f"Ironyard at {address} refused the inventory (HTTP {error.code}): {said}. {hint}".strip()


def group_name(kind: str, said: str) -> str:
    """state_idle, model_nvidia_h100_80gb_hbm3: what Ansible accepts as a group's name."""
    return f"{kind}_{re.sub(r'[^a-z0-9_]+', '_', said.lower()).strip('_')}"


def known_hosts(hosts: list[dict[str, Any]]) -> str:
    """One line per key, named by the host's id: addresses move, ids do not."""
    return "".join(f"{host['id']} {key}\n" for host in hosts for key in host.get("host_keys") or [])


def prune_announced(text: str, ledger: str) -> str:
    """Announced keys that the ledger has learnt need no second home."""
    learnt = set(ledger.splitlines())
    return "".join(f"{line}\n" for line in text.splitlines() if line.strip() and line not in learnt)


def write_private(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as target:
        target.write(text)
    fresh.replace(path)


def ssh_arguments(host: dict[str, Any], folder: Path) -> str:
    files = f'UserKnownHostsFile="{folder / "known_hosts"}" "{folder / ANNOUNCED}"'
    options = (
        "StrictHostKeyChecking=yes",
        f"HostKeyAlias={host['id']}",
        files,
        "GlobalKnownHostsFile=/dev/null",
    )
    return shlex.join(part for option in options for part in ("-o", option))


def variables(host: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What a play gets to know about a host."""
    found: dict[str, Any] = {
        "ansible_host": host["address"],
        "ansible_port": host.get("port") or 22,
        "ansible_user": host.get("user") or "root",
        "ansible_ssh_common_args": ssh_arguments(host, folder),
        "ironyard_host_id": host["id"],
        "ironyard_host_name": host["name"],
        "ironyard_state": host["state"],
        "ironyard_cordoned": bool(host.get("cordoned")),
        "ironyard_region": host.get("region"),
        "ironyard_labels": host.get("labels") or {},
        "ironyard_manifest": host.get("manifest"),
        **health_variables(host.get("health") or {}),
    }
    if host.get("key_reference"):
        found["ansible_ssh_private_key_file"] = host["key_reference"]
    return found


def health_variables(known: dict[str, Any]) -> dict[str, Any]:
    """What checks of health need to know of the host's past, and of who holds its GPUs."""
    return {
        "ironyard_health_since": known.get("since") or 0,
        "ironyard_gpus_reset_at": known.get("gpus_reset_at"),
        "ironyard_gpus_held": known.get("gpus_held") or [],
    }


def groups(host: dict[str, Any]) -> list[str]:
    pairs = [("state", host["state"]), ("region", host.get("region"))]
    pairs += [("model", model) for model in host.get("models") or []]
    pairs += [("workspace", workspace) for workspace in host.get("workspaces") or []]
    return sorted({group_name(kind, said) for kind, said in pairs if said})


class InventoryModule(BaseInventoryPlugin):
    NAME = "ironyard"

    def verify_file(self, path: str) -> bool:
        return bool(super().verify_file(path)) and path.endswith(("ironyard.yml", "ironyard.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        try:
            address, token = credentials(self.get_option("url"), self.get_option("credentials"))
        except (OSError, ValueError) as error:
            raise AnsibleParserError(f"{self.get_option('credentials')} cannot be read: {error}") from error
        if not address or not token:
            raise AnsibleParserError(
                "Ironyard's address or token is not set: use IRONYARD_URL and IRONYARD_TOKEN, "
                f"or {self.get_option('credentials')} with url and token"
            )
        hosts = fetch(address, token, self.get_option("timeout"))
        folder = Path(self.get_option("cache_dir")).expanduser()
        self._write_known_hosts(hosts, folder)
        for host in hosts:
            self._add(host, folder)

    def _write_known_hosts(self, hosts: list[dict[str, Any]], folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        ledger = known_hosts(hosts)
        write_private(folder / "known_hosts", ledger)
        announced = folder / ANNOUNCED
        if announced.exists():
            write_private(announced, prune_announced(announced.read_text(), ledger))

    def _add(self, host: dict[str, Any], folder: Path) -> None:
        name = self.inventory.add_host(host["name"])
        for key, said in variables(host, folder).items():
            self.inventory.set_variable(name, key, said)
        for group in groups(host):
            self.inventory.add_child(self.inventory.add_group(group), name)
