"""Processes: who runs, under which unit, which of them the platform put there, and how to end the others."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.steps import run

PROC = Path("/proc")
KERNEL_THREAD = 0x00200000  # PF_KTHREAD
EXITING = 0x00000004  # PF_EXITING
INTERPRETERS = re.compile(r"^(python|perl|ruby|node|bash|dash|sh|zsh|java)[\d.]*$")
BEFORE_EXEC_SECONDS = 10.0
HELPER_SECONDS = 2.0
HELPERS_SECONDS = 15.0
SSHD = ("sshd", "sshd-session", "sshd-auth")


@dataclass(frozen=True)
class Process:
    pid: int
    ppid: int
    uid: int
    state: str
    flags: int
    started: int
    command: str
    program: str
    argv: tuple[str, ...]
    group: str

    @property
    def unit(self) -> str:
        """The innermost systemd unit of the control group, or '' outside any."""
        names = [part for part in self.group.split("/") if part.endswith((".service", ".scope"))]
        return names[-1] if names else ""

    @property
    def signature(self) -> str:
        """What the process is: its program, and for an interpreter the script."""
        name = self.program.rsplit("/", 1)[-1]
        if INTERPRETERS.match(name):
            script = next((word for word in self.argv[1:] if not word.startswith("-")), "")
            return f"{self.program} {script}".strip()
        return self.program

    @property
    def exiting(self) -> bool:
        """It has begun to end, and has lost its command line, program and control group already."""
        return bool(self.flags & EXITING)

    @property
    def kernel(self) -> bool:
        return bool(self.flags & KERNEL_THREAD)

    def __str__(self) -> str:
        line = " ".join(self.argv)[:120] or f"[{self.command}]"
        return f"pid {self.pid} uid {self.uid} state {self.state} in {self.unit or self.group or '?'}: {line}"


def scan(proc: Path = PROC) -> dict[int, Process]:
    found = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            process = look(int(entry.name), proc)
            if process:
                found[process.pid] = process
    return found


def look(pid: int, proc: Path = PROC) -> Process | None:
    """One process, or None when it is gone.

    One whose first thread has ended lives on in the others, one of which then speaks for it.
    """
    here = proc / str(pid)
    try:
        uid = here.stat().st_uid
        stat = _stat(here)
        started = int(stat[19])
        if stat[0] in "ZX":
            here = _living_thread(here) or here
            stat = _stat(here)
        argv = (here / "cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0")
        group = _group((here / "cgroup").read_text(errors="replace"))
    except OSError:
        return None
    return Process(
        pid=pid,
        ppid=int(stat[1]),
        uid=uid,
        state=stat[0],
        flags=int(stat[6]),
        started=started,
        command=stat[-1],
        program=_program(here),
        argv=tuple(argv.split("\0")) if argv else (),
        group=group,
    )


def _stat(here: Path) -> list[str]:
    """The fields after the command, and the command as the last one."""
    stat = (here / "stat").read_text(errors="replace")
    command = stat[stat.index("(") + 1 : stat.rindex(")")]
    return [*stat[stat.rindex(")") + 2 :].split(), command]


def _living_thread(here: Path) -> Path | None:
    for entry in (here / "task").iterdir():
        try:
            if _stat(entry)[0] not in "ZX":
                return entry
        except OSError:
            continue
    return None


def _program(here: Path) -> str:
    try:
        return os.readlink(here / "exe").replace(" (deleted)", "")
    except OSError:
        return ""


def _group(text: str) -> str:
    """The path in systemd's hierarchy: the unified one, or name=systemd where version 1 is mounted."""
    lines = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    named = [path for _, controllers, path in lines if controllers == "name=systemd"]
    return next(iter(named + [path for _, controllers, path in lines if not controllers]), "")


def own(processes: dict[int, Process], pid: int | None = None) -> set[int]:
    """The running module, its parents up to the SSH listener, and its children: what must survive."""
    pid = os.getpid() if pid is None else pid
    mine = {pid, *ancestors(processes, pid)}
    pending = [pid]
    while pending:
        parent = pending.pop()
        children = [
            child.pid for child in processes.values() if child.ppid == parent and child.pid not in mine
        ]
        mine.update(children)
        pending += children
    return mine


