"""`python -m tests.lab`: lab hosts up and down, their state, and the faults their GPUs are told to show."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from tests.lab import engine, fleet
from tests.lab.hosts import Lab
from tests.lab.run import LabError, say

NOT_POSSIBLE = 3


def parser() -> argparse.ArgumentParser:
    default = Path(os.environ.get("IRONYARD_LAB_DIR", Path(__file__).parents[2] / ".ironyard" / "lab"))
    top = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    top.add_argument("--state-dir", type=Path, default=default)
    top.add_argument("--prefix", default="lab", help="names the hosts and their network")
    top.add_argument("--fleet", type=Path, default=fleet.DEFAULT)
    commands = top.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="hosts running and open to ssh")
    up.add_argument("--hosts", type=int, help="only the first N of the fleet")
    up.add_argument("--json", action="store_true")
    down = commands.add_parser("down", help="remove the hosts")
    down.add_argument(
        "--all", action="store_true", help="also network, images, and the engine the lab started"
    )
    commands.add_parser("status", help="what there is").add_argument("--json", action="store_true")
    commands.add_parser("image", help="build the image")
    commands.add_parser("engine", help="find or start the Docker engine")
    commands.add_parser("setup", help="install what is missing on Debian or Ubuntu")
    tell = commands.add_parser(
        "tell", help="make a host's GPUs misbehave: `tell HOST --help` lists the faults"
    )
    tell.add_argument("host")
    tell.add_argument("fault", nargs=argparse.REMAINDER)
    return top


def up(lab: Lab, options: argparse.Namespace) -> None:
    began = time.monotonic()
    hosts = lab.up(fleet.load(options.fleet)[: options.hosts])
    for host in hosts:
        print(
            host.json() if options.json else f"{host.name}  {host.address}  {'new' if host.fresh else 'kept'}"
        )
    say(f"{len(hosts)} hosts ready after {time.monotonic() - began:.1f} s")


def status(lab: Lab, options: argparse.Namespace) -> None:
    for row in lab.status():
        print(json.dumps(row) if options.json else "  ".join(row.values()))


def act(lab: Lab, options: argparse.Namespace) -> None:
    match options.command:
        case "up":
            up(lab, options)
        case "down":
            lab.down(everything=options.all)
        case "status":
            status(lab, options)
        case "image":
            print(lab.ensure_image())
        case "engine":
            print(lab.ensure_engine())
        case "setup":
            engine.setup()
        case "tell":
            print(lab.tell(options.host, *options.fault), end="")


def main() -> int:
    options = parser().parse_args()
    try:
        act(Lab(options.state_dir.absolute(), options.prefix), options)
    except LabError as error:
        say(str(error))
        return NOT_POSSIBLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
