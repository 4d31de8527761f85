"""`ironyard platform config`: a stack's configuration checked offline, or what can be configured at all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli import output
from api.cli.exits import Exit, Failure
from api.cli.options import Json

SEALED = "secure"  # Pulumi's key of an encrypted value
STAND_IN = "x" * 64  # for a value that only the passphrase opens


def config(
    stack: Annotated[
        str | None,
        typer.Option("--stack", metavar="NAME", help="Check this stack's file; absent: print the reference."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check this file instead of Pulumi.<stack>.yaml.")
    ] = None,
    project: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The Pulumi project; absent: stacks/platform.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print every setting with its default, or check a stack's file without a cluster."""
    if stack is None and file is None:
        _print_reference(as_json=as_json)
        return
    from api.cli.platform_target import project_folder

    path = file or project_folder(project) / f"Pulumi.{stack}.yaml"
    faults, modes = checked(_read(path))
    if as_json:
        output.emit({"file": str(path), "ok": not faults, "faults": faults, "sections": modes})
    if faults:
        raise Failure("\n  ".join([f"{path} is refused.", *faults]), Exit.INVALID)
    if not as_json:
        output.table(("section", "mode"), modes.items())
        output.say(f"{path} is right.")


def checked(given: dict[str, Any]) -> tuple[list[str], dict[str, str]]:
    """What is wrong with `config` of a stack's file, and the mode of each section when nothing is.

    Encrypted values are not opened: what is below them is taken as right.
    """
    from stacks.components.base import read_configuration, section_types
    from stacks.settings import ConfigurationError

    sealed: list[str] = []
    own = sections(given, sealed)
    faults: list[str] = []
    try:
        read_configuration(own)
    except ConfigurationError as refused:
        beneath = tuple(f"{path}:" for path in sealed)
        faults = [fault for fault in refused.faults if not fault.startswith(beneath)]
    if faults:
        return faults, {}
    return [], {name: _mode(model, own.get(name, {})) for name, model in section_types().items()}


def sections(given: dict[str, Any], sealed: list[str] | None = None) -> dict[str, Any]:
    """Section → object of a stack file's `config`; paths of encrypted values are added to `sealed`."""
    from stacks.components.base import PROJECT

    closed = [] if sealed is None else sealed
    return {
        key.removeprefix(f"{PROJECT}:"): _opened(value, key, closed)
        for key, value in given.items()
        if key.startswith(f"{PROJECT}:")
    }


def _mode(model: Any, given: dict[str, Any]) -> str:
    field = model.model_fields.get("mode")
    return str(given.get("mode", field.default)) if field else "-"


def _opened(value: Any, path: str, sealed: list[str]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {SEALED}:
            sealed.append(path)
            return STAND_IN
        return {key: _opened(inner, f"{path}.{key}", sealed) for key, inner in value.items()}
    if isinstance(value, list):
        return [_opened(inner, f"{path}.{number}", sealed) for number, inner in enumerate(value)]
    return value


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError as error:
        raise Failure(f"There is no {path}.", Exit.NOT_FOUND) from error
    except yaml.YAMLError as error:
        raise Failure(f"{path} is no YAML: {' '.join(str(error).split())}", Exit.USAGE) from error
    inner = found.get("config", {}) if isinstance(found, dict) else None
    if not isinstance(inner, dict):
        raise Failure(f"{path} has no `config` map.", Exit.USAGE)
    return inner


def _print_reference(*, as_json: bool) -> None:
    if as_json:
        from stacks.components.base import section_types

        output.emit({name: model.model_json_schema() for name, model in section_types().items()})
        return
    from stacks.reference import page

    print(page(), end="")