def ancestors(processes: dict[int, Process], pid: int) -> list[int]:
    chain: list[int] = []
    while pid in processes and processes[pid].ppid not in (0, *chain):
        pid = processes[pid].ppid
        chain.append(pid)
    return chain


def services(processes: dict[int, Process]) -> dict[str, list[str]]:
    """The programs that each service runs now, people's SSH sessions left out: the manifest's record."""
    found: dict[str, set[str]] = {}
    for process in processes.values():
        if process.kernel or not process.unit.endswith(".service") or "user.slice" in process.group:
            continue
        line = [process, *(processes[pid] for pid in ancestors(processes, process.pid) if pid in processes)]
        if not any(_session(one, processes) for one in line):
            found.setdefault(process.unit, set()).add(process.signature)
    return {unit: sorted(signatures) for unit, signatures in sorted(found.items())}


def foreign(
    processes: dict[int, Process],
    manifest: dict[str, Any],
    mine: set[int] | None = None,
    mains: set[int] | None = None,
) -> list[Process]:
    """Processes that the platform did not start, by the manifest's services and units.

    ``mains``: the main processes of services that did not run at enrolment, as systemd knows them.
    """
    mine = own(processes) if mine is None else mine
    found = (one for one in processes.values() if not _ours(one, processes, manifest, mine, mains))
    return sorted(found, key=lambda process: process.pid)


def find(manifest: dict[str, Any]) -> list[Process]:
    """The foreign processes now. What a service of ours has just begun gets a moment to end first.

    A starting engine runs a row of helpers (iptables, modprobe), each for moments; a child that stays longer,
    or a row without an end, is found like any other.
    """
    until = time.monotonic() + HELPERS_SECONDS
    since: dict[tuple[int, int], float] = {}
    while True:
        running, found = _find(manifest)
        now = time.monotonic()
        brief = [
            one
            for one in found
            if helper(one, running, manifest)
            and now - since.setdefault((one.pid, one.started), now) < HELPER_SECONDS
            and now < until
        ]
        if not brief or len(brief) < len(found):
            return [one for one in found if one not in brief]
        time.sleep(0.1)


def _find(manifest: dict[str, Any]) -> tuple[dict[int, Process], list[Process]]:
    running = scan()
    return running, foreign(running, manifest, mains=main_processes(running, manifest))


def helper(process: Process, processes: dict[int, Process], manifest: dict[str, Any]) -> bool:
    """Whether a process is in a recorded service, begun by systemd or by a program recorded for it.

    Systemd's generators, which run whenever it reads its units, are beside it in init.scope. What is about to
    end does not say any more where it was.
    """
    if process.exiting:
        return True
    recorded = manifest["services"].get(process.unit)
    parent = processes.get(process.ppid)
    if parent is None or process.command in SSHD:
        return False
    if process.unit == "init.scope":
        return parent.unit == "init.scope"
    if recorded is None or "user.slice" in process.group:
        return False
    return parent.pid == 1 or (parent.unit == process.unit and parent.signature in recorded)


def main_processes(processes: dict[int, Process], manifest: dict[str, Any]) -> set[int]:
    """What systemd itself started in services that were installed but did not run at enrolment."""
    names = {one.unit for one in processes.values() if "user.slice" not in one.group}
    late = sorted(name for name in names if name.endswith(".service") and name not in manifest["services"])
    if not late:
        return set()
    shown = run("systemctl", "show", "--property=MainPID,ControlPID", "--", *late, timeout=30).out
    return {int(number) for number in re.findall(r"PID=(\d+)", shown)} - {0}


