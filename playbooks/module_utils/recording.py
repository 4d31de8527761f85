"""Record a clean host's file trees: the index, the content that the ledger keeps, the host's own store."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ansible.module_utils import accounts, index, places, pristine, restoring, tracked, trees

MIB = 1 << 20


class Options(NamedTuple):
    """``emptied``, ``skip``: folders that reclaim empties, and paths that no one looks at. Limits in MiB."""

    emptied: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    store_file_mib: int = 256
    store_total_mib: int = 16384


def record(options: Options) -> tuple[dict[str, Any], bytes]:
    """The manifest's keys `homes`, `files` and `index`, and the index itself."""
    limits = pristine.prepare(
        pristine.Limits(options.store_file_mib * MIB, options.store_total_mib * MIB), pristine.STORE
    )
    homes = accounts.homes()
    bare = places.Rules(homes.values(), options.emptied, options.skip)
    mounts = trees.mounts(bare)
    table = places.Rules(homes.values(), options.emptied, options.skip, mounts)
    rows = trees.Scan(table).run()
    raw = index.encode(rows)
    known = {
        **index.summary(raw, rows),
        "emptied": list(options.emptied),
        "skip": list(options.skip),
        "mounts": mounts,
        "store": list(limits),
    }
    contents = pristine.wanted(rows, table, limits)
    for path in pristine.foreign(contents):  # what an earlier record left
        tracked.remove(pristine.Path(path))
    pristine.fill(contents)
    tops = (*places.CONTENT[:-1], *homes.values(), *accounts.key_folders(), places.CONTENT[-1])
    return {"homes": homes, "files": tracked.contents(rows, tops, tracked.Budget()), "index": known}, raw


def findings(manifest: dict[str, Any]) -> list[str]:
    """Every file that is not as recorded, and what is wrong with the store. Everything is read anew."""
    here = restoring.Trees(manifest)
    gone = trees.unmounted(here.table)
    found = [f"not mounted, but mounted at enrolment: {point}" for point in gone]
    difference = trees.compare(here.before, here.scan(), here.table, strictly=False)
    missing = [path for path in difference.missing if not _below(path, gone)]
    found += trees.Difference(difference.extra, missing, difference.altered).findings()
    return found + pristine.findings(here.contents)


def _below(path: str, points: Iterable[str]) -> bool:
    return any(path != point and index.under(path, [point]) for point in points)
