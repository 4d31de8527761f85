"""Action plugin: brings the index of a clean host to the host, with nothing but its shell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).parent.parent / "callback_support"))
from ironyard_source import index_bytes

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
        raw = index_bytes(self._task.args.get("file"), self._task.args.get("host_id"), known["sha256"])
        done = self._low_level_execute_command(WRITE, in_data=raw)
        if done["rc"] != 0:
            raise AnsibleActionFail(
                f"the index cannot be written to {PLACE}: {done['stderr'].strip()[-300:]}"
            )
        result["evidence"] = [f"{len(raw)} bytes"]
        return result
