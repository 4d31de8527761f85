"""HTTP of the fleet: hosts, GPUs, and what operators do to machines."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Member

from api.core import etags
from api.core.access import Actor, Permission, needs
from api.core.crypto import SecretBox
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.operations import service as operations
from api.core.operations.lifecycle import Event as OperationEvent
from api.core.operations.lifecycle import State as OperationState
from api.core.operations.models import LogLine, Operation, OperationRead
from api.core.pagination import Page, Pages
from api.fleet import changes, draining, playbooks, queries, service
from api.fleet.lifecycle import Event, State
from api.fleet.models import GpuRead, Health, Host, HostDetail, HostRead
from api.fleet.operations import BY_HAND, finish_by_hand
from api.fleet.reports import PlayReport, PlayStats
from api.fleet.requests import Drain, EnrollAgain, HostChange, HostCreate, Reason

router = APIRouter(prefix="/api/v1", tags=["fleet"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.FLEET_READ)]
Operator = Annotated[Actor, needs(Permission.FLEET_OPERATE)]
FAULTS = problems(401, 403, 404, 409, 422)
REFUSALS = problems(401, 403, 404, 409, 412, 422)
NO_REASON = Reason()
TO_MAINTENANCE = Drain()


class HostAccepted(BaseModel):
    host: HostRead
    operation: OperationRead | None = Member(description="follow it; null when enroll was not asked for")


@router.get("/hosts", summary="List hosts", responses=problems(401, 403, 422))
def list_hosts(
    tx: Tx,
    pages: Pages,
    actor: Reader,  # noqa: ARG001
    state: Annotated[State | None, Query(description="absent: all but retired ones")] = None,
    region: Annotated[str | None, Query()] = None,
    model: Annotated[str | None, Query(description="hosts with such a GPU")] = None,
    name: Annotated[str | None, Query()] = None,
    label: Annotated[str | None, Query(pattern=r"^[^=]+=.*$", description="`key=value`")] = None,
    cordoned: Annotated[bool | None, Query()] = None,
) -> Page[HostRead]:
    items, following = queries.hosts(
        tx, pages, state=state, region=region, model=model, name=name, label=label, cordoned=cordoned
    )
    return Page(items=items, next_cursor=following)


@router.post("/hosts", status_code=202, summary="Enroll a host", responses=problems(401, 403, 409, 413, 422))
def create_host(asked: HostCreate, tx: Tx, actor: Operator, request: Request) -> HostAccepted:
    """Records the host and starts its enrollment; follow the operation."""
    box: SecretBox = request.app.state.secret_box
    host = service.register(tx, actor, asked, box)
    operation = None
    if asked.enroll:
        service.fire(tx, actor, host.id, Event.ENROLL)
        operation = service.start(tx, actor, host, service.ENROLL)
    accepted = OperationRead.model_validate(operation) if operation else None
    return HostAccepted(host=queries.detail(tx, host), operation=accepted)


@router.get(
    "/hosts/{host_id}",
    summary="Look at one host",
    responses=problems(401, 403, 404, 422) | etags.NOT_MODIFIED,
)
def get_host(host_id: UUID, tx: Tx, actor: Reader) -> HostDetail:  # noqa: ARG001
    return _detail(tx, service.get(tx, host_id))


def _detail(tx: Tx, host: Host) -> HostDetail:
    tx.flush()
    return etags.tag(tx, changes.version(host), queries.detail(tx, host))


def as_seen(tx: Tx, host_id: UUID) -> None:
    """Go on only if the host is as the request's `If-Match` says."""
    etags.check(tx, lambda: changes.version(service.lock(tx, host_id)))


@router.patch("/hosts/{host_id}", summary="Change what is recorded of a host", responses=REFUSALS)
def change_host(host_id: UUID, asked: HostChange, tx: Tx, actor: Operator, request: Request) -> HostDetail:
    """For a host at rest that nobody holds. Another address or key is not tried; verify does that.

    New host keys are trusted only when they are given, or forgotten with an empty list.
    """
    as_seen(tx, host_id)
    state = request.app.state
    reimages = bool(state.settings.reimage_command)
    return _detail(tx, changes.change(tx, actor, host_id, asked, state.secret_box, reimages=reimages))


