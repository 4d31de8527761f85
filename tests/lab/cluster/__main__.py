"""`python -m tests.lab.cluster`: an empty cluster API with a chart registry on this machine, up and down."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from stacks.versions import CHARTS
from tests.lab.cluster import tools
from tests.lab.cluster.lab import HERE, ROOT, ClusterLab
from tests.lab.run import LabError, say

NOT_POSSIBLE = 3


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m tests.lab.cluster", description=__doc__)
    top.add_argument("--state-dir", type=Path, default=HERE)
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("tools", help="build the programs that are missing, nothing else")
    up = commands.add_parser("up", help="control plane and registry running, charts in the registry")
    up.add_argument("--json", action="store_true")
    up.add_argument("--contracts", type=Path, help="folder with the recorded charts and definitions")
    commands.add_parser("down", help="stop everything and forget its state")
    commands.add_parser("status", help="what runs").add_argument("--json", action="store_true")
    return top


def contracts_folder(given: Path | None) -> Path:
    place = given or Path(os.environ.get("IRONYARD_CONTRACTS", ROOT.parent / "shared" / "contracts"))
    if not (place / "charts").is_dir():
        raise LabError(f"the recorded charts are not at {place}: name their folder (--contracts).")
    return place


def described(lab: ClusterLab) -> dict[str, str]:
    return {
        "kubeconfig": str(lab.control_plane.kubeconfig),
        "charts": lab.registry.charts,
        "path": str(lab.bin),
        "env": str(lab.env_file),
    }


def up(lab: ClusterLab, options: argparse.Namespace) -> None:
    began = time.monotonic()
    try:
        contracts = contracts_folder(options.contracts)
    except LabError as missing:
        say(f"The registry stays empty: {missing}")
        lab.up((), Path())
    else:
        lab.up(CHARTS, contracts)
    facts = described(lab)
    if options.json:
        print(json.dumps(facts))
    else:
        print("\n".join(f"{key:<11}{value}" for key, value in facts.items()))
        print(f"\nIn a shell: . {facts['env']}")
    say(f"ready after {time.monotonic() - began:.1f} s")


def status(lab: ClusterLab, options: argparse.Namespace) -> None:
    daemons = {**lab.control_plane.daemons, "docker-registry": lab.registry.daemon}
    rows = {name: daemon.pid for name, daemon in daemons.items()}
    if options.json:
        print(json.dumps(rows))
        return
    for name, pid in rows.items():
        print(f"{name:<25}{'not running' if pid is None else f'pid {pid}'}")


def act(options: argparse.Namespace) -> None:
    if options.command == "tools":
        for name, place in sorted(tools.ensure().programs.items()):
            print(f"{name:<31}{place}")
        return
    folder = options.state_dir.absolute()
    match options.command:
        case "up":
            up(ClusterLab.at(folder, tied=False), options)
        case "status":
            status(ClusterLab.known(folder), options)
        case "down":
            ClusterLab.known(folder).down()


def main() -> int:
    try:
        act(parser().parse_args())
    except LabError as error:
        say(str(error))
        return NOT_POSSIBLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
