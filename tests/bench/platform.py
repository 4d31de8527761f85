"""How long the whole platform takes on an empty cluster API, and whether the runs after leave it alone.

Prints a table, or with `--json` one object: preview_s, up_s (wall seconds of the engine's runs),
second_up_changes (resources a second `up` touched), destroy_left (resources that a destroy should have
removed and did not; protected ones and what they need stay on purpose). Also second_up_s, destroy_s and
resources, how many the platform has.
"""

from __future__ import annotations

import sys
from pathlib import Path

# for `tests`; and this file must not hide the standard library's platform
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import argparse
import json
import tempfile

from stacks.versions import CHARTS
from tests.lab.cluster.__main__ import contracts_folder
from tests.lab.cluster.lab import ClusterLab
from tests.lab.cluster.platform import left_over, platform_stack
from tests.lab.run import LabError


def measure(folder: Path, contracts: Path | None) -> dict[str, float]:
    lab = ClusterLab.at(folder / "lab", tied=True)
    try:
        lab.up(CHARTS, contracts_folder(contracts))
        stack = platform_stack(lab, folder / "stack")
        preview, up, again = stack.preview(), stack.up(), stack.up()
        resources = len(stack.resources())
        destroy = stack.destroy("--exclude-protected")
        return {
            "preview_s": round(preview.seconds, 1),
            "up_s": round(up.seconds, 1),
            "second_up_s": round(again.seconds, 1),
            "second_up_changes": again.changed,
            "destroy_s": round(destroy.seconds, 1),
            "destroy_left": len(left_over(stack)),
            "resources": resources,
        }
    finally:
        lab.down()


def main() -> int:
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--json", action="store_true")
    top.add_argument("--contracts", type=Path, help="folder with the recorded charts and definitions")
    asked = top.parse_args()
    with tempfile.TemporaryDirectory(prefix="ironyard-bench-", ignore_cleanup_errors=True) as place:
        try:
            rows = measure(Path(place), asked.contracts)
        except LabError as error:
            print(error, file=sys.stderr)
            return 3
    print(
        json.dumps(rows) if asked.json else "\n".join(f"{key:<18}{value:>10}" for key, value in rows.items())
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
