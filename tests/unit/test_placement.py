"""The choice of GPUs: the same for the same ledger, packed as tightly as it says; and what MIG can cut."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from api.core import clock
from api.core.crypto import SecretBox
from api.core.db import Database, make_engine, table
from api.core.ids import new_id
from api.core.operations.background import DbosDispatcher
from api.core.operations.service import QUEUE
from api.core.proof import SIGNER, Signer
from api.fleet import mig, placement
from api.fleet.fit import in_turn
from api.fleet.models import Gpu, Host
from api.fleet.placement import CapacityExceeded, Taken, Wanted
from api.fleet.rooms import Spot
from api.migrations import upgrade
from api.settings import Settings
from tests.support import ledger
from tests.support.ledger import SYSTEM

GPUS, HOSTS = table(Gpu), table(Host)
SIZES = (2, 4, 4, 3, 8)
BEGIN = clock.now()

Held = list[tuple[int, int]]
Place = Callable[..., list[Taken]]

groups = st.builds(
    Wanted,
    count=st.integers(1, 6),
    same_host=st.booleans(),
    exclusive_host=st.sampled_from([False, False, False, True]),
)
held_gpus = st.lists(st.tuples(st.integers(0, len(SIZES) - 1), st.integers(0, 7)), max_size=18)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    own = Settings(_env_file=None, data_dir=tmp_path_factory.mktemp("placement"))
    upgrade(own)
    engine = make_engine(own)
    made = Database(engine, **{QUEUE: DbosDispatcher(engine), SIGNER: Signer(own.proof_key)})
    box = SecretBox(own.encryption_key)
    for number, gpus in enumerate(SIZES):
        ledger.idle_host(made, box, f"h{number}", f"198.51.100.{number + 1}", gpus=gpus)
    yield made
    engine.dispose()


class Try:
    """A ledger in a state, a claim in it, and everything taken back."""

    def __init__(self, database: Database, held: Held, seed: int = 0) -> None:
        self.database = database
        self.held = sorted({(host, index) for host, index in held if index < SIZES[host]})
        random.Random(seed).shuffle(self.held)
        self.lent = {f"h{host}" for host, _ in self.held}

    def free(self, host: str) -> int:
        number = int(host[1:])
        return SIZES[number] - sum(1 for at, _ in self.held if at == number)

    def place(self, wanted: list[Wanted], **how: bool) -> list[Taken] | CapacityExceeded:
        with Session(self.database.engine, info=dict(self.database.info)) as tx:
            self._prepare(tx)
            try:
                until = BEGIN + timedelta(hours=1)
                return placement.take(tx, SYSTEM, wanted, new_id(), BEGIN, until=until, **how)[0]
            except CapacityExceeded as refusal:
                return refusal
            finally:
                tx.rollback()

    def _prepare(self, tx: Session) -> None:
        for host, index in self.held:
            own = HOSTS.c.name == f"h{host}"
            of_host = GPUS.c.host_id.in_(sa.select(HOSTS.c.id).where(own))
            tx.execute(sa.update(HOSTS).where(own).values(state="allocated"))
            tx.execute(sa.update(GPUS).where(of_host).values(host_lent=True))
            one = sa.update(GPUS).where(of_host, GPUS.c.index == index)
            tx.execute(one.values(held_by=new_id(), held_until=BEGIN + timedelta(hours=2)))


def names(found: list[Taken] | CapacityExceeded) -> Any:
    return found.facts if isinstance(found, CapacityExceeded) else [(gpu.host, gpu.index) for gpu in found]


several = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@several
@given(
    held=held_gpus, wanted=st.lists(groups, min_size=1, max_size=3), spread=st.booleans(), apart=st.booleans()
)
def test_two_ledgers_alike_give_the_same_gpus(
    database: Database, held: Held, wanted: list[Wanted], spread: bool, apart: bool
) -> None:
    found = [Try(database, held, seed).place(wanted, spread=spread, separate=apart) for seed in (1, 2)]
    assert names(found[0]) == names(found[1])


@several
@given(held=held_gpus, wanted=groups)
def test_packing_begins_no_idle_host_while_lent_ones_have_enough(
    database: Database, held: Held, wanted: Wanted
) -> None:
    ledger = Try(database, held)
    found = ledger.place([wanted])
    if isinstance(found, CapacityExceeded):
        return
    begun = {gpu.host for gpu in found} - ledger.lent
    rooms = [ledger.free(host) for host in ledger.lent]
    enough = max(rooms, default=0) if wanted.same_host else sum(rooms)
    assert wanted.exclusive_host or not begun or enough < wanted.count


@several
@given(held=held_gpus, wanted=groups)
def test_together_means_the_tightest_fit_and_whole_means_all_of_it(
    database: Database, held: Held, wanted: Wanted
) -> None:
    ledger = Try(database, held)
    found = ledger.place([wanted])
    if isinstance(found, CapacityExceeded) or not wanted.together:
        return
    (host,) = {gpu.host for gpu in found}
    if wanted.exclusive_host:
        assert host not in ledger.lent
        assert len(found) == ledger.free(host) >= wanted.count
    rivals = [
        ledger.free(name)
        for name in (f"h{number}" for number in range(len(SIZES)))
        if (name in ledger.lent) == (host in ledger.lent) and ledger.free(name) >= wanted.count
    ]
    assert ledger.free(host) == min(rivals)


@several
@given(held=held_gpus, wanted=st.lists(groups, min_size=1, max_size=3), spread=st.booleans())
def test_a_claim_gets_what_it_asked_for_and_nothing_twice(
    database: Database, held: Held, wanted: list[Wanted], spread: bool
) -> None:
    ledger = Try(database, held)
    found = ledger.place(wanted, spread=spread, separate=True)
    if isinstance(found, CapacityExceeded):
        return
    gpus = [(gpu.host, gpu.index) for gpu in found]
    assert len(set(gpus)) == len(gpus)
    assert not {(int(host[1:]), index) for host, index in gpus} & set(ledger.held)
    if not any(group.exclusive_host for group in wanted):
        assert len(gpus) == sum(group.count for group in wanted)


@several
@given(held=held_gpus, count=st.integers(1, 8))
def test_spreading_uses_as_many_hosts_as_there_are(database: Database, held: Held, count: int) -> None:
    ledger = Try(database, held)
    found = ledger.place([Wanted(count)], spread=True)
    if isinstance(found, CapacityExceeded):
        return
    open_hosts = [number for number in range(len(SIZES)) if ledger.free(f"h{number}")]
    assert len({gpu.host for gpu in found}) == min(count, len(open_hosts))
    each = Counter(gpu.host for gpu in found)
    full = {host for host in each if each[host] == ledger.free(host)}
    assert (
        max(each.values()) - min((each[host] for host in each.keys() - full), default=max(each.values())) <= 1
    )


def test_one_of_each_then_the_second_of_each() -> None:
    piles = [[Spot(new_id(), new_id(), number, lent=False) for number in range(size)] for size in (3, 1, 2)]
    assert in_turn(piles, 5) == [piles[0][0], piles[1][0], piles[2][0], piles[0][1], piles[2][1]]
    assert len(in_turn(piles, 99)) == 6


@pytest.mark.parametrize(
    ("model", "memory_mib", "profile", "instances"),
    [
        ("NVIDIA A30", 24576, "1g.6gb", 4),
        ("NVIDIA A100-PCIE-40GB", 40960, "1g.5gb", 7),
        ("NVIDIA A100-SXM4-80GB", 81920, "1g.10gb", 7),
        ("NVIDIA A100-SXM4-40GB", 40960, "1g.10gb", 4),
        ("NVIDIA H100 80GB HBM3", 81559, "3g.40gb", 2),
        ("NVIDIA H100 NVL", 95830, "7g.94gb", 1),
        ("NVIDIA GH200 480GB", 97871, "1g.12gb", 7),
        ("NVIDIA H20", 97871, "2g.24gb", 3),
        ("NVIDIA H200", 143771, "1g.18gb", 7),
        ("NVIDIA B200", 183359, "2g.45gb", 3),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 97887, "1g.24gb", 4),
        ("NVIDIA H200", 143771, "1g.10gb", 0),
        ("NVIDIA A100-SXM4-80GB", 81920, "1g.5gb", 0),
        ("NVIDIA L40S", 46068, "1g.10gb", 0),
        ("NVIDIA H20", 97871, "1g.18gb", 0),
    ],
)
def test_instances_of_a_profile(model: str, memory_mib: int, profile: str, instances: int) -> None:
    assert mig.instances(profile, model, memory_mib) == instances


@pytest.mark.parametrize(("gpu", "slices"), [("h100", "1g.10gb"), ("h200", "1g.18gb")])
def test_recorded_gpus_with_mig_are_known(contracts: Path, gpu: str, slices: str) -> None:
    """As nvidia-smi prints them, with MIG enabled."""
    (capture,) = (contracts / "nvidia-smi" / "captures").glob(f"*{gpu}-mig*")
    text = capture.read_text(errors="replace")
    name = re.search(r"^ +Product Name +: (.+)$", text, re.MULTILINE)
    memory = re.search(r"^    FB Memory Usage\n +Total +: (\d+) MiB$", text, re.MULTILINE)
    assert name
    assert memory
    assert mig.instances(slices, name[1], int(memory[1])) == 7
