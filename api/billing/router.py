"""HTTP of reports."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from api.billing import service
from api.billing.models import UsageReport
from api.core.access import Actor, Permission, needs
from api.core.db import TransactionalRoute, Tx
from api.core.http import problems
from api.core.moments import Moment

router = APIRouter(prefix="/api/v1/admin/reports", tags=["reports"], route_class=TransactionalRoute)
Reader = Annotated[Actor, needs(Permission.REPORTS_READ)]
EXAMPLES = {"day": {"value": "2026-01-05T00:00:00Z"}}
EXAMPLES_END = {"day": {"value": "2026-01-06T00:00:00Z"}}


@router.get(
    "/usage",
    summary="Usage and capacity in a window",
    response_model=UsageReport,
    responses=problems(401, 403, 422)
    | {200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "The report"}},
)
def usage(
    tx: Tx,
    actor: Reader,  # noqa: ARG001
    start: Annotated[Moment, Query(alias="from", openapi_examples=EXAMPLES)],
    end: Annotated[Moment, Query(alias="to", openapi_examples=EXAMPLES_END)],
    form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
) -> UsageReport | Response:
    """Each hold in the window with its whole GPU-seconds, and how each GPU's enrolled time was spent."""
    report = service.usage_report(tx, start, end)
    if form == "json":
        return report
    name = f"usage-{start:%Y%m%dT%H%M%SZ}-{end:%Y%m%dT%H%M%SZ}.csv"
    return Response(
        service.as_csv(report),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
