"""A child process of `ironyard up`: migrates, bootstraps and prints what came of it as one JSON object.

It is a process of its own so that the supervisor, which lives on, stays small.
"""

from __future__ import annotations

import json
import sys

from api.cli import local
from api.cli.exits import Failure

ONLY_TOKEN = "--only-token"  # noqa: S105 - an option, no secret


def main() -> int:
    try:
        chosen = local.settings()
        if ONLY_TOKEN not in sys.argv:
            local.upgrade(chosen)
        print(json.dumps(local.prepare(chosen)._asdict()))
    except (Failure, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
