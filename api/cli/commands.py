"""The table of commands. A command's module is imported when it is called, so that `--help` needs none."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from api.cli.exits import MEANINGS, Failure


class Entry(NamedTuple):
    """`where`: module and name of a function, or of a Typer application with commands of its own.

    Several applications, with a space between, are one command.
    """

    where: str
    help: str


SECTIONS = {
    "Run the platform": {
        "up": Entry("up:up", "Start the platform: database, API and worker, until Ctrl-C."),
        "serve": Entry("processes:serve", "Run the API alone."),
        "worker": Entry("processes:worker", "Run background operations alone."),
        "health": Entry("health:health", "Ask whether the API or a worker of this machine lives."),
        "platform": Entry(
            "platform:app", "Roll out the cluster components, see what would change, take down."
        ),
        "db": Entry("processes:database", "Bring the schema up to date; make the first administrator."),
    },
    "Hold GPUs": {
        "gpus": Entry("ledger:gpus", "List GPUs."),
        "offers": Entry("allocate:offers", "Rank what could be lent, by price, fit, locality and health."),
        "allocate": Entry("allocate:allocate", "Hold GPUs for a time: all that were asked for, or none."),
        "allocations": Entry("ledger:allocations", "List allocations, newest first."),
        "allocation": Entry("ledger:allocation", "Look at one allocation."),
        "queue": Entry("queue:queue", "Show which claims wait for GPUs, and what for."),
        "extend": Entry("ledger:extend", "Move an allocation's end."),
        "renew": Entry("approval:renew", "Ask for a later end of an allocation."),
        "grow": Entry("approval:grow", "Ask for more GPUs like those of an allocation."),
        "transfer": Entry("approval:transfer", "Hand an allocation to another workspace."),
        "requests": Entry("approval:requests", "List the claims and changes that wait for your decision."),
        "approve": Entry("approval:approve", "Approve a claim or a change."),
        "deny": Entry("approval:deny", "Deny a claim or a change, with a reason."),
        "release": Entry("ledger:release", "Give GPUs back; a host that nobody holds any more is cleaned."),
        "reservations": Entry("calendar:reservations", "Show which GPUs are set aside for when."),
        "notices": Entry("calendar:notices", "Show ends that come near, and what is late."),
        "usage": Entry("usage:usage", "Show use against limits, with a forecast to the month's end."),
        "report": Entry("reports:app", "Report usage and capacity."),
    },
    "Run the fleet": {
        "host": Entry(
            "hosts:app host_change:app host_history:app groups:of_hosts host_records:app host_health:app",
            "Enroll hosts, look at them, reclaim and retire them.",
        ),
        "group": Entry("groups:app", "List, watch, cancel and try again what is done to many hosts."),
        "operations": Entry("operations:app", "List, look at, watch and cancel background work."),
        "leaks": Entry("leaks:app", "What is held, lent or at work without a reason; decide about it."),
        "proof": Entry("proof:app", "Check signed records and manifests, offline as well."),
        "tenancy": Entry("cluster:app", "Bring the cluster in line with workspaces, quotas and members."),
    },
    "People and access": {
        "login": Entry("session:login", "Sign in and keep the session for later commands."),
        "logout": Entry("session:logout", "Forget the session."),
        "whoami": Entry("session:whoami", "Show who is signed in, and where."),
        "password": Entry("session:password", "Change your password; all your other sessions end."),
        "key": Entry("session:keys", "Make and revoke API keys, for scripts and playbooks."),
        "workspace": Entry(
            "tenancy:workspace quotas:of_workspaces approval:of_workspaces organisations:of_workspaces",
            "Workspaces, their members and quotas; who approves.",
        ),
        "organisation": Entry("organisations:app", "Organisations, their workspaces and quotas."),
        "budget": Entry("budget:app", "GPU-hours and money of a month, at every level."),
        "rates": Entry("rates:app", "What our own GPUs cost an hour, and from when on."),
        "approval": Entry("approval:rules", "Which GPU models need approval, and whose."),
        "user": Entry("tenancy:user", "Users and their roles; reset a password."),
        "audit": Entry("reports:audit", "Read the audit trail."),
    },
}
ENTRIES = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class Commands(TyperGroup):
    """Loads a command when it is asked for; turns a failure into a sentence and an exit code."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.commands: Any = dict.fromkeys(ENTRIES)  # names, for suggestions

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - given by Typer
        return load(cmd_name) if cmd_name in ENTRIES else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in entries.items()], col_max=12)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(int(code)), meaning) for code, meaning in MEANINGS.items()])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except Failure as failure:
            from api.cli.output import say

            say(f"ironyard: {failure.sentence}")
            sys.exit(failure.code)


def load(name: str) -> Any:
    entry = ENTRIES[name]
    found, *more = (_member(where) for where in entry.where.split())
    if isinstance(found, typer.Typer):
        found = merged(found, *more)
        group = get_group(found)
        group.name, group.help = name, entry.help
        return group
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    single.command(name)(found)
    return get_command(single)


def _member(where: str) -> Any:
    module, _, member = where.partition(":")
    return getattr(import_module(f"api.cli.{module}"), member)


def merged(*parts: typer.Typer) -> typer.Typer:
    made = group()
    for part in parts:
        made.registered_commands += part.registered_commands
        made.registered_groups += part.registered_groups
    return made


def group() -> typer.Typer:
    """A command with commands of its own."""
    return typer.Typer(
        no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )
