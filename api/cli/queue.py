"""`queue`: who waits for GPUs."""

from __future__ import annotations

from typing import Any

from api.cli import output
from api.cli.client import connect
from api.cli.options import Json

COLUMNS = (
    "position",
    "id",
    "workspace",
    "who",
    "GPUs",
    "priority",
    "used h",
    "waits for",
    "enough at",
    "since",
)
HOUR = 3600


def queue(as_json: Json = False) -> None:
    """Show which claims wait for GPUs, in the order in which they are served."""
    with connect() as client:
        found = client.get("/queue")
    if as_json:
        output.emit(found)
        return
    output.show(found["items"], COLUMNS, (_row(row) for row in found["items"]), as_json=False)
    hidden = found["length"] - len(found["items"])
    if hidden:
        output.say(f"{hidden} more wait that are not of your workspaces, or are further behind.")


def _row(row: Any) -> tuple[Any, ...]:
    return (
        row["position"],
        row["id"],
        row["workspace"],
        row["requested_by"],
        row["wanted"]["gpus"],
        row["priority"],
        round(row["share_gpu_seconds"] / HOUR, 1),
        row["waits_for"],
        output.moment(row["enough_at"]) if row["enough_at"] else None,
        output.since(row["created_at"]),
    )
