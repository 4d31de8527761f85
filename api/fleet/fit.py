"""Which free GPUs a claim's groups get: the same ones for the same ledger.

`pack` fills partly used hosts before it begins idle ones and gives GPUs that must be together the place that
they fit most tightly, so that whole hosts stay whole. `spread` takes as many hosts as it can, the emptiest
first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from api.fleet.rooms import CANDIDATES, Order, Room, Side, Spot
from api.fleet.wanted import Wanted

LENT = "it was partly used: its free GPUs go first"
IDLE = "it was idle: no partly used host had enough that match"
TIGHT = "it was partly used and is the tightest fit"
TIGHT_IDLE = "it was idle and is the tightest fit: no partly used host had enough together"
WHOLE = "it was idle and is the smallest whole host that fits"
DOMAIN = "its NVLink domain is the tightest fit that spans hosts"
SPREAD = "spread was asked for: it was idle"
SPREAD_LENT = "spread was asked for: it was partly used, and too few idle hosts match"
SPREAD_TOGETHER = "spread was asked for: it is the emptiest host that holds all of the group"
LATER = "it is free for all of the window"


class View(Protocol):
    """What is free, as `rooms.View` reads it from the ledger."""

    but_gpus: set[UUID]
    but_hosts: set[UUID]

    @property
    def later(self) -> bool: ...

    def lent_spots(self, wanted: Wanted, number: int) -> list[Spot]: ...

    def idle_spots(self, wanted: Wanted, number: int) -> list[Spot]: ...

    def spots_of(self, wanted: Wanted, hosts: list[UUID]) -> list[Spot]: ...

    def spots_in(self, wanted: Wanted, room: Room, number: int) -> list[Spot]: ...

    def rooms(
        self, wanted: Wanted, side: Side, order: Order, *, least: int, limit: int = CANDIDATES
    ) -> list[Room]: ...

    def domains(self, wanted: Wanted) -> list[Room]: ...


@dataclass(frozen=True, slots=True)
class Pick:
    """What one group gets; `because`: why from that host."""

    spots: list[Spot]
    because: dict[UUID, str]


class TooFew(Exception):
    """A group cannot be had beside the others; `group` is its place among what was asked for."""

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self.group = group


def plan(view: View, groups: Sequence[Wanted], *, spread: bool, separate: bool) -> list[Pick]:
    """A pick for each group, in their order; raises TooFew.

    The hardest groups choose first; one that finds nothing left chooses before all others in a new round.
    """
    order = sorted(range(len(groups)), key=lambda place: (*_ease(groups[place]), place))
    tried: list[list[int]] = []
    while True:
        tried.append(order)
        try:
            return _in_order(view, groups, order, spread=spread, separate=separate)
        except TooFew as lack:
            order = [lack.group, *(place for place in order if place != lack.group)]
            if order in tried or len(tried) > 2 * len(groups):
                raise


def _ease(wanted: Wanted) -> tuple[bool, bool, int, int]:
    asked = len(wanted.filters) + len(wanted.labels) + bool(wanted.mig_profile)
    return not wanted.exclusive_host, not wanted.together, -wanted.count, -asked


def _in_order(
    view: View, groups: Sequence[Wanted], order: Sequence[int], *, spread: bool, separate: bool
) -> list[Pick]:
    kept = set(view.but_gpus), set(view.but_hosts)
    picks: dict[int, Pick] = {}
    used: set[UUID] = set()
    try:
        for place in order:
            pick = _pick(view, groups[place], used, spread=spread)
            if pick is None:
                raise TooFew(place)
            picks[place] = pick
            hosts = {spot.host_id for spot in pick.spots}
            used |= hosts
            view.but_gpus |= {spot.id for spot in pick.spots}
            if separate:
                view.but_hosts |= hosts
    finally:
        view.but_gpus, view.but_hosts = kept
    return [picks[place] for place in range(len(groups))]


def _pick(view: View, wanted: Wanted, used: set[UUID], *, spread: bool) -> Pick | None:
    if wanted.together:
        return _together(view, wanted, used, spread=spread)
    return _scattered(view, wanted, used) if spread else _packed(view, wanted)


def _packed(view: View, wanted: Wanted) -> Pick | None:
    spots = view.lent_spots(wanted, wanted.count)
    if len(spots) < wanted.count and not view.later:
        spots += view.idle_spots(wanted, wanted.count - len(spots))
    if len(spots) < wanted.count:
        return None
    return Pick(spots, _reasons(view, spots, LENT, IDLE))


def _scattered(view: View, wanted: Wanted, used: set[UUID]) -> Pick | None:
    most = wanted.count + len(used)
    idle = view.rooms(wanted, "idle", "roomy" if view.later else "turn", least=1, limit=most)
    fresh = [room for room in idle if room.host_id not in used]
    lent: list[Room] = []
    if len(fresh) < wanted.count and not view.later:
        lent = view.rooms(wanted, "lent", "roomy", least=1, limit=most)
    rooms = sorted(idle + lent, key=lambda room: (room.host_id in used, room.lent, -room.free, room.host_id))
    hosts = list(dict.fromkeys(room.host_id for room in rooms if room.host_id))
    found = defaultdict(list)
    for spot in view.spots_of(wanted, hosts[: wanted.count]):
        found[spot.host_id].append(spot)
    spots = in_turn([found[host] for host in hosts if host in found], wanted.count)
    if len(spots) < wanted.count:
        return None
    return Pick(spots, _reasons(view, spots, SPREAD_LENT, SPREAD))


def in_turn(piles: Iterable[Sequence[Spot]], number: int) -> list[Spot]:
    """One of each pile, then the second of each, until there are so many."""
    ranked = sorted(
        ((depth, turn, spot) for turn, pile in enumerate(piles) for depth, spot in enumerate(pile)),
        key=lambda one: one[:2],
    )
    return [spot for _, _, spot in ranked[:number]]


def _together(view: View, wanted: Wanted, used: set[UUID], *, spread: bool) -> Pick | None:
    for room in _candidates(view, wanted, used, spread=spread):
        number = room.free if wanted.exclusive_host else wanted.count
        spots = view.spots_in(wanted, room, number)
        if len(spots) == number:
            return Pick(spots, _why_there(view, wanted, room, spots, spread=spread))
    return None


def _candidates(view: View, wanted: Wanted, used: set[UUID], *, spread: bool) -> Iterable[Room]:
    """Places for the whole group, the preferred first; those that are asked for last are looked for last."""
    if view.later:
        rooms = view.rooms(wanted, "any", "roomy" if spread else "tight", least=wanted.count)
        yield from sorted(rooms, key=lambda room: spread and room.host_id in used)
    elif spread:
        idle = view.rooms(wanted, "idle", "turn", least=wanted.count, limit=CANDIDATES + len(used))
        lent = view.rooms(wanted, "lent", "roomy", least=wanted.count)
        yield from sorted(
            idle + lent, key=lambda room: (room.host_id in used, room.lent, -room.free, room.host_id)
        )
    else:
        if not wanted.exclusive_host:
            yield from view.rooms(wanted, "lent", "tight", least=wanted.count)
        idle = view.rooms(wanted, "idle", "turn", least=wanted.count)
        yield from sorted(idle, key=lambda room: (room.free, room.host_id, room.domain or ""))
    if wanted.spans_hosts:
        yield from view.domains(wanted)


def _why_there(
    view: View, wanted: Wanted, room: Room, spots: Sequence[Spot], *, spread: bool
) -> dict[UUID, str]:
    if room.host_id is None:
        return dict.fromkeys((spot.host_id for spot in spots), DOMAIN)
    if wanted.exclusive_host:
        return _reasons(view, spots, WHOLE, WHOLE)
    if spread:
        return _reasons(view, spots, SPREAD_TOGETHER, SPREAD_TOGETHER)
    return _reasons(view, spots, TIGHT, TIGHT_IDLE)


def _reasons(view: View, spots: Sequence[Spot], lent: str, idle: str) -> dict[UUID, str]:
    return {spot.host_id: LATER if view.later else lent if spot.lent else idle for spot in spots}
