"""Changing a host from the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from api.cli.exits import Exit
from tests.cli.conftest import Cli
from tests.cli.test_hosts import KEY


def test_only_what_is_given_changes(cli: Cli, fleet: Any, tmp_path: Path) -> None:
    fleet("gpu-01", labels={"rack": "b1", "row": "3"})
    change = ("host", "set", "gpu-01")
    said = cli(*change, "--label", "rack=b2", "--no-label", "row", "--region", "north")
    assert said == "gpu-01 is changed: region, labels.\n"
    found = cli.json("host", "show", "gpu-01")
    assert (found["labels"], found["region"], found["port"]) == ({"rack": "b2"}, "north", 22)
    key = tmp_path / "key"
    key.write_text(KEY)
    found = cli.json(*change, "--key", str(key), "--port", "2222", "--trust-new-host-key")
    assert (found["port"], found["key_reference"], found["host_keys"]) == (2222, None, [])
    assert cli.json(*change, "--host-key", "ssh-ed25519 AAAA")["host_keys"] == ["ssh-ed25519 AAAA"]
    cli.refused(*change, code=Exit.USAGE)


def test_a_host_s_time_and_history(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01", gpus=2)
    cli("host", "cordon", "gpu-01", "--reason", "fan 3 is loud")
    log = cli("host", "log", "gpu-01")
    for words in ("host.cordoned", "fan 3 is loud", "host.enroll", "state=idle"):
        assert words in log
    only = cli.json("host", "log", "gpu-01", "--source", "operation", "--limit", "1")
    assert [entry["what"] for entry in only] == ["host.reclaim"]
    time.sleep(1.1)
    assert "host.reclaim: 1 succeeded" in cli("host", "usage", "gpu-01")
    assert cli.json("host", "usage", "gpu-01")["gpu_seconds"]["enrolled"] > 0
    cli.refused("host", "usage", "gpu-01", "--from", "2001-01-01", "--to", "2001-02-01", code=Exit.INVALID)


def test_the_policy_needs_a_command(cli: Cli, fleet: Any, app: FastAPI) -> None:
    fleet("gpu-01")
    policy = ("host", "set", "gpu-01", "--reclaim-policy", "reimage")
    assert "IRONYARD_REIMAGE_COMMAND" in cli.refused(*policy, code=Exit.INVALID)
    app.state.settings = app.state.settings.model_copy(update={"reimage_command": "true"})
    assert cli.json(*policy)["reclaim_policy"] == "reimage"
    assert "reclaim policy  reimage" in cli("host", "show", "gpu-01")
