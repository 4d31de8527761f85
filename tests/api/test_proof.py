"""Manifests and reclaim records: kept apart from the host, signed, and read back."""

from __future__ import annotations

import base64
import hashlib
import lzma
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.exc import DBAPIError

from api.core import proof
from api.core.db import Database, table
from api.core.operations import service as operations
from api.core.operations.lifecycle import Event as OperationEvent
from api.core.operations.models import LogLine, Operation
from api.core.proof import SIGNER, Signer
from api.fleet import proofs
from api.fleet.evidence import HostManifest, ReclaimRecord
from tests.conftest import Client
from tests.support import ledger

HOSTS = "/api/v1/hosts"
WIPE = {
    "name": "wipe",
    "status": "ok",
    "seconds": 2.5,
    "changed": True,
    "removed": {"home": 2, "file": 300},
    "paths": {"home": ["/home/eve", "/home/mal\udcff"], "file": [f"/tmp/{n}" for n in range(250)]},
    "paths_dropped": 50,
    "evidence": ["removed /home/eve"],
}


def keys(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Client(client.app).ok("GET", "/api/v1/proof/keys")["keys"]
    return found


def reclaim(client: Client, database: Database, host: UUID, **run: Any) -> None:
    client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)
    ledger.finish(database, host, **run)


def newest(client: Client, host: UUID) -> Any:
    number = client.ok("GET", f"{HOSTS}/{host}/reclaims")["items"][0]["number"]
    return client.ok("GET", f"{HOSTS}/{host}/reclaims/{number}")


def test_a_reclaim_leaves_a_signed_record(client: Client, fleet: Any, database: Database) -> None:
    host = fleet("a")
    made = ledger.report("reclaim", steps=[WIPE], digest="d" * 64, health=ledger.verdicts())
    reclaim(client, database, host, made=made)
    found = newest(client, host)
    assert (found["number"], found["outcome"], found["removed"], found["manifest"]) == (2, "clean", 302, 1)
    record = proof.read(found["signature"], keys(client))
    assert record == found["record"]
    assert record["type"] == "ironyard.reclaim-record"
    assert record["host"] == {"id": str(host), "name": "a", "address": "198.51.100.1"}
    assert record["playbook"] == {"name": "reclaim", "version": "test", "sha256": "d" * 64}
    assert (record["state_after"], record["health"]) == ("idle", made.health)
    (step,) = record["steps"]
    assert step["removed"] == {"home": 2, "file": 300}
    assert step["paths"]["home"] == ["/home/eve", "/home/mal\\udcff"]
    assert (len(step["paths"]["file"]), step["paths_dropped"]) == (200, 100)
    operation = client.ok("GET", f"/api/v1/operations/{found['operation_id']}")
    assert "paths" not in operation["outcome"]["report"]["steps"][0]


def test_a_failed_and_a_cancelled_reclaim_leave_one_too(
    client: Client, fleet: Any, database: Database
) -> None:
    host = fleet("a")
    reclaim(client, database, host, event=OperationEvent.FAIL, reason="pid 7 does not die", step="kill")
    failed = newest(client, host)
    assert (failed["outcome"], failed["failed_step"], failed["reason"]) == (
        "failed",
        "kill",
        "pid 7 does not die",
    )
    assert failed["record"]["state_after"] == "maintenance"
    reclaim(client, database, host, event=OperationEvent.CANCEL, reason="Cancelled while it ran.")
    assert newest(client, host)["outcome"] == "cancelled"
    reclaim(client, database, host, made=None)
    unproven = newest(client, host)
    assert unproven["outcome"] == "failed"
    assert "no report" in unproven["reason"]
    listed = client.ok("GET", f"{HOSTS}/{host}/reclaims")["items"]
    assert [row["number"] for row in listed] == [4, 3, 2, 1]
    assert "record" not in listed[0]


