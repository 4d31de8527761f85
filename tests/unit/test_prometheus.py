"""Asking Prometheus: only a whole answer is one, and what is not measured is unknown."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from api.monitoring.prometheus import Prometheus, Unanswered
from api.monitoring.utilisation import BATCH, NO_TIME, measure
from tests.support.postgres import free_port

Answer = Callable[[str], tuple[int, str]]


class Server:
    def __init__(self) -> None:
        self.answer: Answer = lambda _: (200, vector([]))
        self.asked: list[str] = []
        self.url = ""


def vector(rows: list[tuple[dict[str, str], str]], **more: Any) -> str:
    result = [{"metric": metric, "value": [1773114089.184, value]} for metric, value in rows]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}, **more})


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            assert self.path == "/under/api/v1/query"
            made.asked.append(form["query"][0])
            status, text = made.answer(form["query"][0])
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    made.url = f"http://127.0.0.1:{listening.server_address[1]}/under/"
    yield made
    listening.shutdown()
    listening.server_close()
    thread.join(10)


def ask(url: str) -> dict[str, float]:
    with Prometheus(url, timeout=5) as prometheus:
        return prometheus.ask("DCGM_FI_DEV_GPU_UTIL", "UUID")


def test_a_recorded_answer_is_read(server: Server, contracts: Path) -> None:
    recorded = contracts / "dcgm" / "promql-gpu-memory-used-dcgm-fi-dev-fb-used.json"
    server.answer = lambda _: (200, recorded.read_text())
    found = ask(server.url)
    assert len(found) == 16
    assert found["GPU-c4529c8d-69c4-b61d-e0bc-7b2460096005"] == 74166


def test_what_is_no_number_is_left_out(server: Server) -> None:
    rows = [({"UUID": "GPU-1"}, "NaN"), ({"UUID": "GPU-2"}, "+Inf"), ({"UUID": "GPU-3"}, "1e1")]
    server.answer = lambda _: (200, vector(rows))
    assert ask(server.url) == {"GPU-3": 10}


REFUSED = json.dumps({"status": "error", "errorType": "execution", "error": "too many samples"})
SCALAR = json.dumps({"status": "success", "data": {"resultType": "scalar", "result": [1, "1"]}})


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (422, REFUSED, "refused: execution: too many samples"),
        (200, vector([], warnings=["store x is down"]), "answered in part: store x is down"),
        (200, "<html>Sign in</html>", "answered 200 and no vector"),
        (502, "", "answered 502 and no vector"),
        (200, SCALAR, "no vector"),
        (200, "[]", "no vector"),
        (200, '{"status": "success"}', "no vector"),
        (200, vector([({"gpu": "0"}, "1")]), "no vector"),
        (200, vector([({"UUID": "GPU-1"}, "one")]), "no vector"),
    ],
)
def test_everything_else_is_no_answer(server: Server, status: int, text: str, said: str) -> None:
    server.answer = lambda _: (status, text)
    with pytest.raises(Unanswered, match=said):
        ask(server.url)


def test_nobody_there() -> None:
    with pytest.raises(Unanswered, match="cannot be reached"):
        ask(f"http://127.0.0.1:{free_port()}")


def test_a_slow_one_is_not_waited_for(server: Server) -> None:
    done = threading.Event()

    def late(_: str) -> tuple[int, str]:
        done.wait(5)
        return 200, vector([])

    server.answer = late
    with Prometheus(server.url, timeout=0.2) as prometheus, pytest.raises(Unanswered, match="Timeout"):
        prometheus.ask("up", "UUID")
    done.set()


def test_many_gpus_are_asked_for_in_batches_and_not_past_the_end_of_the_time(server: Server) -> None:
    uuids = [f"GPU-{number:04}" for number in range(BATCH + 1)]
    times = iter([0.0, 2.0])
    with Prometheus(server.url) as prometheus:
        found = measure(prometheus, uuids, 600, until=1.0, monotonic=lambda: next(times))
    assert found.readings == {}
    reasons = [found.unknown[uuid] for uuid in uuids]
    assert reasons[BATCH:] == [NO_TIME]
    assert len(set(reasons[:BATCH])) == 1
    assert all(uuids[-1] not in query for query in server.asked)


def test_a_batch_that_is_not_answered_is_unknown_and_the_next_is_measured(server: Server) -> None:
    last = f"GPU-{BATCH:04}"
    uuids = [f"GPU-{number:04}" for number in range(BATCH + 1)]

    def answer(query: str) -> tuple[int, str]:
        if last not in query:
            return 503, ""
        value = "60" if "count_over_time" in query else "3"
        return 200, vector([({"UUID": last}, value)] if "_PROF_" not in query or " or " in query else [])

    server.answer = answer
    with Prometheus(server.url) as prometheus:
        found = measure(prometheus, uuids, 600)
    assert found.readings.keys() == {last}
    assert (found.readings[last].most, found.readings[last].covered) == (3, 1)
    assert len(found.unknown) == BATCH
    assert "answered 503" in found.unknown[uuids[0]]
