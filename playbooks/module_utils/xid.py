"""Xid errors of the kernel's log, and what they mean for the GPUs that they name."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils import verdicts
from ansible.module_utils.steps import SEARCH_PATH, Ran, StepFailed
from ansible.module_utils.verdicts import Check
from ansible.module_utils.xid_table import XIDS

LINE = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})[^)]*\): (\d+)")
WHEN = re.compile(r"^\[?\s*(\d+(?:\.\d+)?)\]?\s")
MOST = 2000  # Xids of one log; the newest
DATED = re.compile(r"^\[(\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})\]")
JUDGED = {"none": verdicts.INFO, "restart-application": verdicts.WARNING}


@dataclass(frozen=True)
class Event:
    """``at`` in seconds since 1970 (None where the log's line does not say), ``bus`` as 0000:9b:00."""

    at: float | None
    bus: str
    code: int


def parse(text: str, *, booted: float | None = None) -> list[Event]:
    """Xid lines of `journalctl -o short-unix`, `dmesg` (seconds since ``booted``) or `dmesg -T`."""
    found = []
    for line in text.splitlines():
        named = LINE.search(line)
        if named:
            found.append(Event(moment(line, booted), named[1][-10:].lower(), int(named[2])))
    return found


def moment(line: str, booted: float | None) -> float | None:
    dated = DATED.match(line)
    if dated:
        return time.mktime(time.strptime(dated[1], "%a %b %d %H:%M:%S %Y"))
    stamped = WHEN.match(line)
    if not stamped:
        return None
    return float(stamped[1]) + (booted or 0.0 if line.startswith("[") else 0.0)


def boot_time(stat: Path = Path("/proc/stat")) -> float | None:
    found = re.search(r"^btime (\d+)$", stat.read_text(), re.MULTILINE)
    return float(found[1]) if found else None


def run(*argv: str, timeout: float) -> Ran:
    """As in steps, but of what the command prints only Xids are kept: a tenant may have filled the log."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={"PATH": SEARCH_PATH, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        return Ran(argv, 127, "", f"{argv[0]}: not found")
    watch = threading.Timer(timeout, process.kill)
    watch.start()
    last = b""
    kept: deque[bytes] = deque(maxlen=MOST)
    with process:
        for line in process.stdout or ():
            last = line
            if b"NVRM: Xid" in line:
                kept.append(line)
    watch.cancel()
    said = b"".join(kept).decode("utf-8", "replace")
    return Ran(argv, process.returncode, said, "" if kept else last.decode("utf-8", "replace"))


def read(since: float) -> list[Event]:
    """Xids since then, from the journal and from the kernel's own ring, each once.

    Raises StepFailed when neither can be read. Lines of the kernel are asked for by name rather than by
    transport, so that they are also found where a log daemon passes them on.
    """
    asked = ("-t", "kernel", "-o", "short-unix", "--no-pager", "--since", f"@{int(since)}")
    journal = run("journalctl", *asked, timeout=120)
    booted = boot_time()
    ring = run("dmesg", timeout=30)
    if not journal.ok and not ring.ok:
        raise StepFailed("the kernel's log cannot be read", [journal.tail(), ring.tail()])
    found = parse(journal.out) if journal.ok else []
    found += parse(ring.out, booted=booted) if ring.ok else []
    return since_then(found, since)


def since_then(found: list[Event], since: float) -> list[Event]:
    """What happened then or later; a line of unknown time may have. Twins of the two logs are one event."""
    kept: list[Event] = []
    for event in sorted(found, key=lambda one: (one.at or 0.0, one.bus, one.code)):
        twin = any(
            (one.bus, one.code) == (event.bus, event.code)
            and abs((one.at or 0.0) - (event.at or 0.0)) < 2.0  # the two clocks differ a little
            for one in kept[-20:]
        )
        if not twin and (event.at is None or event.at >= since):
            kept.append(event)
    return kept


def judge(
    events: list[Event], gpus: list[dict[str, Any]], *, reset_at: float = 0.0, booted: float = 0.0
) -> list[Check]:
    """One check for each GPU and code, and one that passes for each GPU without any.

    A fault that needs no more than a reset (or a GPU that nobody uses, and then a reset) is past once the GPU
    was reset after it; the same goes for a reboot of the host.
    """
    names = {str(gpu["pci_address"])[:10]: gpu["uuid"] for gpu in gpus}
    groups: dict[tuple[str, int], list[Event]] = {}
    for event in events:
        groups.setdefault((event.bus, event.code), []).append(event)
    checks = [
        _judge_one(code, of_code, names.get(bus), bus, reset_at=reset_at, booted=booted)
        for (bus, code), of_code in sorted(groups.items())
    ]
    quiet = [uuid for bus, uuid in names.items() if not any(event.bus == bus for event in events)]
    return checks + [verdicts.passed("xid", "none in the kernel's log", scope=uuid) for uuid in quiet]


def _judge_one(
    code: int, events: list[Event], uuid: str | None, bus: str, *, reset_at: float, booted: float
) -> Check:
    known = XIDS.get(code)
    scope = uuid or verdicts.HOST
    times = f"{len(events)} times" if len(events) > 1 else "once"
    where = "" if uuid else f" on {bus}, which is no GPU of this host now"
    if known is None:
        detail = f"Xid {code} is not in our table, seen {times}{where}: look it up"
        return verdicts.check("xid", verdicts.WARNING, detail, scope=scope)
    detail = f"Xid {code} ({known.mnemonic}): {known.meaning}, seen {times}{where}"
    last = max((event.at for event in events if event.at is not None), default=None)
    mended = {"reset": max(reset_at, booted), "drain": max(reset_at, booted), "reboot": booted}.get(
        known.action, 0.0
    )
    if last is not None and last < mended:
        return verdicts.check(
            "xid",
            verdicts.WARNING,
            f"{detail}; mended by a {'reboot' if last < booted else 'reset'} since",
            scope=scope,
        )
    verdict = JUDGED.get(known.action, verdicts.CRITICAL)
    return verdicts.check("xid", verdict, detail, scope=scope, action=known.action)
