"""Where the controller finds the index of a clean host."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ironyard_client import Client, Refused, configured


def index_bytes(file: str | None, host_id: str | None, digest: str) -> bytes:
    """From a file, else from the ledger; raises AnsibleActionFail when it is nowhere or another one."""
    raw, origin = _fetch(file, host_id)
    if hashlib.sha256(raw).hexdigest() != digest:
        raise AnsibleActionFail(f"the index from {origin} is not the one of the host's manifest")
    return raw


def _fetch(file: str | None, host_id: str | None) -> tuple[bytes, str]:
    if file:
        return Path(file).read_bytes(), str(file)
    settings = configured()
    if not settings or not host_id:
        raise AnsibleActionFail(
            "the host's index is neither in a file (ironyard_index_file) nor is a ledger set"
        )
    try:
        return Client(*settings).get(f"/api/v1/hosts/{host_id}/manifest/index"), "the ledger"
    except (Refused, OSError, ValueError) as error:
        raise AnsibleActionFail(f"the ledger does not hand out the host's index: {error}") from error
