"""Makes a disk forget: by discard, by overwriting, or by throwing away its key."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from ansible.module_utils import devices
from ansible.module_utils.blockdevices import Device
from ansible.module_utils.steps import Step, StepFailed, run

MIB = 1 << 20
BLOCK = 4 * MIB
EDGE = 16 * MIB  # what partition tables, file systems, LVM and RAID keep at both ends lies within
PASSWORD = "ironyard"  # noqa: S105 - ATA wants one for the time of the erasure, which removes it


def path(device: Device) -> str:
    """Its node, or StepFailed when it cannot be opened."""
    found = devices.node(device.name)
    if found is None:
        raise StepFailed(f"{device.name} cannot be opened")
    return found


def quick(step: Step, device: Device) -> None:
    """Discard everything where the disk can; both ends are overwritten in any case."""
    node = path(device)
    run("wipefs", "--all", "--force", node, timeout=60)
    discarded = (
        int(device.facts.get("disc-max") or 0) > 0 and run("blkdiscard", "--force", node, timeout=600).ok
    )
    for start in (0, max(device.size - EDGE, 0)):
        overwrite(node, start, min(EDGE, device.size))
    step.note(f"{device.name}: {'discarded, ' if discarded else ''}both ends overwritten")


def full(step: Step, device: Device) -> None:
    """Overwrite every byte with zeros; a note each tenth."""
    node, began = path(device), time.monotonic()
    tenth = max(device.size // 10, 1)

    def told(done: int) -> None:
        if done % tenth < BLOCK:
            seconds = max(time.monotonic() - began, 0.001)
            share = 100 * done // device.size
            step.note(f"{device.name}: {share} % overwritten, {done / MIB / seconds:.0f} MiB/s")

    overwrite(node, 0, device.size, told)


def overwrite(node: str, start: int, size: int, told: Callable[[int], None] | None = None) -> None:
    """Write zeros over a range and wait until the disk has them. Raises OSError."""
    zeros = memoryview(bytes(BLOCK))
    handle = os.open(node, os.O_WRONLY)
    try:
        os.lseek(handle, start, os.SEEK_SET)
        done = 0
        while done < size:
            done += os.write(handle, zeros[: min(BLOCK, size - done)])
            if told:
                told(done)
        os.fsync(handle)
    finally:
        os.close(handle)


def crypto(step: Step, device: Device) -> None:
    """Throw the disk's own key away, or LUKS's; raises StepFailed where there is none."""
    node = path(device)
    if device.facts.get("fstype") == "crypto_LUKS":
        tried = [run("cryptsetup", "erase", "--batch-mode", node, timeout=120)]
    elif device.facts.get("tran") == "nvme" or device.name.startswith("nvme"):
        tried = [run("nvme", "format", node, "--ses=2", "--force", timeout=600)]
        if not tried[0].ok:
            tried.append(run("nvme", "format", node, "--ses=1", "--force", timeout=3600))
    else:
        tried = [run("hdparm", "--user-master", "u", "--security-set-pass", PASSWORD, node, timeout=60)]
        if tried[0].ok:
            words = ("--user-master", "u", "--security-erase-enhanced", PASSWORD)
            tried.append(run("hdparm", *words, node, timeout=6 * 3600))
    if not tried[-1].ok:
        raise StepFailed(
            f"{device.name} cannot be erased by its key (policy crypto)", [ran.tail() for ran in tried]
        )
    step.note(f"{device.name}: erased by its key")
    quick(step, device)


POLICIES = {"quick": quick, "full": full, "crypto": crypto}
