"""`ironyard platform`: the cluster components, rolled out by Pulumi.

It shows what would change and asks first; plain `pulumi` in stacks/platform does the same work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.cli import output, platform_config, platform_mirror
from api.cli.commands import group
from api.cli.exits import Exit, Failure
from api.cli.options import Json, Yes, confirm
from api.cli.platform_values import Values, parsed, write

if TYPE_CHECKING:
    from api.cli.platform_engine import Engine
    from api.cli.platform_events import Change, Tally

app = group()
StackName = Annotated[
    str, typer.Option("--stack", metavar="NAME", help="local, staging, production, or one of your own.")
]
Backend = Annotated[
    str | None,
    typer.Option(
        envvar="PULUMI_BACKEND_URL", metavar="URL", help="Where state is kept; absent: a local folder."
    ),
]
Project = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The Pulumi project; absent: stacks/platform.")
]
Policies = Annotated[
    bool, typer.Option("--policies/--no-policies", help="Refuse what the policies in stacks/policy forbid.")
]
PolicyConfig = Annotated[
    Path | None, typer.Option(metavar="FILE", help="JSON: levels of policies, and exceptions with reasons.")
]
Refresh = Annotated[bool, typer.Option("--refresh", help="Look at what is really there first.")]


@app.command()
def up(
    stack: StackName = "local",
    values: Values = None,
    yes: Yes = False,
    refresh: Refresh = False,
    policies: Policies = True,
    policy_config: PolicyConfig = None,
    backend: Backend = None,
    project: Project = None,
    as_json: Json = False,
) -> None:
    """Create or update everything that the stack asks for, after showing it and asking."""
    run = Run(stack, backend, project, as_json, policies=policies, policy_config=policy_config)
    chosen = parsed(values or [])
    opened = run.engine.open(create=True)
    with run.engine.explained():
        write(opened, run.engine.target.project, chosen)
    planned = run.engine.preview(opened, refresh=refresh)
    run.show(planned)
    if planned.planned:
        run.agree(yes)
    # also where no resource changes: the stack's outputs may
    tally = run.engine.up(opened, expected=len(planned.planned), refresh=refresh)
    run.end(tally, "Stack {stack} is up", outputs=_outputs(run.engine.outputs(opened), secrets=False))


@app.command()
def preview(
    stack: StackName = "local",
    refresh: Refresh = False,
    policies: Policies = True,
    policy_config: PolicyConfig = None,
    backend: Backend = None,
    project: Project = None,
    as_json: Json = False,
) -> None:
    """Show what `up` would change; change nothing."""
    run = Run(stack, backend, project, as_json, policies=policies, policy_config=policy_config)
    planned = run.engine.preview(run.engine.open(create=True), refresh=refresh)
    run.show(planned)
    run.end(planned, "Nothing was changed", counted=False)


@app.command()
def drift(
    stack: StackName = "local", backend: Backend = None, project: Project = None, as_json: Json = False
) -> None:
    """Compare what is really there with what the stack asks for; exit code 8 when they differ."""
    run = Run(stack, backend, project, as_json)
    opened = run.engine.open(create=False)
    found = run.engine.preview(opened, title="Looking at the cluster", refresh=True)
    run.show(found)
    if not found.planned:
        run.end(found, "Everything is as stack {stack} asks for", counted=False)
        return
    run.end(found, "`ironyard platform up --refresh` makes these changes", counted=False)
    raise typer.Exit(Exit.DRIFT)


@app.command()
def destroy(
    stack: StackName = "local",
    with_data: Annotated[
        bool, typer.Option("--with-data", help="Delete protected data too; asks for the stack's name.")
    ] = False,
    yes: Yes = False,
    confirmed: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="The stack's name, for --with-data --yes.")
    ] = None,
    backend: Backend = None,
    project: Project = None,
    as_json: Json = False,
) -> None:
    """Remove everything but protected data and what that needs."""
    from api.cli.platform_destroy import agreed, destroy_stack, divided

    run = Run(stack, backend, project, as_json)
    opened = run.engine.open(create=False)
    kept, going = divided(run.engine.state(), with_data=with_data)
    run.list(going, kept)
    if going:
        agreed(run.stack, with_data=with_data, yes=yes, confirmed=confirmed)
    tally = destroy_stack(run.engine, opened, with_data=with_data, expected=len(going))
    run.end(tally, "Stack {stack} is destroyed" + (", but what is kept" if kept else ""), kept=kept)


@app.command()
def outputs(
    stack: StackName = "local",
    show_secrets: Annotated[bool, typer.Option("--show-secrets", help="Print secrets in the open.")] = False,
    backend: Backend = None,
    project: Project = None,
    as_json: Json = False,
) -> None:
    """Print what the stack gives: addresses, names, and secrets when asked for."""
    run = Run(stack, backend, project, as_json)
    found = _outputs(run.engine.outputs(run.engine.open(create=False)), secrets=show_secrets)
    if as_json:
        output.emit(found)
    elif found:
        output.details((name, "[secret]" if value is None else value) for name, value in found.items())
    else:
        output.say(f"Stack {stack} has no outputs.")


@app.command()
def unlock(
    stack: StackName = "local",
    yes: Yes = False,
    backend: Backend = None,
    project: Project = None,
    as_json: Json = False,
) -> None:
    """Take away the lock that a killed run left behind."""
    run = Run(stack, backend, project, as_json)
    opened = run.engine.open(create=False)
    confirm("free the lock, which must belong to no living run, of stack", stack, yes=yes)
    run.engine.command("cancel", "--yes")
    if as_json:
        output.emit({"stack": opened.name, "locked": False})
    else:
        output.say(f"Stack {stack} is free. `ironyard platform up --refresh` goes on from what is there.")


app.command()(platform_config.config)
app.command()(platform_mirror.mirror)


class Run:
    """One command: its engine, when it began, and what it prints at its end."""

    def __init__(
        self,
        stack: str,
        backend: str | None,
        project: Path | None,
        as_json: bool,
        *,
        policies: bool = False,
        policy_config: Path | None = None,
    ) -> None:
        from api.cli.platform_display import Display
        from api.cli.platform_engine import Engine
        from api.cli.platform_target import target

        self.began = time.monotonic()
        self.stack, self.as_json = stack, as_json
        display = Display(quiet=as_json)
        chosen = target(stack, backend, project, display, policies=policies, policy_config=policy_config)
        self.engine: Engine = Engine(chosen, display)

    def show(self, planned: Tally) -> None:
        """What would change, and what the policies only advise."""
        if self.as_json:
            return
        if planned.planned:
            output.table(("change", "kind", "name", "differs in"), (_row(one) for one in planned.planned))
            self.engine.display.say(f"{_counted(planned)}; {planned.same} stay as they are.")
        else:
            self.engine.display.say(f"Nothing to change; {planned.same} resources are as they should be.")
        for warning in dict.fromkeys(map(str, planned.warnings)):
            self.engine.display.say(f"Note: {warning}")

    def list(self, going: Sequence[Change], kept: Sequence[Change]) -> None:
        """What a destroy takes and leaves."""
        if self.as_json:
            return
        rows = [
            (word, one.kind, one.name) for word, part in (("delete", going), ("keep", kept)) for one in part
        ]
        output.table(("change", "kind", "name"), rows)
        self.engine.display.say(f"{len(going)} to delete, {len(kept)} kept: protected, or needed by what is.")

    def agree(self, yes: bool) -> None:
        if yes:
            return
        if self.as_json or not sys.stdin.isatty():
            raise Failure("Say --yes to make these changes without being asked.", Exit.USAGE)
        if not typer.confirm(f"Make these changes to stack {self.stack}?", err=True):
            raise Failure("Nothing was changed.")

    def end(self, tally: Tally, words: str, *, counted: bool = True, **more: Any) -> None:
        """The last sentence, or the document."""
        seconds = time.monotonic() - self.began
        if self.as_json:
            changes = [one.document() for one in tally.planned or tally.done]
            head = {"stack": self.stack, "backend": self.engine.target.backend, "seconds": round(seconds, 1)}
            kept = {"kept": [one.document() for one in more.pop("kept")]} if "kept" in more else {}
            output.emit({**head, "changes": tally.counts(), "resources": changes, **kept, **more})
            return
        if counted:
            words = f"{words}: {_counted(tally) or 'nothing was changed'} in {seconds:.0f} s"
        self.engine.display.say(f"{words.format(stack=self.stack)}.")
        if more.get("kept"):
            self.engine.display.say("`ironyard platform destroy --with-data` deletes what is kept, too.")
        if more.get("outputs"):
            found = more["outputs"].items()
            output.details((name, "[secret]" if value is None else value) for name, value in found)


def _row(change: Change) -> tuple[str, str, str, str]:
    return change.op, change.kind, change.name, ", ".join(change.keys)


def _counted(tally: Tally) -> str:
    from api.cli.platform_events import DONE

    words = {op: f"to {op}" for op in DONE} if tally.planned else DONE
    return ", ".join(f"{count} {words[op]}" for op, count in tally.counts().items())


def _outputs(found: Any, *, secrets: bool) -> dict[str, Any]:
    """None stands for a secret that was not asked for."""
    return {name: None if one.secret and not secrets else one.value for name, one in sorted(found.items())}
