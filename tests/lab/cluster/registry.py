"""An OCI registry on loopback, without TLS or passwords."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.lab.cluster.processes import Daemon, answers, free_ports
from tests.lab.cluster.tools import Tools

READY_SECONDS = 30.0


class Registry:
    def __init__(self, folder: Path, tools: Tools, *, tied: bool = True) -> None:
        self.folder = folder
        self.tools = tools
        self.tied = tied
        self.daemon = Daemon("docker-registry", folder)

    @property
    def running(self) -> bool:
        return self.daemon.pid is not None

    @property
    def address(self) -> str:
        """Host and port."""
        return str(json.loads(self._config.read_text())["http"]["addr"])

    @property
    def charts(self) -> str:
        """The OCI folder that holds the charts."""
        return f"oci://{self.address}/charts"

    @property
    def _config(self) -> Path:
        return self.folder / "registry.yml"

    def start(self) -> None:
        """Raises LabError with its log when it does not start."""
        if self.running:
            return
        (port,) = free_ports(1)
        self.folder.mkdir(parents=True, exist_ok=True)
        config: dict[str, Any] = {
            "version": 0.1,
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {
                "filesystem": {"rootdirectory": str(self.folder / "registry-data")},
                "delete": {"enabled": True},
            },
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        self._config.write_text(json.dumps(config))
        self.daemon.start(self.tools["docker-registry"], "serve", str(self._config), tied=self.tied)
        self.daemon.wait(lambda: answers(port), READY_SECONDS)

    def stop(self) -> None:
        self.daemon.stop()

    def repositories(self) -> list[str]:
        return list(self._get("/v2/_catalog?n=1000")["repositories"])

    def tags(self, repository: str) -> list[str]:
        return list(self._get(f"/v2/{repository}/tags/list")["tags"])

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            return json.loads(answer.read())
