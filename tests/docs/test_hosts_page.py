"""The page on hosts: its tables name the roles, variables and defaults of the playbooks."""

from __future__ import annotations

import re
from typing import Any

import yaml

from api.fleet.playbooks import INSTALLING
from tests.docs import pages

ROLES = pages.ROOT / "playbooks" / "roles"


def defaults() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in ROLES.glob("*/defaults/main.yml"):
        found |= yaml.safe_load(path.read_text())
    return found


def test_the_roles_are_those_that_enrolment_runs() -> None:
    assert [row[0] for row in pages.table(pages.HOSTS, "Role")] == [*INSTALLING, "harden"]


def test_every_variable_is_one_of_the_roles() -> None:
    known = defaults()
    text = "".join(str(said) for said in known.values())
    named = [
        name for row in pages.table(pages.HOSTS, "Variable") for name in re.findall(r"[a-z_]{5,}", row[0])
    ]
    assert len(named) > 15
    assert [name for name in named if name not in known and not re.search(rf"\b{name}\b", text)] == []


def test_the_defaults_are_the_roles() -> None:
    known = defaults()
    rows = {row[0]: row[1] for row in pages.table(pages.HOSTS, "Variable")}
    for name in ("driver_branch", "driver_policy", "driver_reboot", "account_keys", "dcgm_exporter_address"):
        assert yaml.safe_load(rows[name]) == known[name], name


def test_every_path_of_the_mirror_is_a_repository_of_the_table() -> None:
    urls = " ".join(source["url"] for source in defaults()["software_sources"].values())
    for row in pages.table(pages.HOSTS, "Path"):
        for path in row[0].replace("`", "").split(", "):
            assert f"/{path.strip().rstrip('/')}" in urls, path
