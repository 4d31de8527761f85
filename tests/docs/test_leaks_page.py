"""What the documentation says of leaks is the code's."""

from __future__ import annotations

from api.monitoring.lifecycle import SENTENCES
from api.monitoring.models import Action, Kind
from tests.docs import pages


def section() -> str:
    return pages.OPERATE.read_text().split("\n## Leaks\n")[1].split("\n## ")[0]


def test_every_kind_is_told_with_what_can_be_done() -> None:
    rows = {row[0]: row for row in pages.table(pages.OPERATE, "Kind")}
    assert rows.keys() == {str(kind) for kind in Kind}
    told = " ".join(row[3] for row in rows.values())
    assert [str(action) for action in Action if action not in told] == []


def test_the_states_are_the_code_s() -> None:
    missing = [f"| `{state}` | {text} |" for state, text in SENTENCES.items()]
    assert [row for row in missing if row not in section()] == []