def test_what_a_tenant_named_oddly_cannot_keep_a_run_from_ending(
    client: Client, fleet: Any, database: Database
) -> None:
    host = fleet("a")
    client.ok("POST", f"/api/v1/admin/machines/{host}/reclaim", 202)
    odd = "cannot remove /tmp/a\0b\udcff"
    with database.transaction() as tx:
        (found,) = tx.execute(sa.select(Operation).where(Operation.ended_at.is_(None))).scalars()
        operations.log(tx, found.id, [LogLine(task=odd, message=odd)])
    made = ledger.report("reclaim", findings=[odd])
    ledger.finish(database, host, made, event=OperationEvent.FAIL, reason=odd, step="wipe")
    assert client.ok("GET", f"{HOSTS}/{host}")["failed_reason"] == "cannot remove /tmp/a\\x00b\\udcff"
    assert newest(client, host)["record"]["findings"] == ["cannot remove /tmp/a\\x00b\\udcff"]


def test_records_are_chained(client: Client, fleet: Any, database: Database) -> None:
    host = fleet("a")
    reclaim(client, database, host, made=ledger.report("reclaim"))
    first, second = (client.ok("GET", f"{HOSTS}/{host}/reclaims/{number}") for number in (1, 2))
    assert first["record"]["previous_sha256"] is None
    expected = hashlib.sha256(first["signature"].encode()).hexdigest()
    assert second["record"]["previous_sha256"] == expected


@pytest.mark.usefixtures("client")
def test_a_record_is_written_once(fleet: Any, database: Database) -> None:
    fleet("a")
    records = table(ReclaimRecord)
    for statement in (sa.update(records).values(outcome="clean"), sa.delete(records)):
        with pytest.raises(DBAPIError, match="written once"), database.transaction() as tx:
            tx.execute(statement)


def enrolled_again(
    client: Client, database: Database, host: UUID, manifest: dict[str, Any], index: bytes | None = None
) -> None:
    client.ok("POST", f"/api/v1/admin/machines/{host}/enroll", 202)
    carried = base64.b64encode(index).decode() if index is not None else None
    report = ledger.report("enroll", facts=ledger.facts(2), manifest=manifest, index=carried)
    ledger.finish(database, host, report)


def test_a_manifest_and_its_index_are_signed_and_kept(client: Client, fleet: Any, database: Database) -> None:
    host = fleet("a")
    index = lzma.compress(b"f 0644 0 0 3 aaaa /etc/issue\n")
    told = {"sha256": hashlib.sha256(index).hexdigest(), "entries": 1, "bytes": len(index)}
    document = {"format": 2, "index": told, "odd": ["ü", 1.5, None]}
    enrolled_again(client, database, host, document, index)
    ledger.finish(database, host, ledger.report("reclaim"))
    found = client.ok("GET", f"{HOSTS}/{host}/manifest")
    assert (found["number"], found["manifest"]) == (2, document)
    statement = proof.read(found["signature"], keys(client))
    assert statement["manifest_sha256"] == found["digest"] == proof.digest(document)
    assert statement["index_sha256"] == told["sha256"]
    raw = client.get(f"{HOSTS}/{host}/manifest/index")
    assert (raw.content, raw.headers["content-type"]) == (index, "application/x-xz")
    assert client.ok("GET", f"{HOSTS}/{host}/manifest", params={"number": 1})["manifest"] == {"of": "a"}
    assert client.ok("GET", "/api/v1/inventory")["hosts"][0]["manifest"] == document
    newest_operation = client.ok("GET", "/api/v1/operations", params={"kind": "host.enroll"})["items"][0]
    assert "index" not in newest_operation["outcome"]["report"]
    assert newest(client, host)["record"]["manifest"] == {
        "number": 2,
        "sha256": found["digest"],
        "index_sha256": told["sha256"],
    }


