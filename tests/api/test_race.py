"""Sixteen clients race for the eight GPUs of one host, over HTTP, two API processes, many times over.

`IRONYARD_RACE_ROUNDS=200` takes two minutes an engine; each round is a race of its own.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bench import claims
from tests.support.server import api_server

ROUNDS = int(os.environ.get("IRONYARD_RACE_ROUNDS", "24"))
RACERS = 16


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def test_never_more_than_there_are(engine: str, request: pytest.FixtureRequest) -> None:
    if engine == "postgresql":
        request.getfixturevalue("postgres")
    with (
        claims.stage(engine, clients=RACERS, hosts=0) as stage,
        api_server(Path(stage.directory), stage.url, processes=2) as url,
    ):
        racers = [claims.Caller(url, key, f"w{number}") for number, key in enumerate(stage.keys)]
        over = claims.race(stage, racers, ROUNDS)
        for racer in racers:
            racer.close()
    assert over == 0