def _ours(
    process: Process,
    processes: dict[int, Process],
    manifest: dict[str, Any],
    mine: set[int],
    mains: set[int] | None,
) -> bool:
    if process.pid == 1 or process.kernel or process.pid in mine or process.state in "ZX":
        return True
    if "user.slice" in process.group:
        return _own_user_manager(process, processes, mine)
    unit = process.unit
    if _before_exec(process, processes):
        return unit.endswith(".service") and known(unit, [*manifest["units"], *manifest["services"]])
    recorded = manifest["services"].get(unit)
    if recorded is not None:
        return process.signature in recorded and not _session(process, processes)
    started = mains is None or bool({process.pid, *ancestors(processes, process.pid)} & mains)
    return unit.endswith(".service") and known(unit, manifest["units"]) and started


def _before_exec(process: Process, processes: dict[int, Process]) -> bool:
    """Systemd's own child that is about to become a service; it stays so for moments only."""
    if process.ppid != 1 or not process.program or process.program != processes[1].program:
        return False
    uptime = Path("/proc/uptime")
    age = float(uptime.read_text().split()[0]) - process.started / os.sysconf("SC_CLK_TCK")
    return age < BEFORE_EXEC_SECONDS


def _own_user_manager(process: Process, processes: dict[int, Process], mine: set[int]) -> bool:
    uids = {processes[pid].uid for pid in mine if pid in processes}
    is_manager = process.command in ("systemd", "(sd-pam)") and process.group.endswith(
        f"user@{process.uid}.service/init.scope"
    )
    return process.uid in uids and is_manager


def _session(process: Process, processes: dict[int, Process]) -> bool:
    """An sshd that serves a connection: its parent is an sshd as well."""
    parent = processes.get(process.ppid)
    return process.command in SSHD and parent is not None and parent.command in SSHD


def known(unit: str, units: Iterable[str]) -> bool:
    """Whether a unit (or the template of an instance) is among the names."""
    template = re.sub(r"@[^.]*\.", "@.", unit)
    return unit in units or template in units


def alive(process: Process, proc: Path = PROC) -> Process | None:
    """The same process, looked at again; None when it ended (also when its number now names another)."""
    now = look(process.pid, proc)
    return now if now and now.started == process.started and now.state not in "ZX" else None


def end(processes: Iterable[Process], grace: float = 5.0) -> list[Process]:
    """SIGTERM, wait at most ``grace`` seconds, SIGKILL, wait again. Returns who survived."""
    waiting = list(processes)
    for number in (signal.SIGTERM, signal.SIGKILL):
        send(waiting, number)
        waiting = _wait(waiting, grace)
        if not waiting:
            break
    return waiting


def send(processes: Iterable[Process], number: int) -> None:
    for process in processes:
        if alive(process):
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue


def halt(manifest: dict[str, Any], rounds: int = 50) -> list[Process]:
    """Stop all foreign processes before any of them is killed: what stands still starts nothing again."""
    stopped: dict[int, Process] = {}
    for _ in range(rounds):
        fresh = [one for one in _find(manifest)[1] if one.pid not in stopped]
        if not fresh:
            break
        send(fresh, signal.SIGSTOP)
        stopped.update({one.pid: one for one in fresh})
    return list(stopped.values())


def _wait(processes: list[Process], seconds: float) -> list[Process]:
    until = time.monotonic() + seconds
    while True:
        left = [now for now in map(alive, processes) if now]
        if not left or time.monotonic() >= until:
            return left
        time.sleep(0.05)


def ssh_sessions(processes: dict[int, Process]) -> list[Process]:
    """The sshd processes that serve connections."""
    return [process for process in processes.values() if _session(process, processes)]


def outdated(processes: dict[int, Process], proc: Path = PROC) -> list[Process]:
    """Processes that still run a program or library which was replaced or removed on the disk."""
    return [
        one for one in processes.values() if not one.kernel and _maps_deleted(proc / str(one.pid) / "maps")
    ]


def _maps_deleted(maps: Path) -> bool:
    try:
        lines = maps.read_text(errors="replace").splitlines()
    except OSError:
        return False
    gone = (line for line in lines if line.endswith(" (deleted)") and " r-xp " in line)
    return any(not line.split(None, 5)[5].startswith(("/dev/", "/memfd:", "/SYSV", "/run/")) for line in gone)
