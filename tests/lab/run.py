"""Running programs: one place, so that a failure always says which program and what it printed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence


class LabError(Exception):
    """The lab cannot do what was asked; the message is one sentence for the person at the terminal."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(*argv: str, check: bool = True, stdin: bytes | None = None, timeout: float = 600) -> str:
    """The program's standard output.

    Raises LabError with its last lines when it fails and `check` is on.
    """
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed.") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{_name(argv)} did not end within {timeout:.0f} s.") from error
    if check and done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-5:]
        raise LabError(f"{_name(argv)} failed ({done.returncode}): {' '.join(said)}")
    return done.stdout.decode(errors="replace")


def _name(argv: Sequence[str]) -> str:
    return " ".join(argv[:3])
