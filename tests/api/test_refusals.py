"""What is refused before any service sees it: the answer says where it is wrong and what to write."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Client

CLAIMS = "/api/v1/allocations"


@pytest.mark.parametrize(
    ("body", "where", "message"),
    [
        ({"gpus": 1, "until": "2030-01-01"}, "body/until", "there is no such field; there are "),
        (
            {"gpus": 1, "expire_at": None},
            "body/expire_at",
            "there is no such field; did you mean expires_at?",
        ),
        ({"gpus": 1, "Model": "x"}, "body/Model", "there is no such field; did you mean model?"),
        ({"groups": [{"gpus": 1, "modle": "x"}]}, "body/groups/0/modle", "there is no such field"),
        ({"gpus": 0}, "body", "give gpus, groups or an offer"),
        ([], "body", 'this has to be an object, {"name": value}'),
        ({"gpus": 1, "duration_seconds": 10**14}, "body/duration_seconds", "less than or equal to"),
        ({"gpus": 1, "expires_at": "9999-12-31T23:59:59-14:00"}, "body/expires_at", "from 1970 to 3000"),
        ({"gpus": 1, "not_before": "0001-01-01T00:00:00+14:00"}, "body/not_before", "from 1970 to 3000"),
    ],
)
def test_a_wrong_claim_is_told_what_to_write(client: Client, body: Any, where: str, message: str) -> None:
    problem = client.problem("POST", CLAIMS, 422, "invalid-request", json=body)
    assert problem["errors"][0]["where"] == where
    assert message in problem["errors"][0]["message"]
    assert "Value error" not in problem["detail"]


def test_a_body_that_is_no_json_is_told_where_it_ends_to_be(client: Client) -> None:
    headers = {"Content-Type": "application/json"}
    problem = client.problem("POST", CLAIMS, 422, "invalid-request", content='{"gpus": 1', headers=headers)
    assert problem["detail"] == "body: not JSON at character 10: Expecting ',' delimiter"


def test_json_that_is_sent_as_a_form_is_told_its_content_type(client: Client) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    problem = client.problem("POST", CLAIMS, 422, "invalid-request", content='{"gpus": 1}', headers=headers)
    assert "send a JSON object, with `Content-Type: application/json`" in problem["detail"]


def test_a_parameter_that_nothing_reads_is_refused_and_nothing_is_held(client: Client, fleet: Any) -> None:
    fleet("gpu-01")
    problem = client.problem("POST", f"{CLAIMS}?dryrun=true", 422, "invalid-request", json={"gpus": 1})
    assert problem["detail"] == "query/dryrun: there is no such parameter; did you mean dry_run?"
    assert client.ok("GET", CLAIMS)["items"] == []
    client.problem("GET", "/api/v1/queue?workspace=default", 422, "invalid-request")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/offers?duration_seconds=99999999999999",
        "/api/v1/reservations?from=0001-01-01T00:00:00%2B14:00",
        "/api/v1/reservations?to=9999-12-31T23:59:59-14:00",
        "/api/v1/admin/reports/usage?from=0001-01-01T00:00:00%2B14:00&to=2027-01-01T00:00:00Z",
        "/api/v1/gpus?memory_mib=99999999999999999999999",
    ],
)
def test_numbers_and_times_beyond_all_measure_are_not_valid(client: Client, path: str) -> None:
    client.problem("GET", path, 422, "invalid-request")


@pytest.mark.parametrize("text", ["\0", "a\0b", "\ud800"])
def test_texts_that_cannot_be_stored_are_no_fault_of_ours(client: Client, fleet: Any, text: str) -> None:
    fleet("gpu-01")
    wanted = ({"gpus": 1, "purpose": text}, {"gpus": 1, "model": text}, {"gpus": 1, "workspace": text})
    for body in wanted:
        headers = {"Content-Type": "application/json"}
        answer = client.request("POST", CLAIMS, content=json.dumps(body), headers=headers)
        assert answer.status_code < 500
    for path in ("/api/v1/gpus?model=%00", "/api/v1/workspaces/%00", "/api/v1/notices?kind=%00"):
        assert client.request("GET", path).status_code < 500


def test_a_path_and_a_method_that_nothing_answers_are_named(client: Client) -> None:
    problem = client.problem("GET", "/api/v1/alocations", 404, "not-found")
    assert problem["detail"] == "Nothing answers at /api/v1/alocations; /docs lists what does."
    problem = client.problem("DELETE", CLAIMS, 405, "method-not-allowed")
    assert problem["detail"] == "/api/v1/allocations does not take DELETE; /docs lists what it takes."


def test_a_short_password_is_counted_in_characters(client: Client) -> None:
    change = {"current_password": "x", "new_password": "short"}
    problem = client.problem("POST", "/api/v1/auth/password", 422, "invalid-request", json=change)
    assert "at least 12 characters" in problem["detail"]
    assert "short" not in problem["detail"]


@pytest.mark.parametrize(
    ("wanted", "detail"),
    [
        ({"model": "H100"}, "no GPU of the fleet has the model H100; did you mean NVIDIA H100 80GB HBM3?"),
        ({"model": "nvidia l40s"}, "has the model nvidia l40s; did you mean NVIDIA L40S?"),
        ({"model": "TPU"}, "has the model TPU; there are NVIDIA H100 80GB HBM3, NVIDIA L40S."),
        ({"region": "mars"}, "no GPU of the fleet has the region mars; there are test."),
        ({"memory_mib": 999999}, "no GPU of the fleet matches memory_mib 999999, free or not."),
        (
            {"gpus": 3, "model": "NVIDIA L40S"},
            "2 that match are free, of 2 in the fleet. By the known ends there",
        ),
    ],
)
def test_what_the_fleet_has_not_is_named_with_what_it_has(
    client: Client, fleet: Any, wanted: dict[str, Any], detail: str
) -> None:
    fleet("gpu-01", gpus=2)
    fleet("gpu-02", gpus=2, model="NVIDIA L40S")
    problem = client.problem("POST", CLAIMS, 409, "capacity-exceeded", json={"gpus": 1} | wanted)
    assert detail in problem["detail"]
    assert ("By the known ends" in problem["detail"]) == (problem["matching"] > 0)
