"""The tenants of a cluster, by hand: `pulumi up` in this folder."""

from __future__ import annotations

from stacks.tenancy.program import load, read_facade, tenancy

settings = load()
tenancy(read_facade(settings), settings)
