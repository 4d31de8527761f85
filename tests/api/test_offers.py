"""Offers over HTTP: ranked with every factor shown, taken at their price, gone when their time is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
import time_machine

from api.allocations.models import Hold
from api.core.crypto import SecretBox
from api.core.db import Database, table
from api.providers.models import Rate
from tests.conftest import Client
from tests.support.ledger import H100

CLAIMS, OFFERS = "/api/v1/allocations", "/api/v1/offers"
L40S = "NVIDIA L40S"


@pytest.fixture(autouse=True)
def _room(client: Client) -> None:
    client.ok("PUT", "/api/v1/workspaces/default/quotas", json={"gpus": 100})


def rate(database: Database, model: str, price: str, region: str = "") -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    with database.transaction() as tx:
        made = {"model": model, "region": region, "per_gpu_hour": Decimal(price), "currency": "USD"}
        tx.add(Rate(**made, effective_from=long_ago, set_by="tests"))


def offers(client: Client, **wish: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.ok("GET", OFFERS, params=wish)["items"]
    return found


def amount(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)


def told(offer: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [factor for factor in offer["factors"] if factor["name"] == name]
    return found


def test_the_cheapest_comes_first_and_those_without_a_price_last(
    client: Client, fleet: Any, database: Database
) -> None:
    fleet("dear"), fleet("cheap", model=L40S), fleet("free", model="NVIDIA A10G")
    rate(database, H100, "4"), rate(database, L40S, "1")
    found = offers(client)
    assert [offer["model"] for offer in found] == [L40S, H100, "NVIDIA A10G"]
    assert [amount(offer["price_per_hour"]) for offer in found] == [1, 4, None]
    assert told(found[0], "price")["value"] == 1
    assert told(found[1], "price")["value"] == 0.25
    assert told(found[2], "price")["because"] == "It has no price."


def test_the_score_is_the_sum_of_its_factors_and_the_ranking_repeats(client: Client, fleet: Any) -> None:
    fleet("a"), fleet("b", model=L40S, region="north")
    first, again = offers(client, gpus=2, region="north"), offers(client, gpus=2, region="north")
    for offer in first:
        total = sum(factor["value"] * factor["weight"] for factor in offer["factors"])
        assert offer["score"] == pytest.approx(total, abs=1e-3)
        assert sum(factor["weight"] for factor in offer["factors"]) == pytest.approx(1)
        assert all(factor["because"] for factor in offer["factors"])
    assert [one["score"] for one in first] == sorted((one["score"] for one in first), reverse=True)
    ranked = [[(one["model"], one["same_host"], one["nvlink"]) for one in found] for found in (first, again)]
    assert ranked[0] == ranked[1]
    assert first[0]["region"] == "north"
    assert len(first) == 6  # two kinds, each on any hosts, on one, and NVLink-connected


def test_a_host_that_is_begun_already_fits_better_than_an_idle_one(client: Client, fleet: Any) -> None:
    fleet("a", gpus=4), fleet("b", gpus=4, model=L40S)
    client.ok("POST", CLAIMS, 201, json={"gpus": 1, "model": L40S})
    begun, idle = offers(client, gpus=1)
    assert (begun["model"], idle["model"]) == (L40S, H100)
    assert told(begun, "fit")["because"] == "It begins no idle host."
    assert told(idle, "fit")["because"] == "It begins idle hosts and leaves 3 of their 4 GPUs unused."


def test_memory_beyond_what_was_asked_for_is_waste(client: Client, fleet: Any) -> None:
    fleet("a", gpus=1)
    exact, wasteful = (told(offers(client, memory_mib=asked)[0], "fit") for asked in (81559, 20000))
    assert exact["value"] == 1
    assert wasteful["value"] < exact["value"]
    assert "20000 were asked for" in wasteful["because"]
    assert offers(client, memory_mib=81560) == []


def test_what_is_held_is_offered_from_its_end_on(client: Client, fleet: Any) -> None:
    fleet("a", gpus=2)
    held = client.ok("POST", CLAIMS, 201, json={"gpus": 2, "duration_seconds": 7200})
    (offer,) = offers(client)
    assert not offer["available"]
    assert offer["available_at"] >= held["ends_at"]
    assert told(offer, "availability")["value"] < 0.5
    client.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"offer": offer["id"]})


def test_health_counts_with_its_age(client: Client, fleet: Any) -> None:
    fleet("a")
    fresh = told(offers(client)[0], "health")
    with time_machine.travel(datetime.now(UTC) + timedelta(hours=6)):
        aged = told(offers(client)[0], "health")
    assert 0.9 < fresh["value"] <= 1
    assert aged["value"] == pytest.approx(fresh["value"] - 0.125, abs=0.01)
    assert "PASS" in fresh["because"]


def test_a_claim_takes_an_offer_at_its_price(client: Client, fleet: Any, database: Database) -> None:
    fleet("a"), fleet("b", model=L40S)
    rate(database, H100, "4"), rate(database, L40S, "1")
    (offer,) = [
        one
        for one in offers(client, gpus=2, model=H100, duration_seconds=3600)
        if one["same_host"] and not one["nvlink"]
    ]
    with database.transaction() as tx:  # a new price changes nothing for who has an offer
        made = {"model": H100, "region": "", "per_gpu_hour": Decimal(9), "currency": "USD"}
        tx.add(Rate(**made, effective_from=datetime(2021, 1, 1, tzinfo=UTC), set_by="tests"))
    taken = client.ok("POST", CLAIMS, 201, json={"offer": offer["id"], "purpose": "a test"})
    assert {gpu["model"] for gpu in taken["gpus"]} == {H100}
    assert len(taken["gpus"]) == 2
    assert amount(taken["price_per_hour"]) == 8
    assert taken["wanted"]["same_host"] is True
    assert taken["wanted"]["offer"]["source"] == "own"
    assert amount(taken["wanted"]["offer"]["price_per_gpu_hour"]) == 4
    begun, ends = (datetime.fromisoformat(taken[name]) for name in ("created_at", "expires_at"))
    assert ends - begun == timedelta(seconds=3600)
    with database.snapshot() as tx:
        holds = tx.execute(sa.select(table(Hold).c.rate)).scalars().all()
    assert set(holds) == {Decimal(4)}
    assert amount(client.ok("POST", CLAIMS, 201, json={"gpus": 1, "model": H100})["price_per_hour"]) == 9


def test_an_offer_is_over_when_its_time_is(client: Client, fleet: Any) -> None:
    fleet("a")
    (offer,) = offers(client)
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=301)):
        problem = client.problem("POST", CLAIMS, 409, "offer-expired", json={"offer": offer["id"]})
    assert problem["expired_at"] == offer["expires_at"].replace("Z", "+00:00")


def test_what_is_gone_is_told_as_such(client: Client, fleet: Any) -> None:
    fleet("a", gpus=2)
    (offer, *_) = offers(client, gpus=2)
    client.ok("POST", CLAIMS, 201, json={"gpus": 1})
    client.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"offer": offer["id"]})


def test_an_offer_leaves_no_choice_and_cannot_be_made_up(client: Client, fleet: Any) -> None:
    fleet("a")
    (offer,) = offers(client)
    for more in ({"gpus": 2}, {"model": H100}, {"groups": [{"gpus": 1}]}, {"placement": "spread"}):
        client.problem("POST", CLAIMS, 422, "invalid-request", json={"offer": offer["id"], **more})
    forged = SecretBox("another secret").seal('["offer/1","own"]')
    for token in ("nonsense", offer["id"][:-4], forged, "é"):
        client.problem("POST", CLAIMS, 422, "invalid-request", json={"offer": token})
    assert client.ok("GET", CLAIMS)["items"] == []


def test_long_names_fit_into_an_offer(client: Client, fleet: Any) -> None:
    fleet("a", model="NVIDIA " + "x" * 121, region="r" * 40)
    (offer,) = offers(client, memory_mib=1000)
    assert len(offer["id"]) <= 512
    client.ok("POST", CLAIMS, 201, json={"offer": offer["id"]})


def test_offers_hold_nothing(client: Client, fleet: Any, database: Database) -> None:
    fleet("a", gpus=2)
    offers(client, gpus=2)
    with database.snapshot() as tx:
        held = tx.execute(sa.text("SELECT count(*) FROM gpus WHERE held_by IS NOT NULL")).scalar_one()
        assert (held, tx.execute(sa.select(sa.func.count()).select_from(table(Rate))).scalar_one()) == (0, 0)


@pytest.mark.parametrize("wish", [{"gpus": 0}, {"gpus": 5000}, {"duration_seconds": 1}, {"memory_mib": 0}])
def test_bad_wishes(client: Client, wish: dict[str, Any]) -> None:
    client.problem("GET", OFFERS, 422, "invalid-request", params=wish)
