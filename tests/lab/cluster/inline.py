"""`python -m tests.lab.cluster.inline PROJECT FOLDER STACK PACK…`: a preview under policy packs.

The program runs inside this process, by the Automation API: that needs no language host, which is what
starts policy packs where the host and the engine are of one age.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

import yaml
from pulumi import automation


def main() -> int:
    top = argparse.ArgumentParser(description=__doc__)
    top.add_argument("project", type=Path)
    top.add_argument("folder", type=Path, help="holds the stack's Pulumi.yaml and configuration")
    top.add_argument("stack")
    top.add_argument("packs", nargs="+")
    asked = top.parse_args()
    name = yaml.safe_load((asked.folder / "Pulumi.yaml").read_text())["name"]

    def program() -> None:
        runpy.run_path(str(asked.project / "__main__.py"), run_name="__main__")

    stack = automation.create_or_select_stack(
        asked.stack,
        project_name=name,
        program=program,
        opts=automation.LocalWorkspaceOptions(work_dir=str(asked.folder)),
    )
    try:
        stack.preview(policy_packs=asked.packs, on_output=print)
    except automation.CommandError as refused:
        print(refused, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
