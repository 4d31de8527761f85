"""The Docker engine: one that answers is used; else root starts dockerd by hand, and `stop` ends that one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tests.lab.run import LabError, run, say

__all__ = ["Engine", "LabError", "setup"]

START_SECONDS = 40.0
# from the usual settings to those for machines without netfilter or without overlay mounts
ATTEMPTS: tuple[tuple[str, ...], ...] = (
    (),
    ("--iptables=false", "--ip6tables=false"),
    ("--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"),
)
PACKAGES = ("docker.io", "mmdebstrap", "iptables", "openssh-client", "busybox-static")


class Engine:
    def __init__(self, state: Path) -> None:
        self.pid_file = state / "dockerd.pid"
        self.log = state / "dockerd.log"

    def answers(self) -> bool:
        if not shutil.which("docker"):
            return False
        server = run("docker", "info", "--format", "{{.ServerVersion}}", check=False, timeout=30)
        return bool(server.strip())

    def ensure(self) -> str:
        """The engine's version.

        Raises LabError with what is missing when no engine answers and none can be started.
        """
        if not self.answers():
            self._start()
        return run("docker", "info", "--format", "{{.ServerVersion}} ({{.Driver}})").strip()

    def _missing(self) -> str | None:
        if os.geteuid():
            return "No Docker engine answers, and only root can start one: start Docker, or run this as root."
        absent = [name for name in ("docker", "dockerd", "iptables") if not shutil.which(name)]
        if absent:
            names = ", ".join(absent)
            return f"No Docker engine answers; not installed: {names}. Run `python -m tests.lab setup`."
        return None

    def _start(self) -> None:
        if missing := self._missing():
            raise LabError(missing)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        for options in ATTEMPTS:
            say(f"starting dockerd {' '.join(options)}".rstrip())
            if self._started(options):
                return
        last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
        raise LabError(f"dockerd does not start; see {self.log}: {' '.join(last)}")

    def _started(self, options: tuple[str, ...]) -> bool:
        with self.log.open("ab") as log:
            daemon = subprocess.Popen(
                ["dockerd", f"--pidfile={self.pid_file}", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and daemon.poll() is None:
            if self.answers():
                # it outlives this program on purpose; poll() keeps the interpreter from warning about it
                daemon.returncode = 0
                return True
            time.sleep(0.2)
        if daemon.poll() is None:
            daemon.terminate()
            daemon.wait(timeout=30)
        return False

    def started_here(self) -> int | None:
        """The pid of the dockerd that this lab started, while it lives."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self.pid_file.read_text())
            if b"dockerd" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]:
                return pid
        return None

    def stop(self) -> bool:
        """Ends the engine this lab started; an engine that was there before is left alone."""
        pid = self.started_here()
        if pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and Path(f"/proc/{pid}/exe").exists():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.1)
        return True


def setup() -> None:
    """Installs what the lab needs on a Debian or Ubuntu machine; changes nothing when all is there."""
    if all(shutil.which(name) for name in ("dockerd", "mmdebstrap", "iptables", "ssh", "busybox")):
        say("Everything the lab needs is installed.")
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise LabError(
            "Only root on Debian or Ubuntu can install the lab's packages: " + ", ".join(PACKAGES) + "."
        )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["apt-get", "update", "-q"], ["apt-get", "install", "-qy", *PACKAGES]):
        if subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL, check=False).returncode:
            raise LabError(f"{' '.join(argv[:2])} failed.")
