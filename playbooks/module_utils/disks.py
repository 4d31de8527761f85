"""Data disks: which there are, which of them a tenant may write, and how they become blank again."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils import blockdevices, devices, erase, libc, pseudo
from ansible.module_utils.blockdevices import Device, Tree
from ansible.module_utils.steps import Step, StepFailed, run

MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-U", "{uuid}"),
    "ext3": ("mkfs.ext3", "-q", "-F", "-U", "{uuid}"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-m", "uuid={uuid}"),
    "btrfs": ("mkfs.btrfs", "-q", "-f", "-U", "{uuid}"),
}


def record() -> dict[str, Any]:
    """Every local disk by its identity, with the file systems on it, and the names of mapped devices."""
    tree = own(blockdevices.read())
    system = blockdevices.protected(tree, groups=blockdevices.volume_groups(tree))
    return {
        "disks": {
            device.identity: {"name": device.name, "size": device.size, "system": device.name in system,
                              "table": table(device), "mounted": mounted(tree, device)}
            for device in blockdevices.disks(tree)
        },
        "mapped": mapped(tree),
    }  # fmt: skip


def own(tree: Tree) -> Tree:
    """Without what this system may not open: a container sees its machine's disks."""
    return {name: device for name, device in tree.items() if devices.node(name)}


def mapped(tree: Tree) -> list[str]:
    """Arrays and mapped devices, by the names that their makers gave them."""
    return sorted(mapper(device) for device in tree.values() if _is_mapped(device))


def mapper(device: Device) -> str:
    return pseudo.read(f"/sys/block/{device.name}/dm/name") or device.name


def _is_mapped(device: Device) -> bool:
    return device.name.startswith(("dm-", "md"))


def table(device: Device) -> str:
    """The partition table as sfdisk's script, '' without one."""
    return run("sfdisk", "--dump", devices.node(device.name) or "").out if device.facts.get("pttype") else ""


def mounted(tree: Tree, disk: Device) -> list[dict[str, Any]]:
    """The mounted file systems of a disk, whether they lie on it, its partitions or further above."""
    found = []
    for name in sorted(blockdevices.above(tree, [disk.name])):
        device = tree[name]
        for point in device.points:
            status = os.stat(point) if os.path.isdir(point) else None
            found.append({
                "point": point, "partition": int(pseudo.read(f"/sys/class/block/{name}/partition") or 0),
                "direct": name == disk.name or device.kind == "part", "fstype": device.facts.get("fstype"),
                "label": device.facts.get("label"), "uuid": device.facts.get("uuid"),
                "owner": [status.st_uid, status.st_gid, status.st_mode & 0o7777] if status else [0, 0, 0o755],
            })  # fmt: skip
    return found


def targets(before: dict[str, Any], tree: Tree, scratch: Iterable[str], keep: Iterable[str]) -> list[Device]:
    """The disks that are wiped: recorded, holding up nothing then and nothing now, and not to be kept.

    Raises StepFailed when the root's own disk is among them: then the picture is wrong.
    """
    places, kept = tuple(scratch), set(keep)
    system_now = blockdevices.protected(tree, places, blockdevices.volume_groups(tree))
    found = []
    for device in blockdevices.disks(tree):
        row = before["disks"].get(device.identity)
        if row is None or device.name in system_now or {device.name, device.identity} & kept:
            continue
        other = [one["point"] for one in row["mounted"] if not blockdevices.within(one["point"], places)]
        if other or (row["system"] and not row["mounted"]) or row["size"] != device.size or layered(row):
            continue
        found.append(device)
    holding = blockdevices.below(tree, root_devices(tree))
    if any(device.name in holding for device in found):
        raise StepFailed("the disk of the root file system would be wiped: nothing was touched")
    return found


def layered(row: dict[str, Any]) -> list[str]:
    """Scratch file systems that cannot be made anew alone: on LVM, RAID or LUKS, or of a rare kind."""
    return [one["point"] for one in row["mounted"] if not one["direct"] or one["fstype"] not in MAKE]


def refuse_layered(before: dict[str, Any], policy: str, scratch: Iterable[str]) -> None:
    """Quick empties these file by file; raises StepFailed for a policy that promises more."""
    places = tuple(scratch)
    points = [point for row in before["disks"].values() for point in layered(row)]
    points = sorted({point for point in points if blockdevices.within(point, places)})
    if points and policy != "quick":
        raise StepFailed(f"{', '.join(points)} lies on several layers: policy {policy} cannot wipe below it")


