"""The `ironyard` command."""

from __future__ import annotations

from typing import Annotated

import typer

from api.cli.commands import Commands

app = typer.Typer(
    name="ironyard",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help starts in half the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"ironyard {version('ironyard')}")
        raise typer.Exit


@app.callback()
def ironyard(
    _: Annotated[bool, typer.Option("--version", is_eager=True, callback=_version, help="Show it.")] = False,
) -> None:
    """A GPU platform as code: a ledger of GPU hosts, lent out under quota and reclaimed with proof."""


def run() -> None:
    app(prog_name="ironyard")
