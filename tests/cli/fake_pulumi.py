"""A `pulumi` that plays back a scenario: for what the command prints and asks, not for what Pulumi does.

`FAKE_PULUMI` names a folder: `scenario.json` says what to answer, `calls.jsonl` gets what was called. The
version is one to which the Automation API gives a file for events.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

PLACE = Path(os.environ["FAKE_PULUMI"])
SEEN = ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_SKIP_UPDATE_CHECK")


def option(arguments: list[str], name: str) -> str | None:
    return arguments[arguments.index(name) + 1] if name in arguments else None


def main() -> int:
    scenario: dict[str, Any] = json.loads((PLACE / "scenario.json").read_text())
    arguments = [word for word in sys.argv[1:] if word != "--non-interactive"]
    if arguments == ["version"]:
        print(scenario.get("version", "v3.200.0"))
        return 0
    with (PLACE / "calls.jsonl").open("a") as log:
        seen = {name: os.environ.get(name) for name in SEEN}
        log.write(json.dumps({"arguments": arguments, "environment": seen}) + "\n")
    match arguments:
        case ["stack", "select", *_]:
            return stack_is_there(arguments)
        case ["stack", "init", name, *_]:
            (PLACE / f"{name}.stack").touch()
        case ["stack", "export", *_]:
            print(json.dumps({"version": 3, "deployment": {"resources": scenario.get("state", [])}}))
        case ["stack", "output", *_]:
            hidden = (
                {} if "--show-secrets" in arguments else dict.fromkeys(scenario.get("secret", ()), "[secret]")
            )
            print(json.dumps({**scenario.get("outputs", {}), **hidden}))
        case ["stack", "history", *_]:
            print(json.dumps([HISTORY]))
        case [("preview" | "up" | "destroy") as operation, *_]:
            return operate(operation, arguments, scenario)
    return answer(arguments[0], scenario)


def stack_is_there(arguments: list[str]) -> int:
    name = option(arguments, "--stack")
    if (PLACE / f"{name}.stack").exists():
        return 0
    print(f"error: no stack named '{name}' found", file=sys.stderr)
    return 255


def operate(operation: str, arguments: list[str], scenario: dict[str, Any]) -> int:
    log = option(arguments, "--event-log")
    assert log is not None
    with Path(log).open("a") as out:
        out.writelines(map(line, scenario.get(operation, ())))
        out.flush()
        if scenario.get("waits") == operation:
            wait_for_a_signal()
        out.write(
            json.dumps({"sequence": 998, "timestamp": 0, "summaryEvent": {"resourceChanges": {}}}) + "\n"
        )
        out.write(json.dumps({"sequence": 999, "timestamp": 0, "cancelEvent": {}}) + "\n")
    return answer(operation, scenario)


def line(event: dict[str, Any]) -> str:
    return json.dumps({"sequence": 0, "timestamp": 0, **event}) + "\n"


def wait_for_a_signal() -> None:
    def stop(*_: object) -> None:
        (PLACE / "stopped").touch()
        print("error: update canceled", file=sys.stderr)
        sys.exit(255)

    signal.signal(signal.SIGINT, stop)
    (PLACE / "waiting").touch()
    time.sleep(60)


def answer(operation: str, scenario: dict[str, Any]) -> int:
    wrong = scenario.get("errors", {}).get(operation)
    if wrong is None:
        return 0
    print(wrong, file=sys.stderr)
    return 255


HISTORY = {
    "kind": "update",
    "startTime": "2026-01-01T00:00:00.000Z",
    "message": "",
    "environment": {},
    "config": {},
    "result": "succeeded",
    "endTime": "2026-01-01T00:00:01.000Z",
    "version": 1,
    "resourceChanges": {},
}

if __name__ == "__main__":
    sys.exit(main())
