"""What the documentation says of approval is the code's."""

from __future__ import annotations

from api.workspaces.models import Approval
from tests.docs import pages


def test_the_approvers_are_the_code_s() -> None:
    assert [row[0] for row in pages.table(pages.OPERATE, "Approver")] == [str(one) for one in Approval]
