"""The platform, wired: `pulumi up` in this folder."""

from __future__ import annotations

from stacks.components.base import Platform
from stacks.components.storage import Storage

platform = Platform.load()
storage = Storage(platform)
