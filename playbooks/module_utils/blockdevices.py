"""Block devices as lsblk sees them, and which of them hold up the system: those are never wiped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.steps import StepFailed, run

COLUMNS = "NAME,KNAME,TYPE,FSTYPE,LABEL,UUID,SIZE,RO,RM,MOUNTPOINTS,TRAN,SERIAL,WWN,DISC-MAX,PTTYPE"
# A file system, array or volume group that spans devices carries one UUID on all its members.
SHARED = (
    "btrfs",
    "bcachefs",
    "linux_raid_member",
    "ddf_raid_member",
    "isw_raid_member",
    "zfs_member",
    "bcache",
)


@dataclass
class Device:
    """``parents`` are what it lies on. A device on several disks is one Device with several parents."""

    name: str
    kind: str
    size: int
    facts: dict[str, Any]
    parents: set[str] = field(default_factory=set)
    children: set[str] = field(default_factory=set)

    @property
    def points(self) -> list[str]:
        return [point for point in self.facts.get("mountpoints") or [] if point]

    @property
    def identity(self) -> str:
        return str(self.facts.get("wwn") or self.facts.get("serial") or self.name)

    @property
    def signature(self) -> str:
        return str(self.facts.get("fstype") or self.facts.get("pttype") or "")


Tree = dict[str, Device]


def read() -> Tree:
    """Every block device by its kernel name; raises StepFailed when they cannot be listed."""
    ran = run("lsblk", "--json", "--bytes", "--output", COLUMNS, timeout=60)
    if not ran.ok and ran.code != 32:  # 32: there is none
        raise StepFailed("block devices cannot be listed", [ran.tail()])
    return parse(json.loads(ran.out or "{}"))


def parse(document: dict[str, Any]) -> Tree:
    tree: Tree = {}

    def add(entry: dict[str, Any], parent: str | None) -> None:
        name = entry.get("kname") or entry["name"]
        device = tree.setdefault(name, Device(name, entry["type"], int(entry.get("size") or 0), entry))
        if parent:
            device.parents.add(parent)
            tree[parent].children.add(name)
        for child in entry.get("children") or []:
            add(child, name)

    for entry in document.get("blockdevices") or []:
        add(entry, None)
    return tree


def above(tree: Tree, names: Iterable[str]) -> set[str]:
    """These devices and everything that lies on them."""
    return _closure(tree, names, "children")


def below(tree: Tree, names: Iterable[str]) -> set[str]:
    """These devices and everything that they lie on."""
    return _closure(tree, names, "parents")


def _closure(tree: Tree, names: Iterable[str], side: str) -> set[str]:
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in tree and name not in found:
            found.add(name)
            pending += getattr(tree[name], side)
    return found


def protected(tree: Tree, scratch: Iterable[str] = (), groups: dict[str, str] | None = None) -> set[str]:
    """Devices that hold up something mounted outside the scratch folders, with all that belongs to them.

    ``groups`` is LVM's: by device of a physical volume its volume group.
    """
    free = tuple(scratch)
    used = {name for name, device in tree.items() if any(not within(p, free) for p in device.points)}
    while True:
        grown = below(tree, used) | _relatives(tree, used, groups or {})
        grown |= {name for name in above(tree, grown) if tree[name].parents and tree[name].parents <= grown}
        if grown == used:
            return used
        used = grown


def within(point: str, folders: tuple[str, ...]) -> bool:
    return any(point == folder or point.startswith(f"{folder.rstrip('/')}/") for folder in folders)


def _relatives(tree: Tree, names: set[str], groups: dict[str, str]) -> set[str]:
    """Other members of the same file systems, arrays and volume groups."""
    marks = {_mark(tree[name]) for name in names} - {None}
    volume_groups = {groups[name] for name in names if name in groups}
    return {
        name
        for name, device in tree.items()
        if _mark(device) in marks or (name in groups and groups[name] in volume_groups)
    }


def _mark(device: Device) -> tuple[str, str] | None:
    kind, uuid = device.facts.get("fstype"), device.facts.get("uuid")
    if kind == "zfs_member":  # its UUID is the member's own, its label the pool
        uuid = device.facts.get("label")
    return (kind, uuid) if kind in SHARED and uuid else None


def volume_groups(tree: Tree) -> dict[str, str]:
    """By kernel name of a physical volume its volume group; raises StepFailed when LVM cannot be asked."""
    if not any(device.facts.get("fstype") == "LVM2_member" for device in tree.values()):
        return {}
    ran = run("pvs", "--reportformat", "json", "-o", "pv_name,vg_name", timeout=60)
    if not ran.ok:
        raise StepFailed("a disk belongs to LVM and LVM cannot be asked whose it is", [ran.tail()])
    rows = json.loads(ran.out)["report"][0]["pv"]
    return {row["pv_name"].rsplit("/", 1)[-1]: row["vg_name"] for row in rows if row["vg_name"]}


VIRTUAL = ("loop", "ram", "zram", "zd", "nbd", "rbd", "drbd", "fd")


def disks(tree: Tree) -> Iterator[Device]:
    """Whole local disks; virtual, optical, read-only, removable and network ones are left out."""
    for device in tree.values():
        plain = device.kind == "disk" and not device.name.startswith(VIRTUAL)
        if plain and device.size and not device.facts.get("rm") and not device.facts.get("ro"):
            yield device
