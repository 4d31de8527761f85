"""Programs in the background: known while they live, gone with who started them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.cluster.lab import ClusterLab
from tests.lab.cluster.processes import Daemon, free_ports
from tests.lab.run import LabError

ROOT = Path(__file__).resolve().parents[3]
SLEEP = ("sleep", "600")


def until(holds: Callable[[], bool]) -> bool:
    for _ in range(200):
        if holds():
            return True
        time.sleep(0.05)
    return False


def test_a_daemon_is_known_by_others_and_ended_by_its_pid(tmp_path: Path) -> None:
    daemon = Daemon("sleep", tmp_path)
    daemon.start(*SLEEP, tied=True)
    assert Daemon("sleep", tmp_path).pid == daemon.pid
    daemon.stop()
    assert daemon.pid is None


def test_a_pid_that_another_program_has_now_is_left_alone(tmp_path: Path) -> None:
    daemon = Daemon("sleep", tmp_path)
    daemon.pid_file.write_text(f"{os.getpid()} 1")
    assert daemon.pid is None
    daemon.stop()


def test_what_ends_at_once_says_its_last_words(tmp_path: Path) -> None:
    daemon = Daemon("sh", tmp_path)
    daemon.start("sh", "-c", "echo no such flag; exit 2", tied=True)
    with pytest.raises(LabError, match="no such flag"):
        daemon.wait(lambda: False, 30)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_daemon_dies_with_who_started_it(tmp_path: Path, tied: bool) -> None:
    program = (
        "import os, signal; from pathlib import Path; from tests.lab.cluster.processes import Daemon;"
        f"Daemon('sleep', Path({str(tmp_path)!r})).start('sleep', '600', tied={tied});"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)
    daemon = Daemon("sleep", tmp_path)
    assert until(lambda: daemon.pid is None) is tied
    daemon.stop()
    assert daemon.pid is None


def test_ports_are_free_and_different() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20


def test_down_removes_its_own_files_only(tmp_path: Path) -> None:
    (tmp_path / "control-plane").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    ClusterLab.known(tmp_path).down()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
