"""Runs the documentation's commands as its reader would, one after the other, and compares what is shown."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

from tests.docs.pages import ROOT, Command

SCRIPT = """
set -o pipefail
if [ -f "$DOCS_STATE" ]; then . "$DOCS_STATE"; fi
{command}
code=$?
{ export -p; set +o; } > "$DOCS_STATE"
exit $code
"""
ID = re.compile(r"(?<!GPU-)\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b")
END_OF_ID = re.compile(r"(?<![\w-])[0-9a-f]{6}(?![\w-])")
AGES = ("now", "ago", "in", "min")
PROMPT = re.compile(r"^[A-Z][a-z ]+:$", re.MULTILINE)


class Shell:
    """Exported variables and `set` options live on from one command to the next.

    `names` replaces what a page calls things.
    """

    def __init__(self, home: Path, environment: dict[str, str], names: dict[str, str]) -> None:
        self.environment = environment | {"DOCS_STATE": str(home / "state"), "HOME": str(home)}
        self.names = names
        self.answers: list[str] = []

    def follow(self, command: Command) -> str:
        """Run it; fail when it ends otherwise than shown or does not print the words shown."""
        text = self.mine(command.text)
        asked = len(PROMPT.findall("\n".join(command.shown)))
        run = self._at_terminal(text, asked) if asked else self._piped(text)
        code, printed = run
        assert (code != 0) == command.fails, f"{command.where}: exit code {code} of {text}\n{printed}"
        self._learn_id(command, printed)
        missing = [word for line in command.shown for word in words(self.mine(line)) if word not in printed]
        assert not missing, f"{command.where}: {missing} not in what {text} printed:\n{printed}"
        return printed

    def mine(self, text: str) -> str:
        for theirs, ours in self.names.items():
            text = text.replace(theirs, ours)
        ends = {theirs[-6:]: ours[-6:] for theirs, ours in self.names.items() if ID.fullmatch(theirs)}
        return END_OF_ID.sub(lambda found: ends.get(found.group(), found.group()), text)

    def _learn_id(self, command: Command, printed: str) -> None:
        """The first id that the page shows stands for the first one printed."""
        theirs, ours = ID.search("\n".join(command.shown)), ID.search(printed)
        if theirs and ours:
            self.names.setdefault(theirs.group(), ours.group())

    def _piped(self, text: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", SCRIPT.replace("{command}", text)],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=900,
            check=False,
        )
        return done.returncode, done.stdout

    def _at_terminal(self, text: str, asked: int) -> tuple[int, str]:
        """Passwords are read from the terminal, so there has to be one."""
        ours, theirs = pty.openpty()
        shell = ["setsid", "--ctty", "bash", "-c", SCRIPT.replace("{command}", text)]
        process = subprocess.Popen(
            shell,
            cwd=ROOT,
            env=self.environment | {"TERM": "dumb"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        answers, self.answers = self.answers[:asked], self.answers[asked:]
        printed = _converse(ours, answers)
        return process.wait(60), printed


def _converse(terminal: int, answers: list[str]) -> str:
    printed = b""
    while True:
        try:
            heard = os.read(terminal, 65536)
        except OSError:  # what Linux says when the other side has closed
            heard = b""
        if not heard:
            os.close(terminal)
            return printed.decode(errors="replace").replace("\r", "")
        printed += heard
        if answers and printed.endswith(b": "):
            os.write(terminal, answers.pop(0).encode() + b"\n")


def words(line: str) -> list[str]:
    """What of a shown line is the same every time: no numbers, no ids, no ages."""
    found = (word.strip("…").rstrip(".") for word in line.split())
    same = (word for word in found if re.search(r"[A-Za-z]{2}", word) and not re.search(r"\d", word))
    return [word for word in same if word.strip("()") not in AGES]
