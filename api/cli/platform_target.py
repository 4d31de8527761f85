"""Where a stack's state is kept, its passphrase, and its policies: from options, environment and files."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from api.cli.exits import Exit, Failure

if TYPE_CHECKING:
    from api.cli.platform_display import Display
    from api.cli.platform_engine import Target

PASSPHRASE = "PULUMI_CONFIG_PASSPHRASE"  # noqa: S105 - a variable's name


def target(
    stack: str,
    backend: str | None,
    project: Path | None,
    display: Display,
    *,
    policies: bool,
    policy_config: Path | None,
) -> Target:
    """Raises Failure when the project is missing, or a passphrase is needed and nobody can be asked."""
    from api.cli.platform_engine import Target

    folder = project_folder(project)
    backend = backend or local_backend(display)
    pack = folder.parent / "policy"
    packs = (pack.resolve(),) if policies and (pack / "PulumiPolicy.yaml").is_file() else ()
    return Target(
        project=folder,
        stack=stack,
        backend=backend,
        environment=_passphrase(folder, stack, backend),
        policies=packs,
        policy_configs=(policy_config.resolve(),) if policy_config and packs else (),
    )


def project_folder(given: Path | None) -> Path:
    """The folder with Pulumi.yaml. Raises Failure where there is none."""
    from api.settings import ROOT

    folder = given or ROOT / "stacks" / "platform"
    if not (folder / "Pulumi.yaml").is_file():
        raise Failure(
            f"There is no Pulumi.yaml in {folder}; name the project's folder with --project.", Exit.USAGE
        )
    return folder.resolve()


def local_backend(display: Display) -> str:
    """A folder in the data directory, with a note, since everything depends on its being kept."""
    from api.cli.local import settings

    folder = (settings().data_dir / "pulumi").resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    display.say(f"The state is kept in {folder}: back it up, or name a shared backend with --backend.")
    # a killed run may leave an empty file of attributes, on which every later run would fail
    return f"file://{folder}?metadata=skip"


def stack_settings(folder: Path, stack: str) -> dict[str, Any]:
    """The contents of Pulumi.<stack>.yaml; empty where there is none."""
    import yaml

    path = folder / f"Pulumi.{stack}.yaml"
    try:
        found = yaml.safe_load(path.read_text()) if path.is_file() else {}
    except yaml.YAMLError as error:
        raise Failure(f"{path} is no YAML: {' '.join(str(error).split())}", Exit.USAGE) from error
    return found if isinstance(found, dict) else {}


def _passphrase(folder: Path, stack: str, backend: str) -> dict[str, str]:
    """Into the environment of `pulumi` only: never on a command line, never printed."""
    if PASSPHRASE in os.environ or f"{PASSPHRASE}_FILE" in os.environ:
        return {}
    known = stack_settings(folder, stack)
    if known.get("secretsprovider", "passphrase") != "passphrase" or backend.startswith(
        ("http://", "https://")
    ):
        return {}  # the backend or a key service keeps the secrets
    if not sys.stdin.isatty():
        raise Failure(
            f"Stack {stack} needs its passphrase: set {PASSPHRASE} or {PASSPHRASE}_FILE.", Exit.USAGE
        )
    is_new = "encryptionsalt" not in known
    words = f"{'New passphrase' if is_new else 'Passphrase'} of stack {stack}"
    return {PASSPHRASE: typer.prompt(words, hide_input=True, confirmation_prompt=is_new, err=True)}
