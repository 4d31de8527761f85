"""What `up --enroll-from` does with the hosts that its program names."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from api.cli.client import connect
from api.cli.enrollment import Described, Fleet, Program, summary
from api.cli.exits import Failure
from api.core.db import Database
from api.core.operations.models import Operation
from tests.cli.conftest import Cli, meanwhile
from tests.support import ledger

pytestmark = pytest.mark.timeout(120)
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGrGmXXhVo0oGvqhv2aUm1gqbmYEWAkgSKsAoGqVqVqV"


class Enrolling:
    """Runs the enrollment and keeps what it said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stopping = threading.Event()

    def __call__(self, *described: Described) -> list[Any]:
        with connect() as client:
            return Fleet(client, self.said.append, self.stopping).enroll(list(described))


@pytest.fixture
def enroll(cli: Cli) -> Enrolling:
    return Enrolling()


def named(name: str, address: str = "192.0.2.1", **more: Any) -> Described:
    return Described(name, address, "/nowhere/key", region="test", **more)


def present(cli: Cli, name: str, **more: Any) -> Described:
    """As the ledger has it."""
    return named(name, cli.json("host", "show", name)["address"], **more)


def open_operation(database: Database, kind: str) -> Operation:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with database.snapshot() as tx:
            found = tx.execute(
                ledger.sa.select(Operation).where(Operation.kind == kind, Operation.ended_at.is_(None))
            ).scalar_one_or_none()
        if found is not None:
            return found
        time.sleep(0.1)
    raise AssertionError(f"no {kind} began")


def finish_enrollment(database: Database, gpus: dict[str, Any] | None = None) -> Operation:
    begun = open_operation(database, "host.enroll")
    facts = gpus or ledger.facts(2)
    ledger.finish(database, begun.subject_id, ledger.report("enroll", facts=facts, manifest={"of": "x"}))
    ledger.finish(database, begun.subject_id, ledger.report("reclaim"))
    return begun


