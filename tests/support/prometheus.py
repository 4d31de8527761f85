"""A real Prometheus, and an exporter that tells what a test says of GPUs, as dcgm-exporter does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2 as httpx
import yaml

from tests.support.postgres import free_port
from tests.support.server import environment, running, wait_for

UTIL, MEMORY = "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED"
ENCODER, ENGINE = "DCGM_FI_DEV_ENC_UTIL", "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
LABELS = (
    'gpu="0",UUID="{uuid}",pci_bus_id="00000000:53:00.0",device="nvidia0",'
    'modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-node-1",DCGM_FI_DRIVER_VERSION="580.105.08"'
)


class Exporter:
    """What each GPU shows: metric → value. A GPU that is not in `shows` is not exported."""

    def __init__(self) -> None:
        self.shows: dict[str, dict[str, float]] = {}
        self.instances: set[str] = set()  # GPUs that are cut into MIG instances

    def text(self) -> str:
        lines = [
            f"{metric}{{{LABELS.format(uuid=uuid)}{extra}}} {value}"
            for uuid, values in self.shows.items()
            for metric, value in values.items()
            for extra in self._labels(uuid)
        ]
        return "\n".join([*lines, ""])

    def _labels(self, uuid: str) -> list[str]:
        if uuid not in self.instances:
            return [""]
        return [f',GPU_I_PROFILE="3g.40gb",GPU_I_ID="{number}"' for number in (1, 2)]


@contextmanager
def exporting(exporter: Exporter) -> Iterator[str]:
    """The exporter's `address:port`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = exporter.text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join(10)


@contextmanager
def prometheus(program: str, folder: Path, targets: list[str]) -> Iterator[str]:
    """The URL of a Prometheus that scrapes the targets every half second."""
    job = {"job_name": "dcgm-exporter", "scrape_interval": "500ms", "scrape_timeout": "500ms"}
    job["static_configs"] = [{"targets": targets}]  # type: ignore[assignment]
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / "prometheus.yml"
    written.write_text(yaml.safe_dump({"scrape_configs": [job]}))
    address = f"127.0.0.1:{free_port()}"
    command = [
        program,
        f"--config.file={written}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
    ]
    log = written.with_suffix(".log")
    with running(command, log, environment(folder, "")) as process:
        wait_for(lambda: httpx.get(f"http://{address}/-/ready").status_code == 200, process, log)
        yield f"http://{address}"


def until_scraped(url: str, query: str, *, seconds: float = 20) -> None:
    """Wait until the query has an answer."""
    deadline = time.monotonic() + seconds
    while not httpx.get(f"{url}/api/v1/query", params={"query": query}).json()["data"]["result"]:
        assert time.monotonic() < deadline, f"{query} has no answer"
        time.sleep(0.1)
