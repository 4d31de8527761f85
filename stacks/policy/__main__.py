"""The policy pack: `pulumi up --policy-pack ../policy`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # the engine starts this in its own folder

    from pulumi_policy import PolicyPack

    from stacks.policy.rules import policies
    from stacks.policy.sealed import keep_marks

    keep_marks()
    PolicyPack("ironyard", policies())
