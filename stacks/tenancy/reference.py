"""The reference page of the tenancy's configuration: `python -m stacks.tenancy.reference`."""

from __future__ import annotations

import sys

from stacks.reference import section
from stacks.tenancy.settings import PROJECT, SECTIONS

HEAD = f"""# Configuration of the tenants of a cluster

Every key of `{PROJECT}`, with its type, default and meaning; a wrong value is refused with its path before
anything changes. Set a key with `pulumi config set --path {PROJECT}:limits.pods 500` in `stacks/tenancy`, a
secret with `--secret` as well.
"""


def page() -> str:
    """The whole page as Markdown."""
    return HEAD + "".join(section(name, model) for name, model in SECTIONS.items())


if __name__ == "__main__":
    sys.stdout.write(page())
