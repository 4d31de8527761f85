"""What a claim over HTTP costs, beside the raw SQL that it cannot beat, and whether races ever over-allocate.

Prints a table, or with `--json` one object a line: engine, clients, rate_per_s, p50_ms, p99_ms,
cpu_ms_per_request (API and database processes together, not the load), floor_rate_per_s (the same rows
written by plain SQL in one transaction a claim), rounds, over_allocated (racing rounds in which more GPUs
were handed out than there are, or one of them twice).

With `--against placement` OpenStack Placement 16 is driven by the same load on the same PostgreSQL server,
after ours and alone: engine is then "placement", `way` says how a client claimed ("put": on a provider
that it knew; "candidates": it asked for candidates first; cpu_ms_per_request is of the whole claim),
rate_ratio and p99_ratio are ours by its, worst_used the most GPUs that one provider of 8 lent at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

# for `tests`; and this folder's platform.py must not hide the standard library's
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import argparse
import json
import os
from dataclasses import asdict, dataclass

import psutil
import sqlalchemy as sa

from tests.bench.floor import floor
from tests.bench.load import Answer, Measured, Meter, Script, Wire, drive, family, request, together
from tests.bench.placement_peer import Peer, placement
from tests.bench.stage import GPUS, Stage, stage
from tests.support import ledger
from tests.support.server import api_server

CLIENTS = 16
WARM_UP = 0.5  # seconds
PEER_ROUNDS = 20


@dataclass
class Result:
    engine: str
    clients: int
    rate_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_request: float
    floor_rate_per_s: float | None = None
    rounds: int = 0
    over_allocated: int = 0
    way: str | None = None
    failed: int | None = None
    worst_used: int | None = None
    rate_ratio: float | None = None
    p99_ratio: float | None = None


class Caller:
    """One client of ours on one kept connection.

    It asks for something at once, as clients do: of connections that come in one burst and ask for nothing,
    a single one of the server's processes accepts all.
    """

    def __init__(self, url: str, key: str, workspace: str) -> None:
        self.wire, self.key = Wire(url), key
        self.one = self._claim({"gpus": 1, "workspace": workspace})
        self.whole = self._claim({"gpus": GPUS, "workspace": workspace, "same_host": True})
        self.wire.ask(self.request("GET", "/api/v1/allocations?limit=1"))

    def _claim(self, asked: dict[str, object]) -> bytes:
        return self.request("POST", "/api/v1/allocations", json.dumps(asked).encode())

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        return request(method, path, {"authorization": f"Bearer {self.key}"}, body)

    def claim(self) -> Script:
        status, body = yield self.one
        if status != 201:
            sys.exit(f"a claim was refused: {status} {body.decode()}")
        return True

    def release(self, allocation: str) -> Answer:
        return self.wire.ask(self.request("POST", f"/api/v1/allocations/{allocation}/release"))

    def close(self) -> None:
        self.wire.close()


def race(stage: Stage, callers: list[Caller], rounds: int) -> int:
    """Rounds in which not just the 8 GPUs of one host were lent to clients that all claimed at once.

    They claim, in turn, one GPU each and all eight each.
    """
    over = 0
    with stage.database.transaction() as tx:
        tx.execute(sa.text("UPDATE gpus SET schedulable = false"))
    host = ledger.idle_host(stage.database, stage.box, "race", "10.200.0.1", gpus=GPUS)
    for number in range(rounds):
        asked = [(one.wire, one.one if number % 2 == 0 else one.whole) for one in callers]
        won = [json.loads(body) for status, body in together(asked) if status == 201]
        gpus = [gpu["uuid"] for claim in won for gpu in claim["gpus"]]
        over += len(gpus) != GPUS or len(set(gpus)) != len(gpus)
        for claim in won:
            callers[0].release(claim["id"])
        ledger.finish(stage.database, host, ledger.report("reclaim"))
    return over


def servers_of(stage: Stage) -> list[psutil.Process]:
    """The API's processes (children of this one) and the database's."""
    own = [child for child in psutil.Process().children() if "uvicorn" in " ".join(child.cmdline())]
    return [process for child in own for process in family(child.pid)] + stage.processes()


def measure(stage: Stage, clients: int, seconds: float, rounds: int, processes: int) -> Result:
    beside = stage.copy("floor")
    with api_server(stage.directory, stage.url, processes=processes) as url:
        callers = [Caller(url, key, f"w{number}") for number, key in enumerate(stage.keys)]
        driven = [(caller.wire, caller.claim) for caller in callers[:clients]]
        warm = drive(driven, seconds=WARM_UP)
        meter = Meter(lambda: servers_of(stage))
        made = drive(driven, seconds=seconds, times=stage.gpus - len(warm.latencies) - clients)
        cpu = meter.seconds()
        raw = floor(beside, clients, seconds / 2)
        over = race(stage, callers, rounds) if rounds else 0
        for caller in callers:
            caller.close()
    made_result = result(stage.engine, clients, made, cpu)
    made_result.floor_rate_per_s = round(raw, 1)
    made_result.rounds, made_result.over_allocated = rounds, over
    return made_result


def result(engine: str, clients: int, made: Measured, cpu: float) -> Result:
    return Result(
        engine=engine,
        clients=clients,
        rate_per_s=made.rate(),
        p50_ms=made.percentile_ms(0.5),
        p99_ms=made.percentile_ms(0.99),
        cpu_ms_per_request=round(cpu * 1000 / max(1, len(made.latencies)), 2),
    )


def compare(stage: Stage, clients: int, seconds: float, rounds: int, ours: Result) -> list[Result]:
    """Placement under the same load: by both ways to claim, the kinder first, and its own races."""
    if stage.postgres is None:
        return []
    found = []
    with placement(stage.postgres.create("placement"), stage.directory) as peer:
        peer.fill(stage.gpus // GPUS, GPUS)
        stage.settle()
        wires = [Wire(peer.url) for _ in range(clients)]
        for way, script in (("put", peer.on_known_providers()), ("candidates", peer.by_candidates())):
            driven = [(wire, script) for wire in wires]
            drive(driven, seconds=WARM_UP)
            meter = Meter(lambda: peer.processes() + stage.processes())
            made = drive(driven, seconds=seconds)
            one = result("placement", clients, made, meter.seconds())
            one.way, one.failed = way, made.failed
            one.rate_ratio = round(ours.rate_per_s / one.rate_per_s, 2)
            one.p99_ratio = round(ours.p99_ms / one.p99_ms, 3)
            found.append(one)
        if rounds:
            _race(peer, found[0], wires, min(rounds, PEER_ROUNDS))
        for wire in wires:
            wire.close()
    return found


def _race(peer: Peer, into: Result, wires: list[Wire], rounds: int) -> None:
    into.rounds = rounds
    into.over_allocated, into.worst_used = peer.race(wires, rounds, GPUS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--engine", choices=["sqlite", "postgresql", "both"], default="both")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, CLIENTS], help=f"at most {CLIENTS}")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=200, help="racing rounds, after the largest load")
    parser.add_argument("--hosts", type=int, default=500, help=f"hosts of {GPUS} GPUs")
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="API processes")
    parser.add_argument("--against", choices=["placement"], help="a peer to measure too, on PostgreSQL")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    engines = ["sqlite", "postgresql"] if args.engine == "both" else [args.engine]
    for engine in engines:
        for clients in args.clients:
            last = clients == max(args.clients)
            rounds = args.rounds if last else 0
            with stage(engine, clients=CLIENTS, hosts=args.hosts) as made:
                processes = args.processes if engine == "postgresql" and clients > 1 else 1
                ours = measure(made, clients, args.seconds, rounds, processes)
                show(ours, as_json=args.json)
                if args.against and last:
                    for theirs in compare(made, clients, args.seconds, rounds, ours):
                        show(theirs, as_json=args.json)


def show(result: Result, *, as_json: bool) -> None:
    said = {name: value for name, value in asdict(result).items() if value is not None}
    line = json.dumps(said) if as_json else "  ".join(f"{name}={value}" for name, value in said.items())
    print(line, flush=True)


if __name__ == "__main__":
    main()
