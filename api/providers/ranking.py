"""One order for what all sources could lend: the same for the same candidates, and each says why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from api.fleet.health_models import Verdict
from api.providers.sources import Candidate, Wish

WEIGHTS = {"price": 0.35, "fit": 0.2, "locality": 0.15, "health": 0.1, "availability": 0.2}
VERDICTS = {Verdict.PASS: 1.0, Verdict.INFO: 1.0, Verdict.WARNING: 0.5}
LONG = timedelta(days=7)  # a wait from which it does not matter how much longer
OLD = timedelta(days=1)  # a check of that age says half as much as one of now
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Factor:
    """`value` from 0 (worst) to 1 (best)."""

    name: str
    value: float
    weight: float
    because: str


@dataclass(frozen=True, slots=True)
class Ranked:
    candidate: Candidate
    score: float
    factors: tuple[Factor, ...]


def rank(candidates: Sequence[Candidate], wish: Wish, now: datetime) -> list[Ranked]:
    """The best first; those without a price come after all others."""
    known = [one.price for one in candidates if one.price is not None]
    cheapest = min(known, default=None)
    ranked = []
    for one in candidates:
        factors = tuple(_factors(one, wish, cheapest, now))
        score = round(sum(factor.value * factor.weight for factor in factors), DIGITS)
        ranked.append(Ranked(one, score, factors))
    return sorted(ranked, key=_order)


def _order(ranked: Ranked) -> tuple[bool, float, Decimal, str, str, str, bool, bool]:
    one = ranked.candidate
    price = one.price if one.price is not None else Decimal(0)
    return (
        one.price is None,
        -ranked.score,
        price,
        one.source,
        one.model,
        one.region,
        one.same_host,
        one.nvlink,
    )


def _factors(one: Candidate, wish: Wish, cheapest: Decimal | None, now: datetime) -> Iterable[Factor]:
    told = {
        "price": _price(one, cheapest),
        "fit": _fit(one, wish),
        "locality": _locality(one, wish),
        "health": _health(one, now),
        "availability": _availability(one, now),
    }
    for name, (value, because) in told.items():
        yield Factor(name, round(value, DIGITS), WEIGHTS[name], because)


def _price(one: Candidate, cheapest: Decimal | None) -> tuple[float, str]:
    if one.price is None or cheapest is None:
        return 0.0, "It has no price."
    if one.price == cheapest:
        return 1.0, "No offer with a price is cheaper."
    return float(
        cheapest / one.price
    ), f"The cheapest offer costs {cheapest} a GPU-hour, this one {one.price}."


def _fit(one: Candidate, wish: Wish) -> tuple[float, str]:
    memory, said = 1.0, []
    if wish.memory_mib:
        memory = min(1.0, wish.memory_mib / one.memory_mib)
        said.append(f"Each GPU has {one.memory_mib} MiB where {wish.memory_mib} were asked for.")
    unused = one.left / one.opened if one.opened else 0.0
    if one.left:
        said.append(f"It begins idle hosts and leaves {one.left} of their {one.opened} GPUs unused.")
    elif one.opened:
        said.append("It fills the hosts that it begins.")
    else:
        said.append("It begins no idle host.")
    return (memory + 1 - unused) / 2, " ".join(said)


def _locality(one: Candidate, wish: Wish) -> tuple[float, str]:
    parts = []
    said = []
    if wish.region:
        parts.append(1.0 if one.region == wish.region else 0.0)
        said.append(
            f"It is in {one.region}" + (", as asked for." if parts[0] else f", not in {wish.region}.")
        )
    if one.gpus > 1:
        parts += [float(one.same_host or one.nvlink), float(one.nvlink)]
        said.append(
            "Its GPUs are NVLink-connected."
            if one.nvlink
            else "Its GPUs are on one host."
            if one.same_host
            else "Its GPUs may be on several hosts."
        )
    if not parts:
        return 1.0, "Nothing about its place was asked for."
    return sum(parts) / len(parts), " ".join(said)


def _health(one: Candidate, now: datetime) -> tuple[float, str]:
    if one.verdict is None or one.checked_at is None:
        return 0.0, "The health of its GPUs is not known yet."
    age = max(timedelta(0), now - one.checked_at)
    value = VERDICTS.get(one.verdict, 0.0) * (1 - min(1.0, age / OLD) / 2)
    return (
        value,
        f"The worst of its last checks is {one.verdict}, the oldest of {one.checked_at:%Y-%m-%dT%H:%M:%SZ}.",
    )


def _availability(one: Candidate, now: datetime) -> tuple[float, str]:
    wait = one.available_at - now
    if wait <= timedelta(0):
        return 1.0, "It can be had now."
    return 0.5 * (1 - min(1.0, wait / LONG)), f"It can be had from {one.available_at:%Y-%m-%dT%H:%M:%SZ} on."
