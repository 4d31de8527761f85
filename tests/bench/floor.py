"""The floor under a claim: the same rows written by plain SQL, one transaction each."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from typing import Any

import psycopg

TAKE = """
WITH picked AS (SELECT id FROM gpus WHERE schedulable AND held_by IS NULL
                ORDER BY host_lent, host_id, "index" LIMIT 1 FOR UPDATE SKIP LOCKED)
UPDATE gpus SET held_by = %(allocation)s WHERE id IN (SELECT id FROM picked) RETURNING id, host_id, model
"""
ALLOCATION = """
INSERT INTO allocations (id, workspace_id, requested_by, state, wanted, created_at, started_at, expires_at,
    ends_at) VALUES (%(allocation)s, %(workspace)s, 'raw', 'active', '{}', now(), now(),
    now() + interval '1 day', now() + interval '1 day')
"""
HOLD = """
INSERT INTO holds (id, allocation_id, workspace_id, gpu_id, host_id, model, started_at)
VALUES (%(hold)s, %(allocation)s, %(workspace)s, %(gpu)s, %(host)s, %(model)s, now())
"""
TAKE_SQLITE = """
SELECT id, host_id, model FROM gpus WHERE schedulable = 1 AND held_by IS NULL
ORDER BY host_lent, host_id, "index" LIMIT 1
"""
ALLOCATION_SQLITE = """
INSERT INTO allocations (id, workspace_id, requested_by, state, wanted, created_at, started_at, expires_at,
    ends_at) VALUES (:allocation, :workspace, 'raw', 'active', '{}', '2026-01-01 00:00:00.000000',
    '2026-01-01 00:00:00.000000', '2099-01-01 00:00:00.000000', '2099-01-01 00:00:00.000000')
"""
HOLD_SQLITE = """
INSERT INTO holds (id, allocation_id, workspace_id, gpu_id, host_id, model, started_at)
VALUES (:hold, :allocation, :workspace, :gpu, :host, :model, '2026-01-01 00:00:00.000000')
"""


def floor(url: str, clients: int, seconds: float) -> float:
    """Claims a second by plain SQL: take a GPU, write the allocation and its hold, commit."""
    owners = _owners(url)
    work = _sqlite if url.startswith("sqlite") else _postgres
    counts: list[int] = []
    began = time.perf_counter()
    threads = [
        threading.Thread(target=lambda own=own: counts.append(work(url, own, began + seconds)))
        for own in owners[:clients]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def _owners(url: str) -> list[Any]:
    statement = "SELECT id FROM workspaces WHERE slug LIKE 'w%' ORDER BY slug"
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            return [row[0] for row in connection.execute(statement)]
    with psycopg.connect(url) as server:
        return [row[0] for row in server.execute(statement)]


def _postgres(url: str, workspace: uuid.UUID, end: float) -> int:
    done = 0
    with psycopg.connect(url) as connection:
        while time.perf_counter() < end:
            facts: dict[str, Any] = {"allocation": uuid.uuid4(), "hold": uuid.uuid4(), "workspace": workspace}
            with connection.transaction(), connection.cursor() as cursor:
                row = cursor.execute(TAKE, facts).fetchone()
                if row is None:
                    return done
                cursor.execute(ALLOCATION, facts)
                cursor.execute(HOLD, facts | {"gpu": row[0], "host": row[1], "model": row[2]})
            done += 1
    return done


def _sqlite(url: str, workspace: str, end: float) -> int:
    done = 0
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
    connection.execute("PRAGMA synchronous=NORMAL")
    while time.perf_counter() < end:
        facts = {"allocation": uuid.uuid4().hex, "hold": uuid.uuid4().hex, "workspace": workspace}
        connection.execute("BEGIN IMMEDIATE")
        row = connection.execute(TAKE_SQLITE).fetchone()
        if row is None:
            break
        facts |= {"gpu": row[0], "host": row[1], "model": row[2]}
        connection.execute("UPDATE gpus SET held_by = :allocation WHERE id = :gpu", facts)
        connection.execute(ALLOCATION_SQLITE, facts)
        connection.execute(HOLD_SQLITE, facts)
        connection.execute("COMMIT")
        done += 1
    connection.close()
    return done
