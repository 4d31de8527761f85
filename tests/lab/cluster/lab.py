"""The whole lab in one folder: control plane, chart registry, the programs' folder for PATH."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.lab.cluster import charts
from tests.lab.cluster.control_plane import ControlPlane
from tests.lab.cluster.engine import environment
from tests.lab.cluster.registry import Registry
from tests.lab.cluster.tools import NONE, Tools, ensure

PROVIDER = "pulumi-resource-kubernetes"
PARTS = (
    "bin",
    "bin-policies",
    "charts",
    "control-plane",
    "helm-cache",
    "helm-config",
    "helm-data",
    "registry",
)
HOST = ("pulumi-language-python", "pulumi-language-python-exec")
NAMED = "IRONYARD_KUBERNETES_PROVIDER"
CHARTS = "IRONYARD_LAB_CHARTS"
ROOT = Path(__file__).resolve().parents[3]
HERE = Path(os.environ.get("IRONYARD_CLUSTER_DIR", ROOT / ".ironyard" / "cluster"))


@dataclass
class ClusterLab:
    folder: Path
    tools: Tools
    control_plane: ControlPlane
    registry: Registry

    @classmethod
    def at(cls, folder: Path, *, tied: bool) -> ClusterLab:
        """Builds the tools where they are missing.

        Raises ToolsMissing with one sentence when that is not possible on this machine.
        """
        folder.mkdir(parents=True, exist_ok=True)
        return cls.known(folder, ensure(), tied=tied)

    @classmethod
    def known(cls, folder: Path, made: Tools = NONE, *, tied: bool = False) -> ClusterLab:
        """What may run in `folder`; without tools it can be looked at and stopped."""
        plane = ControlPlane(folder / "control-plane", made, tied=tied)
        return cls(folder, made, plane, Registry(folder / "registry", made, tied=tied))

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which `pulumi`, `helm` and `kubectl` use this lab."""
        return environment(self.bin, self.control_plane.kubeconfig, self.folder)

    @property
    def policy_environment(self) -> dict[str, str]:
        """Another PATH, without the language host that was built here.

        It is older than the engine, which would start policy packs through it, and it cannot.
        """
        return environment(self.folder / "bin-policies", self.control_plane.kubeconfig, self.folder)

    def up(self, pins: Iterable[charts.Pin], contracts: Path) -> None:
        """An empty API and a registry with one chart a pin; what runs already stays."""
        self.tools.link(self.bin)
        self._place_provider(self.bin)
        self.tools.link(self.folder / "bin-policies", leave_out=HOST)
        self._place_provider(self.folder / "bin-policies")
        self.control_plane.start()
        if not self.registry.running:
            self.registry.start()
            charts.publish(pins, contracts, self.folder / "charts", self.registry.charts, self.tools)
        self._write_env_file()

    def down(self) -> None:
        self.registry.stop()
        self.control_plane.stop()
        for name in PARTS:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        self.env_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a folder that holds anything of others stays
            self.folder.rmdir()

    def _write_env_file(self) -> None:
        programs = shlex.quote(str(Path(sys.executable).parent))
        lines = [f'export PATH={programs}:"$PATH":{shlex.quote(str(self.bin))}']
        exported = {**self.environment, CHARTS: self.registry.charts}
        lines += [f"export {k}={shlex.quote(v)}" for k, v in exported.items() if k != "PATH"]
        self.env_file.write_text("\n".join(lines) + "\n")

    @property
    def env_file(self) -> Path:
        return self.folder / "env.sh"

    @staticmethod
    def _place_provider(folder: Path) -> None:
        """The real provider where there is one (on PATH or named by a variable), else the stand-in."""
        place = folder / PROVIDER
        place.unlink(missing_ok=True)
        named = os.environ.get(NAMED)
        if named:
            place.symlink_to(named)
        elif not shutil.which(PROVIDER):
            place.write_text(
                "#!/bin/sh\n"
                f"PYTHONPATH={shlex.quote(str(ROOT))} PYTHONDONTWRITEBYTECODE=1 "
                f'exec {shlex.quote(sys.executable)} -m tests.lab.cluster.provider "$@"\n'
            )
            place.chmod(0o755)
