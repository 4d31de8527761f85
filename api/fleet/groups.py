"""Use cases of groups: select hosts, begin some at a time, stop when too many fail, try the failed again.

Nothing is kept outside the database: whoever calls `advance` goes on from what the hosts' operations say.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlmodel import col

from api.core import audit, clock
from api.core.access import Actor, Role
from api.core.errors import Conflict, Invalid, NotFound, Problem
from api.core.operations import service as operations
from api.core.operations.lifecycle import OPEN
from api.core.operations.lifecycle import State as OperationState
from api.core.operations.models import Operation
from api.fleet import draining, health, service
from api.fleet.group_models import (
    Action,
    GroupCreate,
    GroupMember,
    GroupState,
    MemberState,
    OperationGroup,
    Selection,
)
from api.fleet.lifecycle import Event, State
from api.fleet.models import DrainsTo, Host

ENDED = (MemberState.SUCCEEDED, MemberState.FAILED, MemberState.SKIPPED)


def create(tx: Session, actor: Actor, asked: GroupCreate) -> OperationGroup:
    """Record the group and begin its first hosts. Raises Invalid when nothing is selected."""
    group = OperationGroup(
        action=asked.action,
        arguments=asked.model_dump(include={"reason", "trust_new_host_key", "to", "level"}, mode="json"),
        at_once=asked.at_once,
        max_failures=asked.max_failures,
        requested_by=actor.name,
        requested_by_id=actor.user_id,
    )
    return _begin(tx, actor, group, _selected(tx, asked.hosts))


def retry(tx: Session, actor: Actor, group_id: UUID, *, skipped: bool) -> OperationGroup:
    """The same once more, for the hosts that failed. Raises Conflict while the group goes on."""
    earlier = lock(tx, group_id)
    if earlier.state is GroupState.RUNNING:
        raise Conflict("The group has not ended; wait for it or cancel it.", state=earlier.state)
    wanted = {MemberState.FAILED} | ({MemberState.SKIPPED} if skipped else set())
    ids = [member.host_id for member in members(tx, group_id) if member.state in wanted]
    hosts = tx.execute(sa.select(Host).where(col(Host.id).in_(ids), col(Host.state) != State.RETIRED))
    group = OperationGroup(
        **earlier.model_dump(include={"action", "arguments", "at_once", "max_failures"}),
        retries=earlier.id,
        requested_by=actor.name,
        requested_by_id=actor.user_id,
    )
    return _begin(tx, actor, group, list(hosts.scalars()))


def _begin(tx: Session, actor: Actor, group: OperationGroup, hosts: Sequence[Host]) -> OperationGroup:
    if not hosts:
        raise Invalid("No host fits; nothing was begun.")
    tx.add(group)
    tx.flush()
    # In the order of their ids: groups that share hosts then lock them in the same order.
    for host in sorted(hosts, key=lambda found: found.id):
        tx.add(GroupMember(group_id=group.id, host_id=host.id, host=host.name))
    tx.flush()
    after = {"action": group.action, "hosts": len(hosts), "at_once": group.at_once}
    audit.record(tx, actor, "group.created", group.id, after=after, reason=group.arguments.get("reason"))
    advance(tx, group)
    return group


def _selected(tx: Session, wanted: Selection) -> list[Host]:
    statement = sa.select(Host).where(col(Host.state) != State.RETIRED)
    for column, value in ((Host.region, wanted.region), (Host.state, wanted.state)):
        if value is not None:
            statement = statement.where(col(column) == value)
    for key, value in (wanted.labels or {}).items():
        statement = statement.where(col(Host.labels)[key].as_string() == value)
    if wanted.names is not None:
        statement = statement.where(col(Host.name).in_(wanted.names))
    hosts = list(tx.execute(statement).scalars())
    missing = sorted(set(wanted.names or ()) - {host.name for host in hosts})
    if missing:
        raise Invalid(f"These hosts are not there or do not fit: {', '.join(missing)}.", hosts=missing)
    return hosts


def lock(tx: Session, group_id: UUID) -> OperationGroup:
    statement = sa.select(OperationGroup).where(col(OperationGroup.id) == group_id).with_for_update()
    group = tx.execute(statement.execution_options(populate_existing=True)).scalar_one_or_none()
    if group is None:
        raise NotFound(f"There is no group {group_id}.")
    return group


def get(tx: Session, group_id: UUID) -> OperationGroup:
    group = tx.get(OperationGroup, group_id)
    if group is None:
        raise NotFound(f"There is no group {group_id}.")
    return group


def members(tx: Session, group_id: UUID) -> list[GroupMember]:
    statement = sa.select(GroupMember).where(col(GroupMember.group_id) == group_id)
    return list(tx.execute(statement.order_by(col(GroupMember.host_id))).scalars())


def running(tx: Session) -> list[UUID]:
    statement = sa.select(col(OperationGroup.id)).where(col(OperationGroup.state) == GroupState.RUNNING)
    return list(tx.execute(statement.order_by(col(OperationGroup.id))).scalars())


def cancel(tx: Session, actor: Actor, group_id: UUID, *, also_running: bool) -> OperationGroup:
    """Begin no more hosts. Raises Conflict when the group has ended."""
    group = lock(tx, group_id)
    if group.state is not GroupState.RUNNING:
        raise Conflict(f"The group is {group.state}.", state=group.state)
    group.cancel_requested = True
    audit.record(tx, actor, "group.cancel_requested", group.id, after={"running": also_running})
    if also_running:
        _cut_short(tx, actor, group)
    advance(tx, group)
    return group


def _cut_short(tx: Session, actor: Actor, group: OperationGroup) -> None:
    """Ask what runs to stop; of draining hosts, no longer wait for their holders."""
    for member in members(tx, group.id):
        if member.state is not MemberState.RUNNING:
            continue
        if member.operation_id is None:
            _end(member, MemberState.FAILED, "Cancelled; the host drains on until it is uncordoned.")
            continue
        operation = operations.lock(tx, member.operation_id)
        if operation.state in OPEN:
            operations.request_cancel(tx, actor, operation.id)


def advance(tx: Session, group: OperationGroup) -> None:
    """Take over what has ended, begin what may begin, end the group when all is done. `group` is locked."""
    if group.state is not GroupState.RUNNING:
        return
    found = members(tx, group.id)
    for member in found:
        if member.state is MemberState.RUNNING:
            _look(tx, group, member)
    for member in found:
        if member.state is not MemberState.WAITING:
            continue
        if group.cancel_requested or _count(found, MemberState.FAILED) > group.max_failures:
            _end(member, MemberState.SKIPPED, None)
        elif _count(found, MemberState.RUNNING) < group.at_once:
            _start(tx, group, member)
    if all(member.state in ENDED for member in found):
        _close(group, found)
    tx.flush()


def _start(tx: Session, group: OperationGroup, member: GroupMember) -> None:
    member.state, member.started_at = MemberState.RUNNING, clock.now()
    actor = Actor(group.requested_by, Role.OPERATOR, group.requested_by_id)
    try:
        with tx.begin_nested():
            operation = _act(tx, actor, group, member.host_id)
    except Problem as problem:
        _end(member, MemberState.FAILED, problem.detail)
        return
    if operation is not None:
        member.operation_id = operation.id
    else:
        _look(tx, group, member)


def _act(tx: Session, actor: Actor, group: OperationGroup, host_id: UUID) -> Operation | None:
    """What the group does to one host; None where no operation does it."""
    reason = group.arguments.get("reason")
    event = EVENTS.get(group.action)
    if event is not None:
        more = {}
        if group.action is Action.ENROLL:
            more = {"trust_new_host_key": bool(group.arguments.get("trust_new_host_key"))}
        return service.request(tx, actor, host_id, event[0], event[1], reason=reason, **more)
    if group.action is Action.HEALTH:
        return health.request(tx, actor, host_id, group.arguments["level"])
    if group.action is Action.DRAIN:
        draining.drain(tx, actor, host_id, DrainsTo(group.arguments["to"]), reason)
    elif group.action is Action.MAINTENANCE:
        service.maintain(tx, actor, host_id, reason)
    else:
        cordoned = group.action is Action.CORDON
        service.cordon(tx, actor, host_id, cordoned=cordoned, reason=reason)
    return None


EVENTS = {
    Action.ENROLL: (Event.ENROLL, service.ENROLL),
    Action.RECLAIM: (Event.RECLAIM, service.RECLAIM),
    Action.VERIFY: (Event.CHECK, service.VERIFY),
    Action.RETIRE: (Event.RETIRE, service.RETIRE),
}


def _look(tx: Session, group: OperationGroup, member: GroupMember) -> None:
    """Whether a host that was begun has come to its end."""
    if member.operation_id is not None:
        _look_at_operation(tx, member, tx.get_one(Operation, member.operation_id, populate_existing=True))
    elif group.action is Action.DRAIN:
        _look_at_drain(tx, member)
    else:
        _end(member, MemberState.SUCCEEDED, None)


def _look_at_operation(tx: Session, member: GroupMember, operation: Operation) -> None:
    if operation.state in OPEN:
        return
    if operation.state is not OperationState.SUCCEEDED:
        _end(member, MemberState.FAILED, operation.reason or f"The operation was {operation.state}.")
        return
    following = _first_clean(tx, operation) if operation.kind == service.ENROLL else None
    if following is None:
        _end(member, MemberState.SUCCEEDED, None)
    else:
        member.operation_id = following.id
        _look_at_operation(tx, member, following)


def _first_clean(tx: Session, enrolled: Operation) -> Operation | None:
    """A host is enrolled when its first reclaim has proven it clean."""
    statement = sa.select(Operation).where(
        col(Operation.subject_id) == enrolled.subject_id,
        col(Operation.kind) == service.RECLAIM,
        col(Operation.id) > enrolled.id,
    )
    return tx.execute(statement.order_by(col(Operation.id)).limit(1)).scalar_one_or_none()


def _look_at_drain(tx: Session, member: GroupMember) -> None:
    host = tx.get_one(Host, member.host_id, populate_existing=True)
    if host.state is State.MAINTENANCE and host.drains_to is not None:
        _end(member, MemberState.FAILED, host.failed_reason)
    elif host.drains_to is None:
        left = host.state in (State.MAINTENANCE, State.RETIRED)
        _end(
            member,
            MemberState.SUCCEEDED if left else MemberState.FAILED,
            None if left else "Somebody took claims on it again.",
        )


def _end(member: GroupMember, state: MemberState, reason: str | None) -> None:
    member.state, member.reason, member.ended_at = state, reason, clock.now()


def _count(found: Sequence[GroupMember], state: MemberState) -> int:
    return sum(1 for member in found if member.state is state)


def _close(group: OperationGroup, found: Sequence[GroupMember]) -> None:
    failed, skipped = _count(found, MemberState.FAILED), _count(found, MemberState.SKIPPED)
    group.ended_at = clock.now()
    group.state = GroupState.FAILED if failed else GroupState.SUCCEEDED
    if failed:
        group.reason = f"{failed} of {len(found)} hosts failed."
    if skipped and not group.cancel_requested:
        limit = f"{failed} failures, of {group.max_failures} allowed"
        group.reason = f"Stopped after {limit}; {skipped} hosts were not begun."
    if group.cancel_requested:
        group.state = GroupState.CANCELLED
        group.reason = f"Cancelled; {skipped} of {len(found)} hosts were not begun, {failed} failed."
