"""Asking for GPUs from a terminal: groups, spreading, trying, offers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.cli.allocate import group
from api.cli.exits import Exit, Failure
from tests.cli.conftest import Cli
from tests.support.ledger import H100

pytestmark = pytest.mark.timeout(120)


def test_groups_on_hosts_of_their_own(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01", gpus=4), fleet("gpu-02", gpus=4)
    said = cli("allocate", "--group", f"2x{H100},same-host", "--group", "1", "--separate-hosts", "--dry-run")
    assert "gpu-01: 2 GPUs, because it was idle and is the tightest fit" in said
    assert said.endswith("Nothing is held: this was a dry run.\n")
    assert cli.json("allocations") == []
    made = cli.json("allocate", "--group", f"2x{H100},same-host", "--group", "1", "--separate-hosts")
    assert [gpu["host"] for gpu in made["gpus"]] == ["gpu-01", "gpu-01", "gpu-02"]
    assert made["wanted"]["groups"] == [{"gpus": 2, "model": H100, "same_host": True}, {"gpus": 1}]


def test_spread_and_refusals(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01", gpus=2), fleet("gpu-02", gpus=2)
    made = cli.json("allocate", "--gpus", "2", "--spread", "--purpose", "a test")
    assert {gpu["host"] for gpu in made["gpus"]} == {"gpu-01", "gpu-02"}
    assert made["wanted"]["placement"] == "spread"
    said = cli.refused("allocate", "--gpus", "2", "--same-host", code=Exit.CONFLICT)
    assert "They are not on one host" in said
    assert "no GPU of the fleet matches mig_profile 1g.10gb" in cli.refused(
        "allocate", "--gpus", "1", "--mig", "1g.10gb", code=Exit.CONFLICT
    )


def test_an_offer_is_taken(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01", gpus=2)
    heading, first, *_ = cli("offers", "--gpus", "2", "--explain").splitlines()
    assert heading.split()[:4] == ["SCORE", "SOURCE", "MODEL", "REGION"]
    assert H100 in first
    assert "now" in first
    best = cli("offers", "--gpus", "2", "--for", "1h", "--best").strip()
    made = cli.json("allocate", "--offer", best)
    assert len(made["gpus"]) == 2
    assert "There is no such offer" in cli.refused("offers", "--model", "none", "--best", code=Exit.NOT_FOUND)
    assert len(cli.json("offers", "--gpus", "1")) == 1


def test_a_reservation(cli: Cli, fleet: Any) -> None:
    fleet("gpu-01", gpus=1)
    begin = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    made = cli.json("allocate", "--gpus", "1", "--from", begin, "--for", "2h")
    assert made["state"] == "reserved"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--gpus", "1", "--group", "1"),
        ("--group", "1", "--model", H100),
        ("--offer", "x", "--same-host"),
        ("--group", "many"),
        ("--group", "1,fast"),
        ("--group", "1,memory=much"),
        ("--gpus", "1", "--from", "later"),
    ],
)
def test_bad_usage(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli.refused("allocate", *arguments, code=Exit.USAGE)


def test_a_group_in_words() -> None:
    text = "8xNVIDIA H200, same-host,nvlink,exclusive-host,region=north,memory=100,mig=1g.18gb,label.rack=b12"
    assert group(text) == {
        "gpus": 8,
        "model": "NVIDIA H200",
        "same_host": True,
        "nvlink": True,
        "exclusive_host": True,
        "region": "north",
        "memory_mib": 100,
        "mig_profile": "1g.18gb",
        "labels": {"rack": "b12"},
    }
    with pytest.raises(Failure):
        group("0xNVIDIA H200")
