"""The facade: `create_app` is the only wiring."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from sqlalchemy.orm import Session

from api.allocations import queue_reads
from api.allocations.approval_router import router as approval
from api.allocations.booking_router import router as reservations
from api.allocations.budget_router import router as budgets
from api.allocations.notice_router import router as notices
from api.allocations.offers_router import router as offers
from api.allocations.router import router as allocations
from api.allocations.waiting_router import router as waiting
from api.billing.host_router import router as host_reports
from api.billing.router import router as billing
from api.core import audit, health, proof_keys
from api.core.crypto import SecretBox
from api.core.db import Database, make_engine
from api.core.http import ProblemDocument, install
from api.core.metrics import Rows
from api.core.operations.background import DbosDispatcher
from api.core.operations.estimates import Estimates
from api.core.operations.live import Feed
from api.core.operations.router import router as operations
from api.core.operations.service import QUEUE
from api.core.operations.syncs import SYNCS
from api.core.proof import SIGNER, Signer
from api.fleet import queries as fleet_queries
from api.fleet.group_router import router as fleet_groups
from api.fleet.health_router import router as fleet_health
from api.fleet.proof_router import router as fleet_proof
from api.fleet.router import router as fleet
from api.identity.router import router as identity
from api.identity.tokens import TokenAuthenticator, Tokens
from api.migrations import head
from api.monitoring import service as leaks
from api.monitoring.router import router as monitoring
from api.providers.own import OwnFleet
from api.providers.rate_router import router as rates
from api.settings import Settings
from api.tenancy.router import router as tenancy
from api.tenancy.service import followers
from api.workspaces.organisation_router import router as organisations
from api.workspaces.quota_router import router as quotas
from api.workspaces.router import router as workspaces

HOST_INFO = ("hostname", "host_id", "region", "state")
DESCRIPTION = """\
A ledger of GPU hosts: enroll them, lend their GPUs under quota, reclaim them with proof, report their use.

Errors are `application/problem+json` (RFC 9457) with a stable `code`. Lists page by `next_cursor`.
"""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the facade on a migrated database. Fails at once when the settings are not fit for their mode."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        gc.collect()
        gc.set_threshold(20_000, 20, 20)
        gc.freeze()  # a full collection halts every request; it need not look at what stays for good
        yield
        app.state.database.engine.dispose()

    app = FastAPI(
        title="Ironyard",
        version=version("ironyard"),
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
    )
    _provide(app, settings)
    install(app, body_limit=settings.body_limit, report_limit=settings.report_limit)
    for router in (
        health.router,
        identity,
        workspaces,
        organisations,
        quotas,
        budgets,
        rates,
        fleet,
        fleet_health,
        fleet_proof,
        fleet_groups,
        allocations,
        offers,
        approval,
        reservations,
        notices,
        waiting,
        operations,
        billing,
        host_reports,
        tenancy,
        monitoring,
        proof_keys.router,
        audit.router,
    ):
        app.include_router(router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _provide(app: FastAPI, settings: Settings) -> None:
    engine = make_engine(settings)
    state = app.state
    state.settings = settings
    state.signer = Signer(settings.proof_key)
    state.database = Database(
        engine, **{QUEUE: DbosDispatcher(engine), SYNCS: followers(settings), SIGNER: state.signer}
    )
    state.feed, state.estimates = Feed(state.database), Estimates()
    state.secret_box = SecretBox(settings.encryption_key)
    state.sources = [OwnFleet()]
    state.tokens = Tokens(settings.signing_key, settings.token_lifetime)
    state.authenticator = TokenAuthenticator(state.database, state.tokens)
    state.schema_head = head()
    state.gauges = [
        ("ironyard_hosts", "Hosts by state", ("state",), _hosts),
        ("ironyard_host_info", "Hosts that are not retired", HOST_INFO, fleet_queries.host_info),
        ("ironyard_gpus", "GPUs by model and use", ("model", "use"), _gpus),
        ("ironyard_queue", "Claims that wait for GPUs", ("priority",), queue_reads.lengths),
        ("ironyard_queue_oldest_seconds", "How long the oldest of them waits", (), queue_reads.oldest),
        ("ironyard_findings", "Findings by kind and state", ("kind", "state"), leaks.count),
    ]


def _hosts(tx: Session) -> Rows:
    return [((state,), float(number)) for state, number in fleet_queries.count_by_state(tx)]


def _gpus(tx: Session) -> Rows:
    return [((model, use), float(number)) for model, use, number in fleet_queries.count_gpus(tx)]


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = schema["components"]["schemas"]
        schemas["ProblemDocument"] = ProblemDocument.model_json_schema()
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        app.openapi_schema = schema
    return app.openapi_schema
