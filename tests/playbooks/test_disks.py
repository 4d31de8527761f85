"""Which disks may be wiped, on layouts as lsblk describes them, and the wiping itself on a loop device."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import blockdevices, devices, disks, erase
from ansible.module_utils.blockdevices import Device
from ansible.module_utils.steps import Ran, Step, StepFailed

GIB = 1 << 30
Entry = dict[str, Any]


def dev(name: str, kind: str, *children: Entry, points: tuple[str, ...] = (), **facts: Any) -> Entry:
    return {
        "name": name, "kname": name, "type": kind, "size": GIB, "ro": False, "rm": False, "fstype": None,
        "mountpoints": list(points) or [None], "children": list(children), "serial": f"S-{name}", **facts,
    }  # fmt: skip


def layout(*entries: Entry) -> blockdevices.Tree:
    return blockdevices.parse({"blockdevices": list(entries)})


def root_md() -> Entry:
    return dev("md0", "raid1", points=("/",), fstype="ext4")


def member(name: str, *children: Entry, uuid: str = "array") -> Entry:
    return dev(name, "part", *children, fstype="linux_raid_member", uuid=uuid)


LAYOUTS: dict[str, tuple[tuple[Entry, ...], set[str]]] = {
    "one NVMe disk for the system, two without anything": (
        (
            dev(
                "nvme0n1",
                "disk",
                dev("nvme0n1p1", "part", points=("/boot/efi",)),
                dev("nvme0n1p2", "part", points=("/",)),
            ),
            dev("nvme1n1", "disk"),
            dev("nvme2n1", "disk"),
        ),
        {"nvme1n1", "nvme2n1"},
    ),
    "RAID 1 root over two disks": (
        (
            dev("sda", "disk", member("sda1", root_md())),
            dev("sdb", "disk", member("sdb1", root_md())),
            dev("sdc", "disk"),
        ),
        {"sdc"},
    ),
    "RAID 1 root of which one half is not assembled": (
        (
            dev("sda", "disk", member("sda1", root_md())),
            dev("sdb", "disk", member("sdb1")),
            dev("sdc", "disk"),
        ),
        {"sdc"},
    ),
    "LVM root, the volume group's second disk has no volume yet": (
        (
            dev("sda", "disk", dev("sda2", "part", dev("dm-0", "lvm", points=("/",)), fstype="LVM2_member")),
            dev("sdb", "disk", fstype="LVM2_member"),
            dev("sdc", "disk"),
        ),
        {"sdc"},
    ),
    "multipath root": (
        (
            dev("sda", "disk", dev("dm-0", "mpath", dev("dm-1", "part", points=("/",)))),
            dev("sdb", "disk", dev("dm-0", "mpath", dev("dm-1", "part", points=("/",)))),
            dev("nvme0n1", "disk"),
        ),
        {"nvme0n1"},
    ),
    "LUKS root": (
        (
            dev(
                "nvme0n1",
                "disk",
                dev("nvme0n1p3", "part", dev("dm-0", "crypt", points=("/",)), fstype="crypto_LUKS"),
            ),
            dev("nvme1n1", "disk"),
        ),
        {"nvme1n1"},
    ),
    "btrfs root over two disks, of which lsblk shows one mounted": (
        (
            dev("sda", "disk", dev("sda1", "part", points=("/",), fstype="btrfs", uuid="b")),
            dev("sdb", "disk", fstype="btrfs", uuid="b"),
            dev("sdc", "disk"),
        ),
        {"sdc"},
    ),
    "a ZFS pool whose root is mounted by name": (
        (
            dev(
                "sda",
                "disk",
                dev("sda1", "part", points=("/boot",), fstype="zfs_member", label="rpool", uuid="1"),
            ),
            dev("sdb", "disk", fstype="zfs_member", label="rpool", uuid="2"),
            dev("sdc", "disk"),
        ),
        {"sdc"},
    ),
    "swap": (
        (dev("sda", "disk", points=("/",)), dev("sdb", "disk", points=("[SWAP]",)), dev("sdc", "disk")),
        {"sdc"},
    ),
    "the engine's own disk, a scratch disk, and one of a person": (
        (
            dev("sda", "disk", points=("/",)),
            dev("sdb", "disk", dev("sdb1", "part", points=("/var/lib/docker",))),
            dev("sdc", "disk", dev("sdc1", "part", points=("/scratch",), fstype="ext4")),
            dev("sdd", "disk", points=("/home",)),
        ),
        {"sdc"},
    ),
    "what is no local disk": (
        (
            dev("sda", "disk", points=("/",)),
            dev("sdb", "disk", rm=True),
            dev("sr0", "rom"),
            dev("zd0", "disk"),
            dev("mmcblk0boot0", "disk", ro=True),
            dev("loop3", "loop"),
            dev("zram0", "disk"),
            dev("nbd0", "disk"),
            dev("rbd0", "disk"),
            dev("sdc", "disk", size=0),
        ),
        set(),
    ),
    "scratch and system on one disk": (
        (
            dev(
                "sda",
                "disk",
                dev("sda1", "part", points=("/",)),
                dev("sda2", "part", points=("/scratch",), fstype="ext4"),
            ),
        ),
        set(),
    ),
    "scratch on LVM is emptied, not made anew": (
        (
            dev("sda", "disk", points=("/",)),
            dev("sdb", "disk", dev("dm-0", "lvm", points=("/scratch",), fstype="xfs"), fstype="LVM2_member"),
        ),
        set(),
    ),
}
GROUPS = {"sda2": "system", "sdb": "system"}


@pytest.fixture(autouse=True)
def no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layouts are not this machine's: nothing of it is asked."""
    monkeypatch.setattr(disks, "own", lambda tree: tree)
    monkeypatch.setattr(disks, "root_devices", lambda _tree: set())
    monkeypatch.setattr(disks, "table", lambda _device: "")
    monkeypatch.setattr(disks.devices, "node", lambda name: f"/dev/{name}")
    monkeypatch.setattr(blockdevices, "volume_groups", groups)