def test_a_new_host_is_enrolled_and_followed_to_its_end(
    enroll: Enrolling, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with meanwhile(lambda: finish_enrollment(database)):
        found = enroll(named("a", fresh=True, host_key=OTHER_KEY, labels={"rack": "b1"}))
    assert [(host["name"], host["state"], host["gpus"]) for host in found] == [("a", "idle", 2)]
    assert summary(found) == "1 of 1 hosts ready, 2 GPUs"
    assert "a: idle, 2 GPUs" in capsys.readouterr().out
    assert enroll.said == []


def test_a_host_that_is_there_and_not_fresh_is_left_alone(enroll: Enrolling, fleet: Any, cli: Cli) -> None:
    fleet("a")
    before = cli.json("operations", "list")
    assert [host["state"] for host in enroll(present(cli, "a"))] == ["idle"]
    assert cli.json("operations", "list") == before


def test_a_machine_made_anew_is_enrolled_again_and_its_new_key_trusted(
    enroll: Enrolling, fleet: Any, database: Database, cli: Cli
) -> None:
    fleet("a")
    begun: list[Operation] = []
    with meanwhile(lambda: begun.append(finish_enrollment(database))):
        found = enroll(present(cli, "a", fresh=True))
    assert begun[0].arguments["trust_new_host_key"] is True
    assert found[0]["state"] == "idle"


def test_a_machine_made_anew_under_way_is_enrolled_again_when_that_has_ended(
    enroll: Enrolling, fleet: Any, database: Database, cli: Cli
) -> None:
    host: UUID = fleet("a")
    cli("host", "reclaim", "a", "--yes")

    def fail_then_finish() -> None:
        time.sleep(1)
        ledger.finish(database, host, event=ledger.OperationEvent.FAIL, reason="other key", step="connect")
        finish_enrollment(database)

    with meanwhile(fail_then_finish):
        found = enroll(present(cli, "a", fresh=True))
    assert found[0]["state"] == "idle"


def test_a_machine_made_anew_while_it_is_lent_is_told_and_left(
    enroll: Enrolling, fleet: Any, cli: Cli
) -> None:
    fleet("a")
    cli("allocate", "--gpus", "1")
    assert [host["state"] for host in enroll(present(cli, "a", fresh=True))] == ["allocated"]
    assert "release what it holds" in enroll.said[0]


def test_a_machine_elsewhere_replaces_the_one_of_its_name(
    enroll: Enrolling, fleet: Any, database: Database, cli: Cli
) -> None:
    fleet("a", gpus=2)
    gone = cli.json("gpus")
    facts = {
        "gpus": [
            {**ledger.facts(1)["gpus"][0], "uuid": gpu["uuid"], "index": n} for n, gpu in enumerate(gone)
        ]
    }
    with meanwhile(lambda: finish_enrollment(database, facts)):
        found = enroll(named("a", "192.0.2.77", fresh=True))
    assert found[0]["address"] == "192.0.2.77"
    assert cli.json("host", "list", "--state", "retired")[0]["name"] == "a"
    assert {gpu["uuid"] for gpu in cli.json("gpus")} == {gpu["uuid"] for gpu in gone}


def test_one_that_is_refused_does_not_keep_the_others_out(enroll: Enrolling, database: Database) -> None:
    with meanwhile(lambda: finish_enrollment(database)):
        found = enroll(named("A!"), named("b"))
    assert [host["name"] for host in found] == ["b"]
    assert enroll.said[0].startswith("A! is not enrolled: The request is not valid")


def test_stopping_ends_the_waiting(enroll: Enrolling, database: Database) -> None:
    def stop() -> None:
        open_operation(database, "host.enroll")
        enroll.stopping.set()

    with meanwhile(stop):
        enroll(named("a"))
    assert enroll.stopping.is_set()


def test_failures_are_counted_and_named(enroll: Enrolling, database: Database) -> None:
    def fail() -> None:
        host = open_operation(database, "host.enroll").subject_id
        ledger.finish(database, host, event=ledger.OperationEvent.FAIL, reason="no route", step="connect")

    with meanwhile(fail):
        found = enroll(named("a"))
    assert summary(found) == "0 of 1 hosts ready, 0 GPUs; see `ironyard host show a`"


@pytest.mark.parametrize("line", ["", "null", "[]", '{"name": "a"}', '{"name": "a", "address": "b"}', "{"])
def test_lines_that_are_no_host(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Described.read(line)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("/no/such/program", "cannot be run"),
        ("'", "cannot be run"),
        ("", "cannot be run"),
        ("echo hello", "printed something that is no host"),
        ("echo []", "printed something that is no host"),
        ("sh -c 'exit 7'", "ended with exit code 7"),
        ("sh -c 'echo building >&2; echo no engine here >&2; exit 3'", "^no engine here$"),
        ("""echo '{"name": "x"}'""", "no host"),
    ],
)
def test_programs_that_cannot_be_used(command: str, sentence: str) -> None:
    said: list[str] = []
    with pytest.raises(Failure, match=sentence):
        Program(command, said.append).hosts()
    assert said in ([], ["building"])


def test_a_program_names_hosts_and_its_progress_is_passed_on(tmp_path: Path) -> None:
    names = tmp_path / "hosts.sh"
    line = '{"name": "a", "address": "192.0.2.1", "key_file": "/k", "region": "lab", "more": 1}'
    names.write_text(f"echo one >&2; echo '{line}'; echo two >&2\n")
    said: list[str] = []
    assert Program(f"sh {names}", said.append).hosts() == [Described("a", "192.0.2.1", "/k", region="lab")]
    assert said == ["one", "two"]


def test_a_program_that_does_not_end_is_stopped() -> None:
    program = Program("sleep 600", print)
    assert not program.ended()
    program.stop()
    assert program.ended()
