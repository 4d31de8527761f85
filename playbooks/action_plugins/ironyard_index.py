"""Action plugin: brings the index of a clean host to the host, with nothing but its shell."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).parent.parent / "callback_support"))
from ironyard_client import Client, Refused, configured

PLACE = "/run/ironyard/index.xz"
WRITE = f"umask 077 && mkdir -p /run/ironyard && cat >{PLACE}.new && mv -f {PLACE}.new {PLACE}"


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        result["changed"] = False
        known = (self._task.args.get("manifest") or {}).get("index")
        if not known:
            result["evidence"] = ["the host has no index"]
            return result
        raw, origin = self._fetch()
        if hashlib.sha256(raw).hexdigest() != known["sha256"]:
            raise AnsibleActionFail(f"the index from {origin} is not the one of the host's manifest")
        done = self._low_level_execute_command(WRITE, in_data=raw)
        if done["rc"] != 0:
            raise AnsibleActionFail(
                f"the index cannot be written to {PLACE}: {done['stderr'].strip()[-300:]}"
            )
        result["evidence"] = [f"{len(raw)} bytes from {origin}"]
        return result

    def _fetch(self) -> tuple[bytes, str]:
        file, host_id = self._task.args.get("file"), self._task.args.get("host_id")
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
