"""The simulator without a lab host: its programs run here, on a description and a state of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from tests.lab.fleet import Described

PROGRAMS = Path(__file__).parent / "simulator"


class Simulated:
    """GPUs of one model in a directory of their own."""

    def __init__(
        self, directory: Path, model: str = "h100-sxm", count: int = 2, *, nvlink: bool = True
    ) -> None:
        described = Described("lab", {}, model, count, nvlink, ())
        self.gpus: list[dict[str, Any]] = described.gpus("host")["gpus"]
        (directory / "gpus.json").write_text(json.dumps({"gpus": self.gpus}))
        self.environment = {
            **os.environ,
            "NVIDIA_SIM_GPUS": str(directory / "gpus.json"),
            "NVIDIA_SIM_STATE": str(directory / "state.json"),
        }

    def start(self, program: str, *argv: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROGRAMS / program), *argv]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def _run(self, program: str, argv: Sequence[str]) -> tuple[int, str]:
        with self.start(program, *argv) as process:
            output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def try_smi(self, *argv: str) -> tuple[int, str]:
        """nvidia-smi's exit code and what it printed."""
        return self._run("nvidia_smi.py", argv)

    def smi(self, *argv: str) -> str:
        code, output = self.try_smi(*argv)
        assert code == 0, output
        return output

    def tell(self, *argv: str) -> str:
        code, output = self._run("nvidia_sim.py", argv)
        assert code == 0, output
        return output

    def lspci(self, *argv: str) -> str:
        return self._run("lspci.py", argv)[1]

    def dcgmi(self, *argv: str) -> tuple[int, str]:
        """Its exit code and what it printed."""
        return self._run("dcgmi.py", argv)

    def xml(self) -> ET.Element:
        return ET.fromstring(self.smi("-q", "-x"))

    def query(self, fields: str, *argv: str) -> list[list[str]]:
        text = self.smi(f"--query-gpu={fields}", "--format=csv,noheader,nounits", *argv)
        return [line.split(", ") for line in text.splitlines()]

    def state(self, index: int = 0) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self.tell("show"))["gpus"][self.gpus[index]["uuid"]]
        return shown
