"""Names and labels that a cluster takes, made from those of the ledger."""

from __future__ import annotations

import hashlib
import re

OWNER = "ironyard.io"
WORKSPACE_ID, WORKSPACE_SLUG = f"{OWNER}/workspace-id", f"{OWNER}/workspace"
LONGEST_LABEL = 63
LONGEST_STEM = 48
NOT_IN_A_NAME = re.compile(r"[^a-z0-9]+")
NOT_IN_A_LABEL = re.compile(r"[^A-Za-z0-9_.-]")


def name_of(text: str) -> str:
    """A Kubernetes name of at most 57 characters; other texts, however alike, get other names."""
    stem = NOT_IN_A_NAME.sub("-", text.lower())[:LONGEST_STEM].strip("-")
    return "-".join(part for part in (stem or "x", _digest(text)) if part)


def product_of(model: str) -> str:
    """The value that GPU feature discovery gives `nvidia.com/gpu.product`: the model with hyphens for spaces.

    A model that cannot be a label value so gets one of its own, to be put on its nodes by hand.
    """
    plain = re.sub(r"\s+", "-", model.strip())
    fits = len(plain) <= LONGEST_LABEL and not NOT_IN_A_LABEL.search(plain)
    if fits and plain and plain[0].isalnum() and plain[-1].isalnum():
        return plain
    stem = NOT_IN_A_LABEL.sub("-", plain)[:LONGEST_STEM].strip("-_.")
    return f"{stem or 'x'}-{_digest(model)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
