"""Liveness, readiness and metrics."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Annotated

import sqlalchemy as sa
from alembic.migration import MigrationContext
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import metrics
from api.core.db import Database
from api.core.http import problems
from api.core.operations import workers
from api.core.operations.models import Operation

logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells its plans at every look at the schema
router = APIRouter(tags=["health"])
Gauge = tuple[str, str, tuple[str, ...], Callable[[Session], metrics.Rows]]


class Live(BaseModel):
    status: str = "live"


class Check(BaseModel):
    ok: bool
    detail: str


class Ready(BaseModel):
    ready: bool
    checks: dict[str, Check]


@router.get("/health/live", summary="Is the process alive")
async def live() -> Live:
    return Live()


@router.get(
    "/health/ready",
    summary="Can requests and background work be served",
    responses=problems(422)
    | {503: {"model": Ready, "description": "Not ready; `checks` tells what is missing"}},
)
def ready(
    request: Request,
    response: Response,
    worker: Annotated[bool, Query(description="whether a worker has to live as well")] = True,
) -> Ready:
    """The database answers, its schema is this release's, and a worker was heard of lately.

    A load balancer leaves the worker out: requests can be answered while none lives.
    """
    database: Database = request.app.state.database
    silence = request.app.state.settings.worker_timeout
    checks = {
        "database": _try(database, lambda tx: (tx.execute(sa.text("SELECT 1")).scalar_one() == 1, "answers")),
        "migrations": _try(database, lambda tx: _migrated(tx, request.app.state.schema_head)),
    }
    if worker:
        checks["worker"] = _try(database, lambda tx: _worker(tx, silence))
    all_well = all(check.ok for check in checks.values())
    response.status_code = 200 if all_well else 503
    return Ready(ready=all_well, checks=checks)


def _try(database: Database, check: Callable[[Session], tuple[bool, str]]) -> Check:
    try:
        with database.snapshot() as tx:
            ok, detail = check(tx)
    except SQLAlchemyError as error:
        ok, detail = False, type(error).__name__
    return Check(ok=ok, detail=detail)


def _migrated(tx: Session, head: str) -> tuple[bool, str]:
    current = MigrationContext.configure(tx.connection()).get_current_revision()
    return current == head, f"at {current}, this release needs {head}"


def _worker(tx: Session, silence: float) -> tuple[bool, str]:
    number = workers.alive(tx, silence=silence)
    return number > 0, f"{number} alive"


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses=problems(503) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def prometheus(request: Request) -> Response:
    database: Database = request.app.state.database
    with database.snapshot() as tx:
        silence = request.app.state.settings.worker_timeout
        gauges: list[Gauge] = [
            ("ironyard_operations", "Operations by kind and state", ("kind", "state"), _operations),
            (
                "ironyard_workers_alive",
                "Workers heard of lately",
                (),
                lambda tx: [((), workers.alive(tx, silence=silence))],
            ),
            *request.app.state.gauges,
        ]
        probes: list[metrics.Probe] = [
            (name, text, labels, partial(read, tx)) for name, text, labels, read in gauges
        ]
        text = metrics.exposition(probes)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _operations(tx: Session) -> list[tuple[tuple[str, ...], float]]:
    rows = tx.execute(
        sa.select(col(Operation.kind), col(Operation.state), sa.func.count()).group_by(
            col(Operation.kind), col(Operation.state)
        )
    )
    return [((kind, str(state)), float(number)) for kind, state, number in rows]
