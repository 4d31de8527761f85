"""The page of the API lists every code that a problem can have."""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterator

import api
from api.core.errors import Problem
from tests.docs import pages


def every(kind: type[Problem]) -> Iterator[type[Problem]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from every(narrower)


def problems() -> set[type[Problem]]:
    """Those of the whole facade, whether or not a test has loaded their module yet."""
    for module in pkgutil.walk_packages(api.__path__, "api."):
        if not module.name.startswith(("api.cli", "api.migrations")):
            importlib.import_module(module.name)
    return {kind for kind in every(Problem) if kind.__module__.startswith("api.")}


def test_every_kind_of_problem_has_a_code_of_its_own() -> None:
    found = problems()
    assert len(found) > 20
    assert [kind.__name__ for kind in found if "code" not in vars(kind) or "title" not in vars(kind)] == []
    twice = [code for code, times in Counter(kind.code for kind in found).items() if times > 1]
    assert twice == []


def test_the_codes_are_the_code_s() -> None:
    rows = [tuple(row[:3]) for row in pages.table(pages.API, "Code")]
    assert sorted(rows) == sorted((kind.code, str(kind.status), kind.title) for kind in problems())


def test_the_codes_are_in_the_order_of_their_status() -> None:
    statuses = [int(row[1]) for row in pages.table(pages.API, "Code")]
    assert statuses == sorted(statuses)
