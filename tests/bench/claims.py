"""What a claim over HTTP costs, beside the raw SQL that it cannot beat, and whether races ever over-allocate.

Prints a table, or with `--json` one object a line: engine, clients, rate_per_s, p50_ms, p99_ms,
cpu_ms_per_request (API and database processes together, not the load), floor_rate_per_s (the same rows
written by plain SQL in one transaction a claim), rounds, over_allocated (racing rounds in which more GPUs
were handed out than there are, or one of them twice).
"""

from __future__ import annotations

import sys
from pathlib import Path

# for `tests`; and this folder's platform.py must not hide the standard library's
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import argparse
import http.client
import json
import os
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import sqlalchemy as sa

from api.core.access import Actor
from api.core.crypto import SecretBox
from api.core.db import Database, make_engine
from api.core.operations.background import DbosDispatcher
from api.core.operations.service import QUEUE
from api.core.proof import SIGNER, Signer
from api.identity import service as identity
from api.migrations import upgrade
from api.settings import Settings
from api.workspaces import service as workspaces
from api.workspaces.models import WorkspaceCreate
from tests.support import ledger
from tests.support.postgres import PostgresServer, server_programs
from tests.support.server import api_server

GPUS = 8


@dataclass
class Result:
    engine: str
    clients: int
    rate_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_request: float
    floor_rate_per_s: float
    rounds: int
    over_allocated: int


@dataclass
class Stage:
    """A database with hosts in it and one key and workspace a client."""

    engine: str
    url: str
    directory: Path
    database: Database
    box: SecretBox
    keys: list[str]
    postgres: PostgresServer | None

    def processes(self) -> list[psutil.Process]:
        if self.postgres is None:
            return []
        parent = psutil.Process(self.postgres.pid())
        return [parent, *parent.children(recursive=True)]


@contextmanager
def stage(engine: str, *, clients: int, hosts: int) -> Iterator[Stage]:
    server = None
    with tempfile.TemporaryDirectory(prefix="ironyard-bench-", ignore_cleanup_errors=True) as place:
        directory = Path(place)
        url = f"sqlite:///{directory / 'ironyard.db'}"
        if engine == "postgresql":
            programs = server_programs()
            if programs is None:
                sys.exit("PostgreSQL's server programs are not installed; try --engine sqlite.")
            server = PostgresServer(programs)
            server.start()
            url = server.create("bench")
        try:
            made = _furnish(engine, url, directory, server, clients, hosts)
            yield made
            made.database.engine.dispose()
        finally:
            if server is not None:
                server.stop()


def _furnish(
    engine: str, url: str, directory: Path, server: PostgresServer | None, clients: int, hosts: int
) -> Stage:
    settings = Settings(_env_file=None, data_dir=directory, database_url=url)
    upgrade(settings)
    sql = make_engine(settings)
    database = Database(sql, **{QUEUE: DbosDispatcher(sql), SIGNER: Signer(settings.proof_key)})
    box = SecretBox(settings.encryption_key)
    user, _ = ledger.first_administrator(database, quota=1_000_000)
    actor = Actor(user.email, user.role, user.id)
    keys = []
    with database.transaction() as tx:
        for number in range(clients):
            asked = WorkspaceCreate(slug=f"w{number}", name=f"w{number}", gpus=1_000_000)
            workspaces.create(tx, actor, asked, default_quota=0)
            keys.append(identity.create_key(tx, actor, f"bench {number}")[1])
    for number in range(hosts):
        ledger.idle_host(database, box, f"h{number}", f"10.{number // 250}.{number % 250}.1", gpus=GPUS)
    with sql.connect() as connection:  # as autovacuum does within a minute of a load
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("ANALYZE"))
    return Stage(engine, url, directory, database, box, keys, server)


