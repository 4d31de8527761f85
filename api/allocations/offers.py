"""Offers: what could be lent now or soon, ranked, and claims that take one at its price."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from api.allocations import window
from api.allocations.models import ClaimRequest, GroupRequest
from api.allocations.offer_models import FactorRead, OfferList, OfferRead
from api.core import clock
from api.core.crypto import SecretBox
from api.core.errors import Conflict, Invalid
from api.providers.ranking import Ranked, rank
from api.providers.sources import Source, Wish

if TYPE_CHECKING:
    from api.settings import Settings

KIND = "offer/1"


class OfferExpired(Conflict):
    code, title = "offer-expired", "The offer stands no more"


@dataclass(frozen=True, slots=True)
class Bound:
    """What the id of an offer binds. `price` is of one GPU-hour, memory in MiB, times in seconds."""

    source: str
    model: str
    region: str
    gpus: int
    memory_mib: int | None
    same_host: bool
    nvlink: bool
    price: str | None
    currency: str
    seconds: int
    until: int

    @property
    def kept(self) -> dict[str, Any]:
        """What an allocation keeps of the offer that it took."""
        return {"source": self.source, "price_per_gpu_hour": self.price}


def find(
    tx: Session,
    wish: Wish,
    seconds: int | None,
    sources: Sequence[Source],
    settings: Settings,
    box: SecretBox,
) -> OfferList:
    """What all sources could lend, the best first."""
    now = clock.now()
    lasts = seconds or settings.allocation_lifetime
    end = window.checked_end(now + timedelta(seconds=lasts), now, settings)
    until = window.between(now, end, settings).free_at
    found = [one for source in sources for one in source.candidates(tx, wish, now, until)]
    expires = now + timedelta(seconds=settings.offer_lifetime)
    ranked = rank(found, wish, now)
    return OfferList(items=[_read(one, wish, lasts, now, expires, settings.currency, box) for one in ranked])


def _read(
    ranked: Ranked, wish: Wish, seconds: int, now: datetime, expires: datetime, currency: str, box: SecretBox
) -> OfferRead:
    one = ranked.candidate
    bound = Bound(
        source=one.source,
        model=one.model,
        region=one.region,
        gpus=one.gpus,
        memory_mib=wish.memory_mib,
        same_host=one.same_host,
        nvlink=one.nvlink,
        price=None if one.price is None else str(one.price),
        currency=currency,
        seconds=seconds,
        until=int(expires.timestamp()),
    )
    return OfferRead(
        id=seal(bound, box),
        source=one.source,
        model=one.model,
        region=one.region,
        memory_mib=one.memory_mib,
        gpus=one.gpus,
        same_host=one.same_host,
        nvlink=one.nvlink,
        price_per_gpu_hour=one.price,
        price_per_hour=None if one.price is None else one.price * one.gpus,
        currency=None if one.price is None else currency,
        duration_seconds=seconds,
        available=one.available_at <= now,
        available_at=one.available_at,
        expires_at=datetime.fromtimestamp(bound.until, UTC),
        score=ranked.score,
        factors=[FactorRead(**asdict(factor)) for factor in ranked.factors],
    )


def seal(bound: Bound, box: SecretBox) -> str:
    return box.seal(json.dumps([KIND, *asdict(bound).values()], separators=(",", ":")))


def opened(token: str, box: SecretBox) -> Bound:
    """Raises Invalid for what is no offer of ours, OfferExpired for one whose time is over."""
    try:
        kind, *values = json.loads(box.open(token))
        bound = Bound(*values) if kind == KIND else None
    except (ValueError, TypeError):
        bound = None
    if bound is None:
        raise Invalid("`offer` is not the id of an offer; take one from GET /api/v1/offers.")
    if clock.now().timestamp() >= bound.until:
        until = datetime.fromtimestamp(bound.until, UTC)
        raise OfferExpired(
            f"The offer stood until {until:%Y-%m-%dT%H:%M:%SZ}. Ask for offers again.",
            expired_at=until.isoformat(),
        )
    return bound


def redeemed(asked: ClaimRequest, box: SecretBox) -> tuple[ClaimRequest, Bound | None]:
    """The claim with what its offer binds filled in. Raises what `opened` does, and Invalid.

    An offer says which GPUs; the claim adds for whom, how long and what for.
    """
    if asked.offer is None:
        return asked, None
    own = asked.model_fields_set & {*GroupRequest.model_fields, "groups", "separate_hosts", "placement"}
    if own:
        raise Invalid(f"With an offer, leave out {', '.join(sorted(own))}: the offer says which GPUs.")
    bound = opened(asked.offer, box)
    more: dict[str, Any] = {
        "gpus": bound.gpus,
        "model": bound.model,
        "region": bound.region,
        "memory_mib": bound.memory_mib,
        "same_host": bound.same_host,
        "nvlink": bound.nvlink,
    }
    if asked.duration_seconds is None and asked.expires_at is None:
        more["duration_seconds"] = bound.seconds
    return asked.model_copy(update=more), bound


def honoured(wanted: dict[str, Any], prices: list[Decimal | None]) -> list[Decimal | None]:
    """The offer's price in place of today's, where an allocation took one."""
    offer = wanted.get("offer")
    if offer is None:
        return prices
    price = offer["price_per_gpu_hour"]
    return [None if price is None else Decimal(price)] * len(prices)
