from __future__ import annotations

import json
from typing import Any

import pulumi
import pytest

from stacks.components.base import Platform
from stacks.components.monitoring import Monitoring
from stacks.components.storage import Storage


def program() -> None:
    platform = Platform.load()
    Storage(platform, monitoring=Monitoring(platform))


def test_seaweedfs_asks_for_authentication_and_each_bucket_has_a_key_of_its_own(roll_out: Any) -> None:
    seen = roll_out(program)
    release = seen.one("Release", "seaweedfs")
    assert release.inputs["values"]["s3"]["enableAuth"] is True
    secret = seen.one("Secret", "s3-identities")
    assert "stringData" in secret.secrets or "stringData.seaweedfs_s3_config" in secret.secrets
    identities = json.loads(secret.inputs["stringData"]["seaweedfs_s3_config"])
    assert {identity["name"] for identity in identities["identities"]} == {
        "database",
        "experiments",
        "registry",
    }
    for identity in identities["identities"]:
        assert all(action.endswith(f":{identity['name']}") for action in identity["actions"])


def test_another_list_of_keys_starts_the_gateway_anew(roll_out: Any) -> None:
    stamps = [
        roll_out(program, experiments={"mode": mode})
        .one("Release", "seaweedfs")
        .inputs["values"]["s3"]["podAnnotations"]["ironyard/secrets"]
        for mode in ("mlflow", "mlflow", "off")
    ]
    assert stamps[0] == stamps[1] != stamps[2]


def test_a_wrong_value_is_refused_before_anything_is_registered(roll_out: Any) -> None:
    with pytest.raises(pulumi.RunError) as refused:
        roll_out(program, storage={"mode": "minio", "sise": "1Gi", "size": "big"}, storrage={})
    message = str(refused.value)
    assert "ironyard-platform:storage.mode: it should be 'seaweedfs', 'external' or 'off'" in message
    assert "ironyard-platform:storage.sise: there is no such key; did you mean size?" in message
    assert "ironyard-platform:storage.size: 'big' is not a Kubernetes quantity" in message
    assert "ironyard-platform:storrage: there is no such section; did you mean storage?" in message