class Caller:
    """One client on one kept connection, as lean as Python allows."""

    def __init__(self, url: str, key: str, workspace: str) -> None:
        where = urlsplit(url)
        self.connection = http.client.HTTPConnection(where.hostname or "", where.port)
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self.body = json.dumps({"gpus": 1, "workspace": workspace})

    def claim(self) -> tuple[int, bytes]:
        self.connection.request("POST", "/api/v1/allocations", self.body, self.headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()

    def close(self) -> None:
        self.connection.close()

    def post(self, path: str) -> int:
        self.connection.request("POST", path, headers=self.headers)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status


def in_parallel(jobs: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def load(callers: list[Caller], seconds: float) -> tuple[list[float], float]:
    """Latencies in seconds of the claims that succeeded, and the time it took."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    def work(caller: Caller) -> None:
        own = []
        while (began := time.perf_counter()) < end:
            status, body = caller.claim()
            if status != 201:
                sys.exit(f"a claim was refused: {status} {body.decode()}")
            own.append(time.perf_counter() - began)
        latencies.extend(own)

    began = time.perf_counter()
    in_parallel([lambda caller=caller: work(caller) for caller in callers])  # type: ignore[misc]
    return latencies, time.perf_counter() - began


def cpu_seconds(processes: list[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        try:
            times = process.cpu_times()
            total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def servers_of(stage: Stage) -> list[psutil.Process]:
    """The API's processes (children of this one) and the database's."""
    own = [
        child for child in psutil.Process().children(recursive=True) if "uvicorn" in " ".join(child.cmdline())
    ]
    forks = [grandchild for child in own for grandchild in child.children(recursive=True)]
    return list({process.pid: process for process in own + forks + stage.processes()}.values())


def race(stage: Stage, callers: list[Caller], rounds: int) -> int:
    """Rounds in which the 8 GPUs of one host were over-allocated by 16 racing clients."""
    over = 0
    with stage.database.transaction() as tx:
        tx.execute(sa.text("UPDATE gpus SET schedulable = false"))
    host = ledger.idle_host(stage.database, stage.box, "race", "10.200.0.1", gpus=GPUS)
    for _ in range(rounds):
        won: list[dict[str, Any]] = []

        def attempt(caller: Caller) -> None:
            status, body = caller.claim()
            if status == 201:
                won.append(json.loads(body))  # noqa: B023

        in_parallel([lambda caller=caller: attempt(caller) for caller in callers])  # type: ignore[misc]
        gpus = [gpu["uuid"] for claim in won for gpu in claim["gpus"]]
        over += len(gpus) != GPUS or len(set(gpus)) != len(gpus)
        for claim in won:
            callers[0].post(f"/api/v1/allocations/{claim['id']}/release")
        ledger.finish(stage.database, host, ledger.report("reclaim"))
    return over


RAW_TAKE = """
WITH picked AS (SELECT id FROM gpus WHERE schedulable AND held_by IS NULL
                ORDER BY host_id, "index" LIMIT 1 FOR UPDATE SKIP LOCKED)
UPDATE gpus SET held_by = %(allocation)s WHERE id IN (SELECT id FROM picked) RETURNING id, host_id, model
"""
RAW_ALLOCATION = """
INSERT INTO allocations (id, workspace_id, requested_by, state, wanted, created_at, started_at, expires_at,
    request_digest) VALUES (%(allocation)s, %(workspace)s, 'raw', 'active', '{}', now(), now(),
    now() + interval '1 day', '')
"""
RAW_HOLD = """
INSERT INTO holds (id, allocation_id, workspace_id, gpu_id, host_id, model, started_at)
VALUES (%(hold)s, %(allocation)s, %(workspace)s, %(gpu)s, %(host)s, %(model)s, now())
"""


def raw_postgres(stage: Stage, workspace: uuid.UUID, end: float) -> int:
    done = 0
    with psycopg.connect(stage.url) as connection:
        while time.perf_counter() < end:
            facts: dict[str, Any] = {"allocation": uuid.uuid4(), "hold": uuid.uuid4(), "workspace": workspace}
            with connection.transaction(), connection.cursor() as cursor:
                row = cursor.execute(RAW_TAKE, facts).fetchone()
                if row is None:
                    return done
                cursor.execute(RAW_ALLOCATION, facts)
                cursor.execute(RAW_HOLD, facts | {"gpu": row[0], "host": row[1], "model": row[2]})
            done += 1
    return done


def raw_sqlite(stage: Stage, workspace: uuid.UUID, end: float) -> int:
    done = 0
    connection = sqlite3.connect(stage.directory / "ironyard.db", timeout=30, isolation_level=None)
    connection.execute("PRAGMA synchronous=NORMAL")
    while time.perf_counter() < end:
        facts = {"allocation": uuid.uuid4().hex, "hold": uuid.uuid4().hex, "workspace": workspace.hex}
        connection.execute("BEGIN IMMEDIATE")
        row = connection.execute(
            "SELECT id, host_id, model FROM gpus WHERE schedulable = 1 AND held_by IS NULL"
            ' ORDER BY host_id, "index" LIMIT 1'
        ).fetchone()
        if row is None:
            break
        facts |= {"gpu": row[0], "host": row[1], "model": row[2]}
        connection.execute("UPDATE gpus SET held_by = :allocation WHERE id = :gpu", facts)
        connection.execute(
            "INSERT INTO allocations (id, workspace_id, requested_by, state, wanted, created_at, started_at,"
            " expires_at, request_digest) VALUES (:allocation, :workspace, 'raw', 'active', '{}',"
            " '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000', '2099-01-01 00:00:00.000000', '')",
            facts,
        )
        connection.execute(
            "INSERT INTO holds (id, allocation_id, workspace_id, gpu_id, host_id, model, started_at) VALUES"
            " (:hold, :allocation, :workspace, :gpu, :host, :model, '2026-01-01 00:00:00.000000')",
            facts,
        )
        connection.execute("COMMIT")
        done += 1
    connection.close()
    return done


def floor(stage: Stage, clients: int, seconds: float) -> float:
    """Claims a second by plain SQL: take a GPU, write the allocation and its hold, commit."""
    with stage.database.snapshot() as tx:
        owned = [row[0] for row in tx.execute(sa.text("SELECT id FROM workspaces ORDER BY slug"))]
    ids = [row if isinstance(row, uuid.UUID) else uuid.UUID(row) for row in owned]
    raw = raw_postgres if stage.engine == "postgresql" else raw_sqlite
    counts: list[int] = []
    began = time.perf_counter()
    end = began + seconds
    jobs = [lambda own=own: counts.append(raw(stage, own, end)) for own in ids[1 : clients + 1]]  # type: ignore[misc]
    in_parallel(jobs)
    return sum(counts) / (time.perf_counter() - began)


def measure(stage: Stage, clients: int, seconds: float, rounds: int, processes: int) -> Result:
    with api_server(stage.directory, stage.url, processes=processes) as url:
        callers = [Caller(url, key, f"w{n}") for n, key in enumerate(stage.keys[:clients])]
        load(callers, 0.5)
        watched = servers_of(stage)
        before = cpu_seconds(watched)
        latencies, took = load(callers, seconds)
        cpu = cpu_seconds(watched) - before
        raw = floor(stage, clients, seconds / 2)
        racers = [Caller(url, key, f"w{n}") for n, key in enumerate(stage.keys)]
        over = race(stage, racers, rounds) if rounds else 0
        for caller in callers + racers:
            caller.close()
    latencies.sort()
    return Result(
        engine=stage.engine,
        clients=clients,
        rate_per_s=round(len(latencies) / took, 1),
        p50_ms=round(latencies[len(latencies) // 2] * 1000, 2),
        p99_ms=round(latencies[int(len(latencies) * 0.99)] * 1000, 2),
        cpu_ms_per_request=round(cpu * 1000 / len(latencies), 2),
        floor_rate_per_s=round(raw, 1),
        rounds=rounds,
        over_allocated=over,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--engine", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=200, help="racing rounds, after the largest load")
    parser.add_argument("--hosts", type=int, default=400, help=f"hosts of {GPUS} GPUs")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="API processes")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    engines = ["sqlite", "postgresql"] if args.engine == "both" else [args.engine]
    for engine in engines:
        for clients in args.clients:
            rounds = args.rounds if clients == max(args.clients) else 0
            with stage(engine, clients=16, hosts=args.hosts) as made:
                processes = args.processes if engine == "postgresql" and clients > 1 else 1
                result = measure(made, clients, args.seconds, rounds, processes)
            show(result, as_json=args.json)


def show(result: Result, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(result)), flush=True)
        return
    print("  ".join(f"{name}={value}" for name, value in asdict(result).items()), flush=True)


if __name__ == "__main__":
    main()