@router.get("/gpus", summary="List GPUs", responses=problems(401, 403, 422))
def list_gpus(
    tx: Tx,
    pages: Pages,
    actor: Reader,  # noqa: ARG001
    host_id: Annotated[UUID | None, Query()] = None,
    model: Annotated[str | None, Query()] = None,
    region: Annotated[str | None, Query()] = None,
    health: Annotated[Health | None, Query()] = None,
    held: Annotated[bool | None, Query()] = None,
    memory_mib: Annotated[int | None, Query(ge=0, description="at least this much")] = None,
) -> Page[GpuRead]:
    items, following = queries.gpus(
        tx,
        pages,
        host_id=host_id,
        model=model,
        region=region,
        health=health,
        held=held,
        memory_mib=memory_mib,
    )
    return Page(items=items, next_cursor=following)


@router.post(
    "/admin/machines/{host_id}/enroll", status_code=202, summary="Enroll a host again", responses=REFUSALS
)
def enroll_again(host_id: UUID, tx: Tx, actor: Operator, asked: EnrollAgain = EnrollAgain()) -> OperationRead:
    as_seen(tx, host_id)
    operation = service.request(
        tx, actor, host_id, Event.ENROLL, service.ENROLL, trust_new_host_key=asked.trust_new_host_key
    )
    return OperationRead.model_validate(operation)


@router.post(
    "/admin/machines/{host_id}/reclaim", status_code=202, summary="Reclaim a host", responses=REFUSALS
)
def reclaim(host_id: UUID, tx: Tx, actor: Operator, asked: Reason = NO_REASON) -> OperationRead:
    """Cleans the host from step one and proves it: `idle`, or `maintenance` with the failed step."""
    as_seen(tx, host_id)
    operation = service.request(tx, actor, host_id, Event.RECLAIM, service.RECLAIM, reason=asked.reason)
    return OperationRead.model_validate(operation)


@router.post(
    "/admin/machines/{host_id}/verify", status_code=202, summary="Check an idle host", responses=REFUSALS
)
def verify(host_id: UUID, tx: Tx, actor: Operator, asked: Reason = NO_REASON) -> OperationRead:
    """Compares the host with its manifest; it is not lent meanwhile."""
    as_seen(tx, host_id)
    operation = service.request(tx, actor, host_id, Event.CHECK, service.VERIFY, reason=asked.reason)
    return OperationRead.model_validate(operation)


@router.post("/admin/machines/{host_id}/retire", status_code=202, summary="Retire a host", responses=REFUSALS)
def retire(host_id: UUID, tx: Tx, actor: Operator, asked: Reason = NO_REASON) -> OperationRead:
    """It leaves the fleet at once; the operation then takes our own traces off the machine."""
    as_seen(tx, host_id)
    operation = service.request(tx, actor, host_id, Event.RETIRE, service.RETIRE, reason=asked.reason)
    return OperationRead.model_validate(operation)


@router.post("/admin/machines/{host_id}/maintenance", summary="Put a host in maintenance", responses=REFUSALS)
def maintenance(host_id: UUID, tx: Tx, actor: Operator, asked: Reason = NO_REASON) -> HostDetail:
    """Only a full reclaim leads back from there."""
    as_seen(tx, host_id)
    return _detail(tx, service.maintain(tx, actor, host_id, asked.reason))


@router.post("/admin/machines/{host_id}/cordon", summary="Take no new claims on a host", responses=REFUSALS)
def cordon(host_id: UUID, tx: Tx, actor: Operator, asked: Reason = NO_REASON) -> HostDetail:
    as_seen(tx, host_id)
    return _detail(tx, service.cordon(tx, actor, host_id, cordoned=True, reason=asked.reason))


@router.post("/admin/machines/{host_id}/drain", summary="Let a host run empty", responses=REFUSALS)
def drain(host_id: UUID, tx: Tx, actor: Operator, asked: Drain = TO_MAINTENANCE) -> HostDetail:
    """It takes no new claims. When its last GPU is given back and it is clean, it goes where it was sent.

    A clean that fails keeps it in `maintenance`. Uncordon it to change your mind.
    """
    as_seen(tx, host_id)
    return _detail(tx, draining.drain(tx, actor, host_id, asked.to, asked.reason))


