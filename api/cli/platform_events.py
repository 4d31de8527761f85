"""What an update is doing, told by the engine's events."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pulumi.automation import EngineEvent
    from pulumi.automation.events import DiagnosticEvent, PolicyEvent, StepEventMetadata

COLOUR = re.compile(r"<\{%.*?%\}>")
CHANGES = ("create", "update", "replace", "delete", "import")
PARTS_OF_A_REPLACEMENT = ("create-replacement", "delete-replaced", "discard-replaced")
DONE = {
    "create": "created",
    "update": "updated",
    "replace": "replaced",
    "delete": "deleted",
    "import": "imported",
    "create-replacement": "created anew",
    "delete-replaced": "deleted the old",
}
DOING = {
    "create": "creating",
    "update": "updating",
    "replace": "replacing",
    "delete": "deleting",
    "import": "importing",
    "create-replacement": "creating anew",
    "delete-replaced": "deleting the old",
}
FROM_PATH = re.compile(r"using pulumi-\S+ from \$PATH")  # said of every plugin that is not Pulumi's own copy
ENDINGS = re.compile(r"^(update|preview|destroy|refresh|resource|stack)\b.*\b(failed|canceled|cancelled)$")


@dataclass(frozen=True)
class Change:
    """One step on one resource; `keys` are the inputs that differ."""

    op: str
    urn: str
    keys: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        return self.urn.split("::")[2].rsplit("$", 1)[-1]

    @property
    def kind(self) -> str:
        """`Release` of `kubernetes:helm.sh/v3:Release`."""
        return "Provider" if self.type.startswith("pulumi:providers:") else self.type.rsplit(":", 1)[-1]

    @property
    def name(self) -> str:
        return self.urn.split("::", 3)[-1]

    @property
    def words(self) -> str:
        return f"{self.kind} {self.name}"

    def document(self) -> dict[str, Any]:
        return {
            "op": self.op,
            "type": self.type,
            "name": self.name,
            "urn": self.urn,
            "keys": list(self.keys),
        }


@dataclass(frozen=True)
class Fault:
    """Why something failed; `urn` is empty where it is no single resource's fault."""

    urn: str
    message: str

    def __str__(self) -> str:
        subject = Change("", self.urn)
        if not self.urn or subject.type == "pulumi:pulumi:Stack":
            return self.message
        return f"{subject.words}: {self.message}"


class Tally:
    """Counts steps as they come. `told` gets each step's word and change when it begins, ends or fails."""

    def __init__(self, told: Callable[[str, Change, float], None] | None = None) -> None:
        self.planned: list[Change] = []
        self.done: list[Change] = []
        self.running: dict[Change, float] = {}
        self.faults: list[Fault] = []
        self.refused: list[Fault] = []
        self.warnings: list[Fault] = []
        self.said: list[str] = []
        self.same = 0
        self._told = told or (lambda _word, _change, _seconds: None)
        self._lock = threading.Lock()

    def take(self, event: EngineEvent) -> None:
        """Called by the engine's thread."""
        with self._lock:
            if event.resource_pre_event:
                self._begin(event.resource_pre_event.metadata, planning=event.resource_pre_event.planning)
            elif event.res_outputs_event:
                self._end(event.res_outputs_event.metadata, planning=event.res_outputs_event.planning)
            elif event.res_op_failed_event:
                self._fail(event.res_op_failed_event.metadata)
            elif event.diagnostic_event:
                self._diagnosed(event.diagnostic_event)
            elif event.policy_event:
                self._judged(event.policy_event)

    def in_flight(self) -> list[tuple[Change, float]]:
        """What is being done, oldest first, and since when (time.monotonic)."""
        with self._lock:
            return list(self.running.items())

    def counts(self) -> dict[str, int]:
        """Number of changes by their kind, in the order of CHANGES."""
        found = Counter(change.op for change in self.planned or self.done)
        return {op: found[op] for op in CHANGES if found[op]}

    def _begin(self, step: StepEventMetadata, *, planning: bool | None) -> None:
        change = _change(step)
        if change is None:
            self.same += step.op.value == "same" and _is_custom(step)
        elif planning:
            if change.op in CHANGES:
                self.planned.append(change)
        else:
            self.running[change] = time.monotonic()
            self._told(DOING[change.op], change, 0.0)

    def _end(self, step: StepEventMetadata, *, planning: bool | None) -> None:
        change = _change(step)
        if change is not None and not planning:
            seconds = self._seconds(change)
            if change.op in CHANGES:
                self.done.append(change)
            self._told(DONE[change.op], change, seconds)

    def _fail(self, step: StepEventMetadata) -> None:
        change = _change(step)
        if change is not None:
            self._told("failed", change, self._seconds(change))

    def _seconds(self, change: Change) -> float:
        began = next((one for one in self.running if (one.op, one.urn) == (change.op, change.urn)), None)
        return time.monotonic() - self.running.pop(began) if began else 0.0

    def _diagnosed(self, event: DiagnosticEvent) -> None:
        message = plain(event.message)
        if event.ephemeral or not message:
            return
        if event.severity == "error" and not ENDINGS.fullmatch(message):
            self.faults.append(Fault(event.urn or "", message))
        elif event.severity == "info#err":
            self.said += message.splitlines()
        elif event.severity == "warning" and not FROM_PATH.match(message):
            self.warnings.append(Fault(event.urn or "", message))

    def _judged(self, event: PolicyEvent) -> None:
        text = " ".join(plain(event.message).split())
        fault = Fault(event.resource_urn or "", f"{text} [{event.policy_name}]")
        (self.refused if event.enforcement_level == "mandatory" else self.warnings).append(fault)


def plain(text: str) -> str:
    """Without the engine's colour marks and its own `error:`."""
    return COLOUR.sub("", text).strip().removeprefix("error: ")


def _change(step: StepEventMetadata) -> Change | None:
    """None for what is no change of a thing: components, the stack, reads."""
    op = step.op.value
    if not _is_custom(step) or op not in DONE:
        return None
    keys = step.detailed_diff or step.diffs or ()
    return Change(op, step.urn, tuple(sorted(keys)))


def _is_custom(step: StepEventMetadata) -> bool:
    state = step.new or step.old
    return bool(state and state.custom)