def root_devices(tree: Tree, path: str = "/") -> set[str]:
    """The device that holds a path by its number, as a second opinion beside lsblk's mount points."""
    number = os.stat(path).st_dev
    name = os.path.basename(os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"))
    return {name} & tree.keys()


def findings(before: dict[str, Any]) -> list[str]:
    tree = own(blockdevices.read())
    now = {device.identity: device for device in blockdevices.disks(tree)}
    found = [f"disk {device.name} is not in the manifest" for key, device in now.items()
             if key not in before["disks"]]  # fmt: skip
    found += [f"disk {row['name']} is gone" for key, row in before["disks"].items() if key not in now]
    found += [f"{name} is mapped and not in the manifest" for name in mapped(tree)
              if name not in before["mapped"]]  # fmt: skip
    for key, row in before["disks"].items():
        if key in now and not row["system"] and not row["mounted"] and holds(tree, now[key]):
            found.append(f"data disk {row['name']} holds something: {', '.join(holds(tree, now[key]))}")
    return found


def holds(tree: Tree, disk: Device) -> list[str]:
    parts = sorted(blockdevices.above(tree, [disk.name]) - {disk.name})
    return [word for word in (disk.signature, *parts) if word]


def clean(
    step: Step,
    before: dict[str, Any],
    policy: str = "quick",
    scratch: Iterable[str] = (),
    keep: Iterable[str] = (),
) -> None:
    """Take apart what lies on the data disks, wipe them all at once, and make recorded file systems anew."""
    refuse_layered(before, policy, scratch)
    tree = own(blockdevices.read())
    chosen = targets(before, tree, scratch, keep)
    take_apart(step, before, tree, chosen)
    if step.check:
        for device in chosen:
            step.gone("disks", f"{device.name} ({policy})")
        return
    with ThreadPoolExecutor(max(len(chosen), 1)) as pool:
        list(pool.map(lambda device: _wipe(step, device, policy), chosen))
    for device in chosen:
        remake(step, before["disks"][device.identity], device)
    if chosen:
        run("udevadm", "settle", timeout=60)
    left = findings(before)
    if left:
        raise StepFailed(f"disks are not as recorded: {left[0]}", left)


def _wipe(step: Step, device: Device, policy: str) -> None:
    try:
        erase.POLICIES[policy](step, device)
    except OSError as error:
        raise StepFailed(f"{device.name} cannot be wiped: {error}") from error
    step.gone("disks", f"{device.name}, {device.size >> 30} GiB ({policy})")


def take_apart(step: Step, before: dict[str, Any], tree: Tree, chosen: list[Device]) -> None:
    """Unmount what lies on the disks; remove their mapped devices and those that enrolment did not see."""
    over = blockdevices.above(tree, [device.name for device in chosen])
    safe = blockdevices.protected(tree, [p for name in over for p in tree[name].points])
    gone = {name for name, one in tree.items() if _is_mapped(one) and name not in safe
            and (name in over or mapper(one) not in before["mapped"])}  # fmt: skip
    for name in sorted(over | gone):
        for point in tree[name].points:
            step.note(f"{name} unmounted from {point}")
            if not step.check:
                libc.umount(point, detach=True)
    for name in sorted(gone, key=lambda one: len(blockdevices.below(tree, [one])), reverse=True):
        step.gone("mapped devices", f"{name} {mapper(tree[name])}")
        if not step.check:
            take_down(tree[name])
    for name in sorted(over):
        if tree[name].kind == "part" and not step.check:
            run("wipefs", "--all", "--force", devices.node(name) or name)


def take_down(device: Device) -> None:
    if device.name.startswith("md"):
        run("mdadm", "--stop", devices.node(device.name) or device.name)
    else:
        run("dmsetup", "remove", "--retry", "--force", mapper(device))


def remake(step: Step, row: dict[str, Any], disk: Device) -> None:
    """The recorded partition table and file systems of a scratch disk, empty, and mounted again."""
    if not row["mounted"]:
        run("blockdev", "--rereadpt", erase.path(disk))
        return
    if row["table"]:
        run("sfdisk", "--force", "--wipe=always", erase.path(disk), feed=row["table"], timeout=60)
        run("udevadm", "settle", timeout=60)
    for one in row["mounted"]:
        node = partition(disk, one["partition"])
        words = MAKE.get(str(one["fstype"]))
        if not one["direct"] or words is None or node is None:
            raise StepFailed(
                f"{one['point']} ({one['fstype']}) on {disk.name} cannot be made anew: do it by hand"
            )
        label = ["-L", one["label"]] if one["label"] else []
        made = run(*(word.format(uuid=one["uuid"]) for word in words), *label, node, timeout=600)
        if not made.ok:
            raise StepFailed(f"{one['point']} cannot be made anew", [made.tail()])
        mount(step, one, node)


def partition(disk: Device, number: int) -> str | None:
    separator = "p" if disk.name[-1].isdigit() else ""
    return devices.node(f"{disk.name}{separator}{number}" if number else disk.name)


def mount(step: Step, one: dict[str, Any], node: str) -> None:
    os.makedirs(one["point"], exist_ok=True)
    done = run("mount", one["point"], timeout=60)
    if not done.ok:
        done = run("mount", "-t", one["fstype"], node, one["point"], timeout=60)
    if not done.ok:
        raise StepFailed(f"{one['point']} cannot be mounted again", [done.tail()])
    uid, gid, mode = one["owner"]
    os.chown(one["point"], uid, gid)
    os.chmod(one["point"], mode)
    step.did(f"{one['point']} made anew on {node}")
