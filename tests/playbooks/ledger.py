"""A small HTTP server that stands for the ledger.

It answers as the contract says and keeps what it was told.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "iy_test_token"


class Ledger:
    def __init__(self) -> None:
        self.hosts: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.beats: dict[str, int] = {}
        self.finished: dict[str, dict[str, Any]] = {}
        self.indexes: dict[str, bytes] = {}
        self.refusal: dict[str, Any] | None = None
        self.outage = 0
        self.url = ""

    def operation(self, host_id: str) -> str:
        return f"op-{host_id}"

    def answer(self, method: str, path: str, body: Any) -> tuple[int, Any]:  # noqa: PLR0911 - one line a route
        parts = path.strip("/").split("/")
        if (method, path) == ("GET", "/api/v1/inventory"):
            return 200, {"hosts": self.hosts}
        if (method, path) == ("POST", "/api/v1/runs"):
            if self.refusal:
                return 409, self.refusal
            self.runs.append(body)
            return 201, {
                "operations": [{"host_id": h, "operation_id": self.operation(h)} for h in body["hosts"]]
            }
        if method == "GET" and parts[:3] == ["api", "v1", "hosts"] and parts[4:] == ["manifest", "index"]:
            return 200, self.indexes[parts[3]]
        if method == "POST" and parts[:3] == ["api", "v1", "operations"]:
            if self.outage:
                self.outage -= 1
                return 503, {"title": "Unavailable"}
            operation, what = parts[3], parts[4]
            if what == "events":
                self.beats[operation] = self.beats.get(operation, 0) + 1
                self.events.setdefault(operation, []).extend(body["events"])
                return 204, None
            if what == "finish":
                self.finished[operation] = body
                return 200, {}
        return 404, {"title": "Not found", "detail": path}


@contextmanager
def serve() -> Iterator[Ledger]:
    ledger = Ledger()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size) or b"null")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                code, said = 401, {"title": "Not signed in", "detail": "the token is not valid"}
            else:
                code, said = ledger.answer(self.command, self.path, body)
            raw = said if isinstance(said, bytes) else b"" if said is None else json.dumps(said).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = handle_any  # noqa: N815 - the names that http.server calls

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    ledger.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield ledger
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
