"""The client of the commands asks again safely, and writes back only what it has read."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import pytest

from api.cli.client import Changed, Client, connect
from api.cli.exits import Exit
from tests.cli.conftest import Cli

QUOTAS = "/workspaces/default/quotas"


@pytest.fixture
def answers_lost(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first answer to every change never arrives; the methods of all requests sent."""
    sent: list[str] = []
    call = Client._call

    def lossy(self: Client, method: str, *more: Any) -> httpx.Response:
        sent.append(method)
        response = call(self, method, *more)
        if method != "GET" and sent.count(method) == 1:
            raise httpx.ReadError("the connection broke")
        return response

    monkeypatch.setattr(Client, "_call", lossy)
    return sent


def test_a_change_whose_answer_was_lost_is_made_once(cli: Cli, answers_lost: list[str]) -> None:
    """Without a key the second request would be told that it exists already, or that it is gone."""
    cli("workspace", "create", "vision")
    assert answers_lost == ["POST", "POST"]
    answers_lost.clear()
    user = cli.json("user", "create", "ada@example.org")["id"]
    with connect() as client:
        client.send("PUT", f"/workspaces/vision/members/{user}", {"role": "member"})
        answers_lost.clear()
        client.send("DELETE", f"/workspaces/vision/members/{user}")
    assert answers_lost == ["DELETE", "DELETE"]


def written(rows: list[Any]) -> dict[str | None, int]:
    return {row["model"]: row["gpu_limit"] for row in rows}


@pytest.mark.usefixtures("cli")
def test_what_somebody_else_wrote_meanwhile_is_kept() -> None:
    with connect() as client:

        def add_one(present: list[Any]) -> dict[str, Any]:
            limits = written(present)
            if "theirs" not in limits:
                client.send("PUT", QUOTAS, {"gpus": 8, "models": {"theirs": 1}})
            return {"gpus": 8, "models": {name: n for name, n in limits.items() if name} | {"ours": 1}}

        assert written(client.revise("PUT", QUOTAS, add_one)) == {None: 8, "theirs": 1, "ours": 1}


@pytest.mark.usefixtures("cli")
def test_who_is_overtaken_every_time_says_so() -> None:
    with connect() as client:
        limits = iter(range(10, 20))

        def overtaken(_: Any) -> dict[str, Any]:
            client.send("PUT", QUOTAS, {"gpus": next(limits)})
            return {"gpus": 1}

        with pytest.raises(Changed) as caught:
            client.revise("PUT", QUOTAS, overtaken)
        assert caught.value.code is Exit.CONFLICT
        assert "[version-conflict]" in caught.value.sentence
        assert written(client.get(QUOTAS)) == {None: 12}