@router.post("/admin/machines/{host_id}/uncordon", summary="Take claims on a host again", responses=REFUSALS)
def uncordon(host_id: UUID, tx: Tx, actor: Operator, asked: Reason = NO_REASON) -> HostDetail:
    as_seen(tx, host_id)
    return _detail(tx, service.cordon(tx, actor, host_id, cordoned=False, reason=asked.reason))


class RunsBegin(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "playbook": "enroll",
                "hosts": ["0199f2c4-5f70-7d20-9f0e-6a4f5c1b2e77"],
                "controller": "ada@bastion",
            }
        }
    )

    playbook: str = Member(pattern="^(enroll|verify|reclaim|health|retire)$")
    hosts: list[UUID] = Member(min_length=1, max_length=1000)
    controller: str = Member(min_length=1, max_length=128, description="who runs it where: user@machine")


class RunBegun(BaseModel):
    host_id: UUID
    operation_id: UUID


class RunsBegun(BaseModel):
    operations: list[RunBegun]


class RunEvents(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "events": [{"step": "wipe", "task": "Empty homes", "status": "changed", "seconds": 1.2}]
            }
        }
    )

    events: list[LogLine] = Member(max_length=1000, description="empty: a sign of life")


class RunFinish(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"example": {"status": "failed", "reason": "wipe: disk full"}}
    )

    status: str = Member(pattern="^(succeeded|failed|cancelled)$")
    stats: PlayStats = PlayStats()
    report: PlayReport | None = None
    reason: str | None = Member(default=None, max_length=8192)


ENDS = {
    "succeeded": OperationEvent.SUCCEED,
    "failed": OperationEvent.FAIL,
    "cancelled": OperationEvent.CANCEL,
}


@router.post("/runs", status_code=201, summary="Begin a playbook run by hand", responses=FAULTS)
def begin_runs(asked: RunsBegin, tx: Tx, actor: Operator) -> RunsBegun:
    """The callback plugin calls this. All hosts begin or none; each gets an operation."""
    begun = playbooks.begin(tx, actor, playbooks.PLAYBOOKS[asked.playbook], asked.hosts, asked.controller)
    return RunsBegun(operations=[RunBegun(host_id=row.subject_id, operation_id=row.id) for row in begun])


@router.post(
    "/operations/{operation_id}/events",
    status_code=204,
    summary="Report events of a run by hand",
    responses=FAULTS,
)
def report_events(operation_id: UUID, asked: RunEvents, tx: Tx, actor: Operator) -> None:  # noqa: ARG001
    operation = _by_hand(tx, operation_id)
    playbook = playbooks.BY_KIND[operation.kind]
    steps = [event.step for event in asked.events if event.step in playbook.steps]
    if steps and steps[-1] is not None:
        operation.step, operation.progress = steps[-1], playbook.progress(steps[-1])
    operations.beat(operation)
    operations.log(tx, operation.id, asked.events)


@router.post("/operations/{operation_id}/finish", summary="Finish a run by hand", responses=FAULTS)
def finish_run(operation_id: UUID, asked: RunFinish, tx: Tx, actor: Operator) -> OperationRead:
    """Moves the host exactly as a run by the worker would."""
    operation = _by_hand(tx, operation_id)
    report = asked.report
    run = playbooks.Run(
        ENDS[asked.status],
        asked.reason or (report.failed_reason if report else None),
        report.failed_step if report else None,
        report,
        asked.stats.model_dump(),
    )
    finish_by_hand(tx, actor, operation, run)
    return OperationRead.model_validate(operation)


def _by_hand(tx: Tx, operation_id: UUID) -> Operation:
    operation = operations.lock(tx, operation_id)
    if not (operation.worker or "").startswith(BY_HAND) or operation.state is not OperationState.RUNNING:
        raise operations.NotByHand("This operation is not a run by hand that is still going on.")
    return operation
