"""Our own fleet as a source of capacity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal

from sqlalchemy.orm import Session

from api.fleet import prospects
from api.fleet.prospects import Kind
from api.fleet.wanted import Wanted
from api.providers import rates
from api.providers.sources import Candidate, Wish

OWN = "own"
MOST_KINDS = 20  # models and regions that are looked at, the most frequent


class OwnFleet:
    name = OWN

    def candidates(self, tx: Session, wish: Wish, now: datetime, until: datetime) -> Sequence[Candidate]:
        prices = rates.in_force(tx, now)
        looked_for = Wanted(wish.gpus, model=wish.model, memory_mib=wish.memory_mib)
        found = []
        for kind in prospects.kinds(tx, looked_for, MOST_KINDS):
            price = rates.price(prices, kind.model, kind.region)
            for same_host, nvlink in shapes(wish):
                made = _candidate(tx, wish, kind, same_host, nvlink, price, now, until)
                found += [made] if made else []
        return found


def shapes(wish: Wish) -> Iterator[tuple[bool, bool]]:
    """On any hosts, on one, or NVLink-connected, as far as that is asked for. One GPU has only one shape."""
    for same_host, nvlink in ((False, False), (True, False), (True, True)):
        more = same_host > wish.same_host or nvlink > wish.nvlink
        less = same_host < wish.same_host or nvlink < wish.nvlink
        if not less and not (more and wish.gpus == 1):
            yield same_host, nvlink


def _candidate(
    tx: Session,
    wish: Wish,
    kind: Kind,
    same_host: bool,
    nvlink: bool,
    price: Decimal | None,
    now: datetime,
    until: datetime,
) -> Candidate | None:
    wanted = Wanted(
        wish.gpus,
        model=kind.model,
        memory_mib=wish.memory_mib,
        region=kind.region,
        same_host=same_host,
        nvlink=nvlink,
    )
    prospect = prospects.of(tx, wanted, now, until)
    if prospect is None:
        return None
    return Candidate(
        source=OWN,
        model=kind.model,
        region=kind.region,
        memory_mib=kind.memory_mib,
        gpus=wish.gpus,
        same_host=same_host,
        nvlink=nvlink,
        price=price,
        available_at=prospect.available_at,
        opened=prospect.opened,
        left=prospect.left,
        verdict=prospect.verdict,
        checked_at=prospect.checked_at,
    )
