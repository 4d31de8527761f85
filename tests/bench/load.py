"""A load generator that costs little: one thread, kept connections, requests that are bytes already."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import psutil

Answer = tuple[int, bytes]
# Requests out, answers in; True at the end when it did what it was for.
Script = Generator[bytes, Answer, bool]
EMPTY = frozenset({204, 304})
PATIENCE = 120  # seconds without any answer, then the server is taken for dead


def request(method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> bytes:
    """The bytes of one request; a body is JSON."""
    if body is not None:
        headers = headers | {"content-type": "application/json", "content-length": str(len(body))}
    lines = [f"{method} {path} HTTP/1.1", "host: bench", *(f"{name}: {it}" for name, it in headers.items())]
    return "\r\n".join((*lines, "", "")).encode() + (body or b"")


class Wire:
    """A kept connection to a server, with one request on its way at most."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self.place = (where.hostname or "", where.port or 80)
        self.sent = self.got = b""
        self.connect()

    def connect(self) -> None:
        self.socket = socket.create_connection(self.place, timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.closing, self.answered = False, False

    def close(self) -> None:
        self.socket.close()

    def send(self, asked: bytes) -> None:
        if self.closing:
            self.close()
            self.connect()
        self.sent, self.got = asked, b""
        self.socket.sendall(asked)

    def receive(self) -> Answer | None:
        """What one read completes; None when more is to come.

        A connection that the server ended while it was idle is made anew, and the request sent again.
        """
        part = self.socket.recv(262144)
        if not part:
            self._send_again()
            return None
        self.got += part
        end = self.got.find(b"\r\n\r\n")
        if end < 0:
            return None
        status, head = int(self.got[9:12]), self.got[:end].lower()
        length = 0 if status in EMPTY else _length(head)
        if len(self.got) < end + 4 + length:
            return None
        self.closing, self.answered = b"\r\nconnection: close" in head, True
        return status, self.got[end + 4 :]

    def _send_again(self) -> None:
        if self.got or not self.answered:
            raise ConnectionError("the server hung up instead of answering")
        self.closing = True
        self.send(self.sent)

    def answer(self) -> Answer:
        while (answer := self.receive()) is None:
            pass
        return answer

    def ask(self, asked: bytes) -> Answer:
        self.send(asked)
        return self.answer()


def _length(head: bytes) -> int:
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"an answer without a length: {head!r}")
    return int(head[at + 17 :].split(b"\r\n", 1)[0])


@dataclass
class Measured:
    """Latencies in seconds, ascending, of the scripts that did what they were for."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0

    def rate(self) -> float:
        return round(len(self.latencies) / self.seconds, 1)

    def percentile_ms(self, share: float) -> float:
        if not self.latencies:
            return float("nan")
        return round(self.latencies[int((len(self.latencies) - 1) * share)] * 1000, 2)

    def count(self, client: _Client, *, done: bool) -> None:
        if done:
            self.latencies.append(time.perf_counter() - client.began)
        else:
            self.failed += 1

    def __add__(self, other: Measured) -> Measured:
        return Measured(
            sorted(self.latencies + other.latencies),
            self.failed + other.failed,
            self.seconds + other.seconds,
        )


class _Client:
    def __init__(self, wire: Wire, script: Callable[[], Script]) -> None:
        self.wire, self.script = wire, script

    def begin(self) -> None:
        self.running = self.script()
        first = next(self.running)
        self.began = time.perf_counter()
        self.wire.send(first)

    def go_on(self) -> bool | None:
        """Whether the script did what it was for; None while it waits or has more to ask."""
        answer = self.wire.receive()
        if answer is None:
            return None
        try:
            following = self.running.send(answer)
        except StopIteration as end:
            return bool(end.value)
        self.wire.send(following)
        return None


def drive(
    clients: Sequence[tuple[Wire, Callable[[], Script]]], *, seconds: float = 1e9, times: int = 10**9
) -> Measured:
    """Each client runs its script again and again, for so long or (all together) so often."""
    made = Measured()
    running = [_Client(wire, script) for wire, script in clients[:times]]
    left = times - len(running)
    with selectors.DefaultSelector() as ready:
        start = time.perf_counter()
        for client in running:
            client.begin()
            ready.register(client.wire.socket, selectors.EVENT_READ, client)
        while ready.get_map():
            events = ready.select(PATIENCE)
            if not events:
                raise TimeoutError(f"no answer for {PATIENCE} seconds")
            for key, _ in events:
                client = key.data
                done = client.go_on()
                if done is not None:
                    made.count(client, done=done)
                    if left <= 0 or time.perf_counter() - start >= seconds:
                        ready.unregister(key.fileobj)
                        continue
                    left -= 1
                    client.begin()
                if client.wire.socket is not key.fileobj:
                    ready.unregister(key.fileobj)
                    ready.register(client.wire.socket, selectors.EVENT_READ, client)
        made.seconds = time.perf_counter() - start
    made.latencies.sort()
    return made


def together(asked: Sequence[tuple[Wire, bytes]]) -> list[Answer]:
    """Send all at once, then collect the answers in the same order."""
    for wire, sent in asked:
        wire.send(sent)
    return [wire.answer() for wire, _ in asked]


class Meter:
    """CPU seconds that processes used since now; those that come later count from their start."""

    def __init__(self, processes: Callable[[], list[psutil.Process]]) -> None:
        self.processes = processes
        self.before = self._read()

    def seconds(self) -> float:
        return sum(spent - self.before.get(pid, 0.0) for pid, spent in self._read().items())

    def _read(self) -> dict[int, float]:
        spent = {}
        for process in self.processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            spent[process.pid] = times.user + times.system
        return spent


def family(pid: int) -> list[psutil.Process]:
    """A process and all that come from it."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
