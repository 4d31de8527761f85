"""`dcgmi diag -j`: run it for as long as somebody waits for the answer, and read both forms that DCGM prints.

DCGM 4 names the entities of each result; DCGM up to 3 lists GPU numbers. Its numbers are not nvidia-smi's:
`dcgmi discovery -l` says which UUID each one is.
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from ansible.module_utils import verdicts
from ansible.module_utils.steps import SEARCH_PATH, Ran, StepFailed, run
from ansible.module_utils.verdicts import CRITICAL, INFO, PASS, UNKNOWN, WARNING, Check

VERDICTS = {"PASS": PASS, "WARN": WARNING, "FAIL": CRITICAL, "SKIP": INFO, "NOT RUN": INFO, "NOT_RUN": INFO}
# dcgmErrorSeverity_enum of DCGM's dcgm_errors.h: 1 monitor, 2 isolate, 4 triage, 5 configuration, 6 reset.
SEVERITIES = {1: "drain", 2: "drain", 4: "service", 5: "service", 6: "reset"}
TOPS = ("DCGM Diagnostic", "DCGM GPU Diagnostic")
NO_ENGINE = re.compile(
    r"unable to connect to host engine|connection (to the host engine )?is not valid", re.IGNORECASE
)
TAKES = 5.0  # seconds that a host engine needs to come up
LOOK = 1.0  # seconds between looks at whether anybody still waits


class Abandoned(StepFailed):
    """Nobody waits for the answer any more, so the GPUs are let go."""


def examine(level: int, gpus: list[str], *, seconds: float) -> list[Check]:
    """One check for each GPU and test that did not simply pass, and one that passes for each other GPU.

    ``gpus`` are the UUIDs that the host has. Raises Abandoned.
    """
    if shutil.which("dcgmi", path=SEARCH_PATH) is None:
        return [verdicts.check("diag", INFO, "DCGM is not installed: no diagnostics were run")]
    discovered = run("dcgmi", "discovery", "-l", timeout=60)
    if NO_ENGINE.search(discovered.out + discovered.err):
        time.sleep(TAKES)
        discovered = run("dcgmi", "discovery", "-l", timeout=60)
    said = watched(("dcgmi", "diag", "-r", str(level), "-j"), seconds=seconds)
    try:
        found = read(said.out, numbers(discovered.out))
    except ValueError as error:
        detail = f"level {level} gave no result that can be read: {error}; {said.tail(200)}"
        return [verdicts.unknown("diag", detail)]
    silent = [uuid for uuid in gpus if uuid not in {one["scope"] for one in found}]
    return [one for one in found if one["verdict"] != PASS] + [
        *_passes(found, level),
        *(verdicts.unknown("diag", f"level {level} says nothing of this GPU", scope=uuid) for uuid in silent),
    ]


def _passes(found: list[Check], level: int) -> Iterator[Check]:
    scopes = dict.fromkeys(one["scope"] for one in found)
    for scope in scopes:
        results = [one["verdict"] for one in found if one["scope"] == scope]
        if not set(results) & {*verdicts.FAILING, WARNING}:
            yield verdicts.passed("diag", f"level {level}, {results.count(PASS)} tests", scope=scope)


def numbers(listed: str) -> dict[int, str]:
    """DCGM's GPU numbers and their UUIDs, of `dcgmi discovery -l`."""
    found: dict[int, str] = {}
    number = None
    for line in listed.splitlines():
        first = re.match(r"\|\s*(\d+)\s*\|\s*Name:", line)
        number = int(first[1]) if first else number
        uuid = re.search(r"Device UUID:\s*(GPU-[0-9a-f-]+)", line)
        if uuid and number is not None:
            found[number] = uuid[1]
    return found


def read(text: str, uuids: dict[int, str]) -> list[Check]:
    """Every result of the document. Raises ValueError for what is no such document or holds no result."""
    document = json.loads(text[max(text.find("{"), 0) :])
    top = next((document[name] for name in TOPS if name in document), None)
    if not isinstance(top, dict):
        raise ValueError("no diagnostic in the document")  # noqa: TRY004 - the document's fault
    if top.get("runtime_error"):
        raise ValueError(str(top["runtime_error"])[:300])
    serials = _entities(document, uuids)
    found = [
        one
        for category in top.get("test_categories") or []
        for test in category.get("tests") or []
        for one in _test(str(test.get("name")), test, serials)
    ]
    if not found:
        raise ValueError("no results in the document")
    return found


def _entities(document: dict[str, Any], uuids: dict[int, str]) -> dict[int, str]:
    """GPU numbers that the document itself names, where discovery did not."""
    named = dict(uuids)
    for group in document.get("entity_groups") or []:
        for entity in group.get("entities") or []:
            if group.get("entity_group") == "GPU" and str(entity.get("device_id", "")).startswith("GPU-"):
                named.setdefault(int(entity["entity_id"]), str(entity["device_id"]))
    return named


def _test(name: str, test: dict[str, Any], uuids: dict[int, str]) -> Iterator[Check]:
    for result in test.get("results") or []:
        status = str(result.get("status", "")).upper()
        verdict = VERDICTS.get(status, UNKNOWN)
        action, said = _warnings(result)
        detail = f"{name}: {status or 'no status'}{': ' * bool(said)}{said}"
        for scope in _scopes(result, uuids):
            fails = verdict in verdicts.FAILING
            yield verdicts.check("diag", verdict, detail, scope=scope, action=action if fails else "none")


def _scopes(result: dict[str, Any], uuids: dict[int, str]) -> list[str]:
    """The GPUs of one result; what belongs to no known GPU belongs to the host."""
    if "entity_group" in result:
        ids = [int(result["entity_id"])] if result["entity_group"] == "GPU" else []
    else:
        ids = [int(part) for part in re.findall(r"\d+", str(result.get("gpu_ids", result.get("gpu_id", ""))))]
    return [uuids.get(number, verdicts.HOST) for number in ids] or [verdicts.HOST]


def _warnings(result: dict[str, Any]) -> tuple[str, str]:
    """(action of the gravest warning, what they say); older releases give plain text."""
    given = result.get("warnings") or []
    listed = [given] if isinstance(given, (str, dict)) else list(given)
    texts, severities = [], []
    for one in listed:
        texts.append(str(one.get("warning", one)) if isinstance(one, dict) else str(one))
        severities.append(int(one.get("error_severity", 0)) if isinstance(one, dict) else 0)
    return SEVERITIES.get(max(severities, default=0), "service"), "; ".join(texts)[:300]


def watched(argv: tuple[str, ...], *, seconds: float) -> Ran:
    """Run it, but end it at once when the other side of our own output is gone.

    A check is called off by ending the connection: the GPUs may be lent already. Raises Abandoned.
    """
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": SEARCH_PATH, "LC_ALL": "C", "HOME": "/root"},
        start_new_session=True,
    ) as process:
        until = time.monotonic() + seconds
        while True:
            try:
                out, _ = process.communicate(timeout=LOOK)
            except subprocess.TimeoutExpired:
                gone = nobody_listens()
                if gone or time.monotonic() > until:
                    _end(process)
                if gone:
                    raise Abandoned("the check was called off") from None
                if time.monotonic() > until:
                    return Ran(argv, 124, "", f"no answer within {seconds:g} s")
            else:
                return Ran(argv, process.returncode, out.decode("utf-8", "replace"), "")


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)  # dcgmi then tells the host engine to stop its tests
    try:
        process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def nobody_listens(descriptor: int = 1) -> bool:
    """Whether the reader of our output has gone away."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