def test_the_same_manifest_again_makes_no_new_number_and_an_old_index_goes(
    client: Client, fleet: Any, database: Database
) -> None:
    host = fleet("a")
    index = lzma.compress(b"one\n")
    document = {"index": {"sha256": hashlib.sha256(index).hexdigest()}}
    for carried in (index, None):  # a kept manifest comes back without the index that the ledger has
        enrolled_again(client, database, host, document, carried)
        ledger.finish(database, host, ledger.report("reclaim"))
    assert client.ok("GET", f"{HOSTS}/{host}/manifest")["number"] == 2
    enrolled_again(client, database, host, {"of": "the next"})
    client.problem("GET", f"{HOSTS}/{host}/manifest/index", 404, "not-found")
    rows = table(HostManifest)
    with database.snapshot() as tx:
        assert tx.execute(sa.select(rows.c.number).where(rows.c.index.is_not(None))).all() == []
        assert proofs.manifest_of(tx, host) == {"of": "the next"}


@pytest.mark.parametrize(
    ("index", "says"), [(b"altered", "not the one"), (None, "not the one"), ("!!", "cannot be read")]
)
def test_an_index_that_is_not_the_manifests_fails_the_enrollment(
    client: Client, fleet: Any, database: Database, index: Any, says: str
) -> None:
    host = fleet("a")
    client.ok("POST", f"/api/v1/admin/machines/{host}/enroll", 202)
    carried = base64.b64encode(index).decode() if isinstance(index, bytes) else index
    manifest = {"index": {"sha256": "0" * 64}}
    ledger.finish(
        database, host, ledger.report("enroll", facts=ledger.facts(1), manifest=manifest, index=carried)
    )
    found = client.ok("GET", f"{HOSTS}/{host}")
    assert found["state"] == "maintenance"
    assert says in found["failed_reason"]


def test_a_large_report_by_hand_is_taken(client: Client, app: FastAPI) -> None:
    body = {"name": "g", "address": "192.0.2.1", "key_reference": "/k", "region": "r", "enroll": False}
    host = client.ok("POST", HOSTS, 202, json=body)["host"]["id"]
    run = {"playbook": "enroll", "hosts": [host], "controller": "ada@bastion"}
    operation = client.ok("POST", "/api/v1/runs", 201, json=run)["operations"][0]["operation_id"]
    index = b"x" * 3_000_000
    manifest = {"index": {"sha256": hashlib.sha256(index).hexdigest()}}
    report = ledger.report(
        "enroll", facts=ledger.facts(1), manifest=manifest, index=base64.b64encode(index).decode()
    )
    finished = {"status": "succeeded", "report": report.model_dump()}
    path = f"/api/v1/operations/{operation}/finish"
    assert client.ok("POST", path, json=finished)["state"] == "succeeded"
    assert client.get(f"{HOSTS}/{host}/manifest/index").content == index
    client.problem("POST", f"/api/v1/operations/{operation}/events", 413, "body-too-large", json=finished)


def test_keys_of_earlier_secrets_stay_listed(
    client: Client, app: FastAPI, fleet: Any, database: Database
) -> None:
    host = fleet("a")
    before = newest(client, host)
    app.state.signer = database.info[SIGNER] = Signer("another secret")
    reclaim(client, database, host, made=ledger.report("reclaim"))
    after = newest(client, host)
    listed = keys(client)
    assert listed[0]["kid"] == app.state.signer.key_id
    assert len(listed) == 2
    for found in (before, after):
        assert proof.read(found["signature"], listed) == found["record"]


def test_who_may_read_proofs(client: Client, fleet: Any) -> None:
    host = fleet("a")
    viewer, operator = client.as_new("viewer"), client.as_new("operator")
    viewer.ok("GET", f"{HOSTS}/{host}/reclaims")
    for path in ("reclaims/1", "manifest"):
        viewer.problem("GET", f"{HOSTS}/{host}/{path}", 403, "forbidden")
        operator.ok("GET", f"{HOSTS}/{host}/{path}")
    nobody = "00000000-0000-7000-8000-000000000000"
    for path in ("reclaims", "reclaims/1", "manifest", "manifest/index"):
        client.problem("GET", f"{HOSTS}/{nobody}/{path}", 404, "not-found")
    client.problem("GET", f"{HOSTS}/{host}/reclaims/99", 404, "not-found")
