"""The benchmarks of the ledger run, at sizes that take seconds, and say what they promise to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parents[1] / "bench"


def said(program: str, arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(BENCH / program), "--engine", "sqlite", "--json", *arguments.split()]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_growth() -> None:
    sizes = "--gpus 80 160 --closed 300 --claims 20 --rounds 2 --pages 4 --page-size 10 --clients 2"
    results = said("growth.py", sizes)
    assert [(one["gpus"], one["closed_holds"]) for one in results] == [(80, 0), (160, 0), (80, 300)]
    for one in results:
        assert one["page_last"] == 4
        assert min(one["p99_ms"], one["page_first_ms"], one["page_last_ms"]) > 0
    assert [one["list"] for one in results] == ["gpus", "gpus", "allocations"]


def test_claims() -> None:
    (one,) = said("claims.py", "--clients 2 --seconds 0.5 --rounds 2 --hosts 60")
    assert one["clients"] == 2
    assert min(one["rate_per_s"], one["p99_ms"], one["cpu_ms_per_request"], one["floor_rate_per_s"]) > 0
    assert (one["rounds"], one["over_allocated"]) == (2, 0)
