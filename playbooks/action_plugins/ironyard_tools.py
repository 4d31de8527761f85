"""Action plugin: checks the host's own tools by one that comes from here, before any of them is relied on."""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

HERE = Path(__file__).parent.parent
sys.path.insert(0, str(HERE / "callback_support"))
if str(HERE / "module_utils") not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(str(HERE / "module_utils"))
import ironyard_trust as trust  # noqa: E402 - found by the lines above
from ansible.module_utils import index, mounts, steps  # noqa: E402
from ironyard_source import index_bytes  # noqa: E402

ROUNDS = 3
SHOWN = 20


class ActionModule(ActionBase):
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        began = time.monotonic()
        result: dict[str, Any] = super().run(tmp, task_vars)
        del tmp
        step = steps.Step("fence", check=self._task.check_mode)
        try:
            self._judge(step)
        except steps.StepFailed as failed:
            step.evidence = [*failed.evidence, *step.evidence]
            result.update(failed=True, msg=failed.message)
        step.began = began
        result.update(step.result())
        return result

    def _judge(self, step: steps.Step) -> None:
        args = self._task.args
        manifest = args.get("manifest") or {}
        known = manifest.get("parts", {}).get("tools")
        if not known:
            self._unchecked(step, "the host has no record of its tools")
            return
        tool = Path(args.get("tool") or "")
        if not tool.is_file() or not trust.static(tool.read_bytes()):
            self._unchecked(step, f"the controller has no static tool at '{tool}'")
            return
        raw = index_bytes(args.get("file"), args.get("host_id"), manifest["index"]["sha256"])
        want = trust.wanted(index.decode(raw), known)
        self._repair(step, tool.read_bytes(), want, known, manifest)

    def _unchecked(self, step: steps.Step, why: str) -> None:
        """Policy decides whether a host whose tools cannot be checked goes on; the record says so anyway."""
        if self._task.args.get("required"):
            raise steps.StepFailed(f"{why}, so the host's own tools cannot be checked")
        step.note(f"{why}: the host's own tools were trusted unchecked")

    def _repair(
        self,
        step: steps.Step,
        tool: bytes,
        want: trust.Wanted,
        known: dict[str, Any],
        manifest: dict[str, Any],
    ) -> None:
        """Look, mend what is not as recorded, and look again, until nothing is left or nothing helps."""
        paths = [*known["files"], *known["links"], *known["startup"]]
        mending = ""
        told: set[str] = set()
        for attempt in range(ROUNDS):
            seen = self._ask(tool, mending + trust.scan(paths, known["trees"]) + trust.finish())
            found = trust.problems(want, seen)
            foreign = mounts.extra(manifest["parts"]["mounts"], mounts.parse(seen.mounts))
            over = trust.covering([*paths, *known["trees"]], [mount.point for mount in foreign])
            if not found and not over:
                step.note(f"{len(want)} files of the host's own tools are as recorded")
                return
            for what, path in [("mounts over tools", point) for point in over] + [
                (f"{why} tools", path) for path, why in sorted(found.items())
            ]:
                if path not in told:
                    told.add(path)
                    step.gone(what, path)
            if step.check or attempt == ROUNDS - 1:
                break
            mending = trust.mend(want, found, over, known["chattr"])
        if not step.check:
            shown = [f"{path} is {why}" for path, why in sorted(found.items())]
            shown += [f"something is mounted over {point}" for point in over]
            raise steps.StepFailed(
                "the host's own tools are not the recorded ones and cannot be put back: "
                + "; ".join(shown[:SHOWN]),
                shown,
            )

    def _ask(self, tool: bytes, script: str) -> trust.Seen:
        line = trust.bring(f"ironyard-{secrets.token_hex(8)}", len(tool))
        done = self._low_level_execute_command(line, in_data=tool + script.encode("utf-8", "surrogateescape"))
        seen = trust.read(done["stdout"])
        if not seen.complete:
            said = (done["stderr"] or done["stdout"]).strip()[-300:]
            raise steps.StepFailed(
                "the static tool does not run on the host, so the host's own tools cannot be checked",
                [f"exit {done['rc']}: {said}"],
            )
        return seen