def groups(tree: blockdevices.Tree) -> dict[str, str]:
    return GROUPS if "dm-0" in tree and tree["dm-0"].kind == "lvm" and "sda2" in tree else {}


def recorded(monkeypatch: pytest.MonkeyPatch, *entries: Entry) -> dict[str, Any]:
    monkeypatch.setattr(blockdevices, "read", lambda: layout(*entries))
    found: dict[str, Any] = disks.record()
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_only_data_disks_are_wiped(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    entries, data = LAYOUTS[name]
    before = recorded(monkeypatch, *entries)
    assert {d.name for d in disks.targets(before, layout(*entries), ["/scratch"], [])} == data


SYSTEM = dev("sda", "disk", points=("/",))


@pytest.mark.parametrize(
    "now",
    [
        (SYSTEM, dev("sdb", "disk")),  # the tenant unmounted the platform's disk
        (SYSTEM, dev("sdb", "disk", dev("sdb1", "part"))),
    ],
)
def test_a_disk_that_held_the_platform_stays_even_when_it_is_unmounted_now(
    monkeypatch: pytest.MonkeyPatch, now: tuple[Entry, ...]
) -> None:
    before = recorded(monkeypatch, SYSTEM, dev("sdb", "disk", points=("/var/lib/docker",)))
    assert disks.targets(before, layout(*now), ["/scratch"], []) == []


def test_what_the_record_does_not_know_is_found_and_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recorded(monkeypatch, SYSTEM, dev("sdb", "disk"))
    now = (SYSTEM, dev("sdc", "disk"))
    monkeypatch.setattr(blockdevices, "read", lambda: layout(*now))
    assert disks.targets(before, layout(*now), [], []) == []
    assert disks.findings(before) == ["disk sdc is not in the manifest", "disk sdb is gone"]


def test_another_disk_under_a_known_serial_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recorded(monkeypatch, SYSTEM, dev("sdb", "disk"))
    assert disks.targets(before, layout(SYSTEM, dev("sdb", "disk", size=7 * GIB)), [], []) == []


def test_a_data_disk_that_a_tenant_bound_to_the_system_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    root = dev("sda", "disk", points=("/",), fstype="btrfs", uuid="b")
    before = recorded(monkeypatch, root, dev("sdb", "disk"))
    joined = (root, dev("sdb", "disk", fstype="btrfs", uuid="b"))
    monkeypatch.setattr(blockdevices, "read", lambda: layout(*joined))
    assert disks.targets(before, layout(*joined), [], []) == []
    assert disks.findings(before) == ["data disk sdb holds something: btrfs"]


def test_disks_are_known_by_serial_and_kept_by_name_or_serial(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recorded(monkeypatch, SYSTEM, dev("sdb", "disk", serial="A"), dev("sdc", "disk", serial="B"))
    swapped = layout(SYSTEM, dev("sdb", "disk", serial="B"), dev("sdc", "disk", serial="A"))
    assert [d.identity for d in disks.targets(before, swapped, [], ["B"])] == ["A"]
    assert [d.identity for d in disks.targets(before, swapped, [], ["sdc"])] == ["B"]


def test_the_root_by_its_number_is_a_second_opinion(monkeypatch: pytest.MonkeyPatch) -> None:
    blank = (dev("sda", "disk", dev("sda1", "part")), dev("sdb", "disk"))
    before = recorded(monkeypatch, *blank)
    monkeypatch.setattr(disks, "root_devices", lambda _tree: {"sda1"})
    with pytest.raises(StepFailed, match="root file system would be wiped"):
        disks.targets(before, layout(*blank), [], [])


def test_lvm_that_cannot_be_asked_stops_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(blockdevices, "run", lambda *argv, **_: Ran(argv, 127, "", "pvs: not found"))
    with pytest.raises(StepFailed, match="LVM cannot be asked"):
        blockdevices.volume_groups(layout(dev("sda", "disk", fstype="LVM2_member")))


def test_layered_scratch_is_refused_by_the_policies_that_promise_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries, _ = LAYOUTS["scratch on LVM is emptied, not made anew"]
    before = recorded(monkeypatch, *entries)
    disks.refuse_layered(before, "quick", ["/scratch"])
    for policy in ("full", "crypto"):
        with pytest.raises(StepFailed, match=f"/scratch lies on several layers: policy {policy}"):
            disks.refuse_layered(before, policy, ["/scratch"])


def test_mapped_devices_of_a_tenant_come_down_from_the_top(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recorded(monkeypatch, SYSTEM, dev("sdb", "disk"), dev("sdc", "disk"))
    stack = dev("md9", "raid0", dev("dm-3", "lvm", dev("dm-4", "crypt")))
    tree = layout(SYSTEM, dev("sdb", "disk", stack), dev("sdc", "disk", stack))
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(disks, "run", lambda *argv, **_: ran.append(argv) or Ran(argv, 0, "", ""))
    monkeypatch.setattr(disks, "mapper", lambda device: device.name)
    step = Step("wipe")
    disks.take_apart(step, before, tree, disks.targets(before, tree, [], []))
    assert [argv[-1] for argv in ran] == ["dm-4", "dm-3", "/dev/md9"]
    assert step.removed == {"mapped devices": 3}


@pytest.mark.parametrize(
    ("facts", "programs"),
    [
        ({"fstype": "crypto_LUKS"}, ["cryptsetup"]),
        ({"tran": "nvme"}, ["nvme", "nvme"]),
        ({"tran": "sata"}, ["hdparm"]),
    ],
)
def test_crypto_never_does_less_than_asked(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any], programs: list[str]
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(erase, "run", lambda *argv, **_: ran.append(argv[0]) or Ran(argv, 1, "", "no"))
    with pytest.raises(StepFailed, match="cannot be erased by its key"):
        erase.crypto(Step("wipe"), Device("sdx", "disk", GIB, facts))
    assert ran == programs


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """A disk of 64 MiB for real."""
    monkeypatch.undo()
    if os.geteuid():
        pytest.skip("only root has loop devices")
    file = tmp_path / "disk"
    with file.open("wb") as target:
        target.truncate(64 << 20)
    made = subprocess.run(["losetup", "--show", "-f", str(file)], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    name = made.stdout.strip().removeprefix("/dev/")
    yield Device(name, "disk", 64 << 20, {"disc-max": 1})
    subprocess.run(["losetup", "-d", f"/dev/{name}"], check=False)


@pytest.mark.parametrize("policy", ["quick", "full"])
def test_a_wiped_disk_has_nothing_of_before(loop: Device, policy: str) -> None:
    node = Path(f"/dev/{loop.name}")
    subprocess.run(["mkfs.ext4", "-q", "-F", str(node)], check=True)
    marks = (0, 20 << 20, (64 << 20) - 4096)
    with node.open("r+b") as disk:
        for at in marks:
            disk.seek(at)
            disk.write(b"secret" * 100)
    step = Step("wipe")
    erase.POLICIES[policy](step, loop)
    content = node.read_bytes()
    assert b"secret" not in content
    assert content.strip(b"\0") == b""
    assert step.evidence


def test_a_recorded_scratch_disk_is_made_anew(loop: Device, tmp_path: Path) -> None:
    point = tmp_path / "scratch"
    uuid = "5f0a3c0e-9c1b-4b57-8b8e-6a2f2f0f7d11"
    row = {
        "mounted": [{"point": str(point), "partition": 0, "direct": True, "fstype": "ext4", "label": "fast",
                     "uuid": uuid, "owner": [0, 0, 0o1777]}],
        "table": "",
    }  # fmt: skip
    try:
        disks.remake(Step("wipe"), row, loop)
        assert point.is_mount()
        assert point.stat().st_mode & 0o7777 == 0o1777
        asked = ["blkid", "-p", "-o", "export", f"/dev/{loop.name}"]
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()
        assert {f"UUID={uuid}", "LABEL=fast", "TYPE=ext4"} <= set(said)
    finally:
        subprocess.run(["umount", str(point)], check=False)


def test_a_device_without_a_node_is_reached_by_its_number(
    loop: Device, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    node = Path(f"/dev/{loop.name}")
    monkeypatch.setattr(devices, "OWN", str(tmp_path / "dev"))
    number = node.stat().st_rdev
    assert devices.node(loop.name) == str(node)
    monkeypatch.setattr(devices, "number", lambda _name: (os.major(number), os.minor(number)))
    assert devices.node("loop-that-has-no-node") == str(tmp_path / "dev" / "loop-that-has-no-node")
