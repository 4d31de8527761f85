"""Following operations: over broken streams, and when somebody presses Ctrl-C."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest

from api.cli import client as cli_client
from api.cli import follow
from api.cli.client import Client
from api.cli.exits import Exit, Failure
from api.core.db import Database
from api.core.operations import router
from tests.api.test_live import claimed, end, say
from tests.cli.conftest import Cli, meanwhile

pytestmark = pytest.mark.timeout(120)


def test_watch_goes_on_where_a_stream_broke(
    cli: Cli, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "STREAM_SECONDS", -1.0)
    monkeypatch.setattr(cli_client, "RECONNECT", 0.1)
    operation_id = claimed(database)

    def go_on() -> None:
        for text in ("one", "two", "three"):
            say(database, operation_id, text, step=text)
            time.sleep(0.8)
        end(database, operation_id)

    with meanwhile(go_on):
        told = cli("operations", "watch", str(operation_id))
    for text in ("one", "two", "three"):
        assert sum(line.rstrip().endswith(f" {text}") for line in told.splitlines()) >= 1
    assert "  thing  ok         two        two" in told
    assert "test.kind thing: succeeded: over" in told


def test_a_server_that_is_gone_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_client, "PATIENCE", 0.3)
    monkeypatch.setattr(cli_client, "RECONNECT", 0.1)
    with Client("http://127.0.0.1:9") as client, pytest.raises(Failure) as caught:
        next(client.events("/operations/x/events"))
    assert caught.value.code is Exit.UNREACHABLE


def test_what_may_not_be_seen_is_refused(cli: Cli) -> None:
    nobody = "00000000-0000-7000-8000-000000000000"
    assert "[not-found]" in cli.refused("operations", "watch", nobody, code=Exit.NOT_FOUND)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("typed", ["cancel", ""])
def test_ctrl_c_asks_whether_to_cancel(monkeypatch: pytest.MonkeyPatch, typed: str) -> None:
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda _prompt: typed)
    interrupts, asked = iter([True, False]), []

    def followed() -> Any:
        if next(interrupts):
            raise KeyboardInterrupt
        return "ended"

    if typed:
        assert follow.interruptible(followed, lambda: asked.append("cancel")) == "ended"
        assert asked == ["cancel"]
    else:
        with pytest.raises(Failure) as caught:
            follow.interruptible(followed, lambda: asked.append("cancel"))
        assert (caught.value.code, asked) == (Exit.OK, [])


def test_ctrl_c_in_a_script_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())

    def followed() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow.interruptible(followed, lambda: None)


def test_what_is_left_in_words() -> None:
    assert [follow.left(seconds) for seconds in (None, 0, 12.4, 600)] == [
        "",
        "",
        "about 12 s left",
        "about 10 min left",
    ]
