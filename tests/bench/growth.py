"""Whether a claim, and a page of a list, cost the same in a ledger that has grown.

Prints a table, or with `--json` one object a line: gpus and closed_holds (how large the ledger is), p99_ms
(of claims of one GPU over HTTP), list (which one was paged through), page_first_ms and page_last_ms (the
median of a page at its beginning, and of page number page_last). Also engine, clients, p50_ms.

The ledgers are measured in turn, a part of the claims each time, so that what else the machine does meets
all of them alike.
"""

from __future__ import annotations

import sys
from pathlib import Path

# for `tests`; and this folder's platform.py must not hide the standard library's
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from statistics import median
from uuid import UUID

from tests.bench import bulk
from tests.bench.claims import Caller
from tests.bench.load import Measured, drive
from tests.bench.stage import GPUS, Stage, stage
from tests.support import ledger
from tests.support.server import api_server

LOOKS = 30  # at each page


@dataclass
class Result:
    gpus: int
    closed_holds: int
    p99_ms: float
    page_first_ms: float
    page_last_ms: float
    list: str
    page_last: int
    p50_ms: float
    engine: str
    clients: int


class Case:
    """A ledger of one size, served, with the clients that measure it."""

    def __init__(self, stage: Stage, url: str, closed: int) -> None:
        self.stage, self.closed = stage, closed
        self.callers = [Caller(url, key, f"w{number}") for number, key in enumerate(stage.keys)]
        self.claims = Measured()

    def age(self) -> None:
        """Lend and take back one GPU, and write the same into the past as often as was asked for."""
        wire = self.callers[0].wire
        _, body = wire.ask(self.callers[0].one)
        claim = json.loads(body)
        self.callers[0].release(claim["id"])
        database = self.stage.database
        ledger.finish(database, UUID(claim["gpus"][0]["host_id"]), ledger.report("reclaim"))
        bulk.closed_holds(database, UUID(claim["id"]), self.stage.gpus - GPUS, self.closed)

    def claim(self, times: int) -> None:
        driven = [(caller.wire, caller.claim) for caller in self.callers]
        self.claims += drive(driven, times=times)

    def page(self, path: str) -> tuple[float, str | None]:
        """Milliseconds that it took, and the cursor of the page after it."""
        began = time.perf_counter()
        status, body = self.callers[0].wire.ask(self.callers[0].request("GET", path))
        took = (time.perf_counter() - began) * 1000
        if status != 200:
            sys.exit(f"{path} was refused: {status} {body.decode()}")
        return took, json.loads(body).get("next_cursor")

    def pages(self, number: int, size: int) -> tuple[str, int, float, float]:
        """Of the longer list: its name, which page was the last one looked at, both pages' medians."""
        name = "allocations" if self.closed > self.stage.gpus else "gpus"
        first = last = f"/api/v1/{name}?limit={size}"
        reached = 1
        while reached < number and (cursor := self.page(last)[1]) is not None:
            last = f"{first}&cursor={cursor}"
            reached += 1
        looks = [(self.page(first)[0], self.page(last)[0]) for _ in range(LOOKS)]
        return name, reached, median(one for one, _ in looks), median(other for _, other in looks)

    def result(self, pages: tuple[str, int, float, float]) -> Result:
        name, reached, first, last = pages
        return Result(
            gpus=self.stage.gpus,
            closed_holds=self.closed,
            p99_ms=self.claims.percentile_ms(0.99),
            page_first_ms=round(first, 2),
            page_last_ms=round(last, 2),
            list=name,
            page_last=reached,
            p50_ms=self.claims.percentile_ms(0.5),
            engine=self.stage.engine,
            clients=len(self.callers),
        )


@contextmanager
def case(engine: str, gpus: int, closed: int, clients: int) -> Iterator[Case]:
    began = time.monotonic()
    with (
        stage(engine, clients=clients, hosts=max(2, gpus // GPUS)) as made,
        api_server(made.directory, made.url) as url,
    ):
        one = Case(made, url, closed)
        if closed:
            one.age()
        made.settle()
        took = time.monotonic() - began
        say(f"{engine}: {made.gpus} GPUs and {closed} closed holds are there after {took:.0f} s")
        yield one
        for caller in one.callers:
            caller.close()


def measure(engine: str, args: argparse.Namespace) -> list[Result]:
    small, large = args.gpus
    sizes = [(small, 0), (large, 0), (small, args.closed)]
    with ExitStack() as held:
        cases = [held.enter_context(case(engine, *size, args.clients)) for size in sizes]
        for one in cases:
            drive([(caller.wire, caller.claim) for caller in one.callers], times=args.claims // 20)
        for number in range(args.rounds):
            for one in cases:
                one.claim(args.claims // args.rounds)
            say(f"claims: {number + 1} of {args.rounds} rounds")
        return [one.result(one.pages(args.pages, args.page_size)) for one in cases]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=["sqlite", "postgresql", "both"], default="postgresql")
    parser.add_argument("--gpus", type=int, nargs=2, default=[4_000, 100_000], metavar=("SMALL", "LARGE"))
    parser.add_argument("--closed", type=int, default=1_000_000, help="closed holds of the third ledger")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--claims", type=int, default=3_000, help="of each ledger; fewer than it has GPUs")
    parser.add_argument("--rounds", type=int, default=10, help="in which they are made")
    parser.add_argument("--pages", type=int, default=1_000, help="the page to compare the first one with")
    parser.add_argument("--page-size", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    for engine in ["sqlite", "postgresql"] if args.engine == "both" else [args.engine]:
        for result in measure(engine, args):
            said = asdict(result)
            print(
                json.dumps(said) if args.json else "  ".join(f"{name}={it}" for name, it in said.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
