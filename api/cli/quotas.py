"""Quotas: `workspace quota` and `organisation quota`, hard and soft, of GPUs, storage and environments."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import typer

from api.cli import output, whose
from api.cli.amounts import NONE
from api.cli.client import Client, connect
from api.cli.commands import group
from api.cli.options import Json, pairs

of_workspaces = group()
COLUMNS = ("of", "limit", "soft", "used")
NAMES = {"gpus": "GPUs", "storage_gib": "storage GiB", "environments": "environments"}

Gpus = Annotated[
    str | None, typer.Option(metavar="N", help="GPUs at once, of all models together; `none`: no limit.")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="MODEL=N", help="GPUs at once of one model; may be repeated."),
]
Storage = Annotated[str | None, typer.Option(metavar="GIB", help="Storage.")]
Environments = Annotated[str | None, typer.Option(metavar="N", help="Environments.")]
SoftGpus = Annotated[
    str | None,
    typer.Option(metavar="N", help="As --gpus, and exceeding it only warns; so do the other soft limits."),
]
SoftModels = Annotated[list[str] | None, typer.Option("--soft-model", metavar="MODEL=N")]
SoftStorage = Annotated[str | None, typer.Option(metavar="GIB")]
SoftEnvironments = Annotated[str | None, typer.Option(metavar="N")]


class Named(NamedTuple):
    """The limits of one side, hard or soft, that a command line names; None is no limit."""

    plain: dict[str, int | None]
    models: dict[str, int | None]

    def __bool__(self) -> bool:
        return bool(self.plain or self.models)


@of_workspaces.command()
def quota(  # noqa: PLR0917
    slug: Annotated[str, typer.Argument(metavar="WORKSPACE", help="Slug or id.")],
    member: whose.Member = None,
    gpus: Gpus = None,
    models: Models = None,
    storage: Storage = None,
    environments: Environments = None,
    soft_gpus: SoftGpus = None,
    soft_models: SoftModels = None,
    soft_storage: SoftStorage = None,
    soft_environments: SoftEnvironments = None,
    as_json: Json = False,
) -> None:
    """See a workspace's or a member's quota, or set it; limits that are not named stay."""
    hard = named("", gpus, models, storage, environments)
    soft = named("soft-", soft_gpus, soft_models, soft_storage, soft_environments)
    with connect() as client:
        rows = see_or_set(client, whose.path(client, slug, None, member), hard, soft)
    show(rows, as_json=as_json)


def named(
    prefix: str, gpus: str | None, models: list[str] | None, storage: str | None, environments: str | None
) -> Named:
    given = {"gpus": (gpus, "gpus"), "storage_gib": (storage, "storage")}
    given["environments"] = (environments, "environments")
    plain = {
        name: _limit(text, f"--{prefix}{option}")
        for name, (text, option) in given.items()
        if text is not None
    }
    option = f"--{prefix}model"
    return Named(plain, {name: _limit(text, option) for name, text in pairs(models, option).items()})


def see_or_set(client: Client, of: str, hard: Named, soft: Named) -> Any:
    path = f"{of}/quotas"
    if not hard and not soft:
        return client.get(path)
    return client.revise("PUT", path, lambda present: _body(present, hard, soft))


def show(rows: Any, *, as_json: bool) -> None:
    output.show(rows, COLUMNS, (row_of(row) for row in rows), as_json=as_json)


def row_of(row: Any) -> tuple[Any, ...]:
    return row["model"] or NAMES[row["resource"]], row["hard_limit"], row["soft_limit"], row["used"]


def _limit(text: str, option: str) -> int | None:
    if text == NONE:
        return None
    if not (text.isascii() and text.isdigit()):
        raise typer.BadParameter(f"{text!r} is neither a whole number nor `none`", param_hint=option)
    return int(text)


def _body(present: list[Any], hard: Named, soft: Named) -> dict[str, Any]:
    return _side(present, "hard_limit", hard) | {"soft": _side(present, "soft_limit", soft)}


def _side(present: list[Any], column: str, asked: Named) -> dict[str, Any]:
    """All limits of the side, those that are not named as they are."""
    plain = {row["resource"]: row[column] for row in present if row["model"] is None} | asked.plain
    models = {row["model"]: row[column] for row in present if row["model"]} | asked.models
    return _limited(plain) | {"models": _limited(models)}


def _limited(limits: dict[str, int | None]) -> dict[str, Any]:
    return {name: limit for name, limit in limits.items() if limit is not None}
