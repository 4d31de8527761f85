"""A folder served by HTTP to lab hosts, as a mirror would."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Served:
    """``address`` is what hosts ask whose gateway this machine is; ``asked`` are the paths in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.asked: list[str] = []


@contextmanager
def served(folder: Path, gateway: str) -> Iterator[Served]:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, directory=str(folder), **more)

        def send_head(self) -> Any:
            found.asked.append(self.path)
            return super().send_head()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer((gateway, 0), Handler)
    found = Served(f"http://{gateway}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
