"""The page on reclaim: its tables are the code's."""

from __future__ import annotations

import ansible.module_utils
import pytest
import yaml

from tests.docs import pages

SHARED = str(pages.ROOT / "playbooks" / "module_utils")
if SHARED not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(SHARED)

ADDITIONS = {"finding": "a finding", "removed": "removed", "kept": "not looked at"}
CONTENT = {"compared": "compared", "restored": "restored, no finding", "left": "left"}


@pytest.mark.parametrize("kind", ["exact", "patterns"])
def test_every_place_with_a_rule_of_its_own_is_on_the_page(kind: str) -> None:
    from ansible.module_utils import places

    rules = dict(places.RULES)
    if kind == "patterns":
        rules = {
            f"{folder}/{pattern}".lstrip("/" if not folder else ""): rule
            for folder, rows in places.PATTERNS.items()
            for pattern, rule in rows
        }
    shown = {
        place.strip(" `"): tuple(row[1:])
        for row in pages.table(pages.RECLAIM, "Place")
        for place in row[0].split(",")
    }
    for place, rule in rules.items():
        content = CONTENT[rule.content] if rule.walk else "not looked at"
        assert shown[place] == (ADDITIONS[rule.additions], content, rule.reason)


def test_the_page_shows_no_place_without_a_rule() -> None:
    from ansible.module_utils import places

    known = {*places.RULES, *(f"{f}/{p}" if f else p for f, rows in places.PATTERNS.items() for p, _ in rows)}
    shown = {place.strip(" `") for row in pages.table(pages.RECLAIM, "Place") for place in row[0].split(",")}
    assert shown == known


def test_the_variables_are_the_roles() -> None:
    role = pages.ROOT / "playbooks" / "roles" / "manifest"
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text())
    for name, default, _ in pages.table(pages.RECLAIM, "Variable"):
        assert name in specs["options"]
        said = {"none": "[]"}.get(default, default.strip("`")).lower()
        assert said in str(defaults[name]).lower()
