"""The background queue: DBOS, with its tables in our database."""

from __future__ import annotations

import logging
from collections.abc import Callable
from uuid import UUID

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig
from sqlalchemy.orm import Session

from api.settings import Settings

NAME = "ironyard"
QUEUE = "operations"
WORKFLOW = "run_operation"
# The workflow only dispatches by kind, so one version serves every release: work outlives an upgrade.
VERSION = "1"


class DbosDispatcher:
    """Enqueues within the caller's transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._client = DBOSClient(system_database_engine=engine, lazy=True, application_name=NAME)

    def enqueue(self, tx: Session, workflow_id: str, operation_id: UUID) -> None:
        tx.flush()
        self._client.enqueue_in_transaction(
            tx,
            {
                "workflow_name": WORKFLOW,
                "queue_name": QUEUE,
                "workflow_id": workflow_id,
                "app_version": VERSION,
            },
            str(operation_id),
        )


def migrate(settings: Settings) -> None:
    """Create or update the queue's own tables."""
    logging.getLogger("dbos").setLevel(logging.WARNING)
    DBOS.migrate(settings.database)


def launch(settings: Settings, worker_id: str, run: Callable[[UUID], None]) -> None:
    """Start taking operations off the queue, several at a time."""
    config: DBOSConfig = {
        "name": NAME,
        "system_database_url": settings.database,
        "application_version": VERSION,
        "executor_id": worker_id,
        "run_migrations": False,
        "log_level": "WARNING",
        "sys_db_pool_size": 4,
    }
    DBOS(config=config)

    @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=1000)
    def run_operation(operation_id: str) -> None:
        run(UUID(operation_id))

    DBOS.launch()
    DBOS.register_queue(
        QUEUE,
        worker_concurrency=settings.worker_concurrency,
        polling_interval_sec=settings.queue_polling,
        on_conflict="always_update",
    )


def take_over(worker_id: str) -> int:
    """Put what a dead worker had begun back into the queue. Doing it twice does no harm."""
    begun = DBOS.list_workflows(executor_id=worker_id, status="PENDING")
    for workflow in begun:
        DBOS.resume_workflow(workflow.workflow_id)
    return len(begun)


def shut_down(patience: int) -> None:
    DBOS.destroy(workflow_completion_timeout_sec=patience)
