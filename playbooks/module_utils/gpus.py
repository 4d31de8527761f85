"""Putting GPUs back to the manifest's settings, and saying where they differ from it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

from ansible.module_utils import machine, nvidia_smi, processes
from ansible.module_utils.steps import Ran, Step, StepFailed, run

Gpu = dict[str, Any]
BUSY = re.compile(r"in use|running process|active process|being used", re.IGNORECASE)
UNSUPPORTED = re.compile(
    r"not supported|unsupported|not available|primary gpu|insufficient permission", re.IGNORECASE
)
RESTORED = (
    "mig_mode",
    "ecc_mode",
    "compute_mode",
    "persistence_mode",
    "power_limit_watts",
    "application_clocks",
)
FIXED = ("pci_address", "vbios")


def restore(step: Step, manifest: dict[str, Any], *, reset: bool, pause: list[str]) -> float | None:
    """The whole step; when the GPUs were reset (seconds since 1970), None when they were not.

    Raises StepFailed when a GPU is lost, busy or does not take its recorded settings.
    """
    wanted = {gpu["uuid"]: gpu for gpu in manifest["gpu"]["gpus"]}
    present = seen()
    if not wanted and not present:
        step.note("the host has no GPU")
        return None
    lost = [uuid for uuid in wanted if uuid not in {gpu["uuid"] for gpu in present}]
    if lost:
        raise StepFailed(f"{len(lost)} GPUs of the manifest are lost", lost)
    end_gpu_processes(step, manifest, present)
    pairs = [(gpu, wanted[gpu["uuid"]]) for gpu in present if gpu["uuid"] in wanted]
    for gpu, record in pairs:
        restore_mig(step, gpu, record)
        restore_switch(step, gpu, record, "ecc_mode", "-e")
    done = reset and reset_all(step, [gpu for gpu, _ in pairs], pause)
    at = time.time() if done else None
    if step.check:
        return None
    release_clocks(step)
    present = seen()  # a reading takes seconds on a large host: another one only after a change
    pairs = [(gpu, wanted[gpu["uuid"]]) for gpu in present if gpu["uuid"] in wanted]
    if any([restore_settings(step, gpu, record) for gpu, record in pairs]):  # noqa: C419 - each of them
        present = seen()
    wrong = [line for gpu in present for line in unlike(gpu, wanted.get(gpu["uuid"]), RESTORED)]
    if wrong:
        raise StepFailed("GPU settings are not as enrolment recorded them", wrong)
    return at


def seen() -> list[Gpu]:
    answer = nvidia_smi.query()
    return answer["gpus"] if answer else []


def busy(
    manifest: dict[str, Any], present: list[Gpu], *, but: list[str] | None = None
) -> tuple[list[processes.Process], list[int]]:
    """(foreign processes on GPUs that this host shows, process numbers that it does not show).

    ``but``: UUIDs of GPUs whose processes are nobody's business here.
    """
    running = processes.scan()
    found, hidden = _held(manifest, present, running, but)
    if hidden:  # one that has ended since the reading is not hidden
        present = seen()
        found, hidden = _held(manifest, present, {**running, **processes.scan()}, but)
    return found, hidden


def _held(
    manifest: dict[str, Any],
    present: list[Gpu],
    running: dict[int, processes.Process],
    but: list[str] | None,
) -> tuple[list[processes.Process], list[int]]:
    looked_at = [gpu for gpu in present if gpu["uuid"] not in (but or ())]
    numbers = sorted({pid for gpu in looked_at for pid in gpu["processes"] if pid})
    outsiders = {process.pid for process in processes.foreign(running, manifest)}
    return [running[pid] for pid in numbers if pid in outsiders], [
        pid for pid in numbers if pid not in running
    ]


def end_gpu_processes(step: Step, manifest: dict[str, Any], present: list[Gpu]) -> None:
    found, hidden = busy(manifest, present)
    for process in found:
        step.gone("GPU processes", str(process))
    if step.check or not (found or hidden):
        return
    processes.end(found)
    left, hidden = busy(manifest, seen())
    if left or hidden:
        raise StepFailed(
            "processes still hold a GPU",
            [str(process) for process in left]
            + [f"pid {pid} is on a GPU but not visible on the host" for pid in hidden],
        )


def restore_mig(step: Step, gpu: Gpu, record: Gpu) -> None:
    index = str(gpu["index"])
    if gpu["mig_devices"]:
        step.gone("MIG instances", f"GPU {index}: {gpu['mig_devices']}", gpu["mig_devices"])
    if gpu["mig_mode"] == "enabled" and not step.check:
        for flag in ("-dci", "-dgi"):
            gone = run("nvidia-smi", "mig", flag, "-i", index)
            if not gone.ok and BUSY.search(gone.out + gone.err):
                raise StepFailed(f"MIG instances of GPU {index} are in use", [gone.tail()])
    restore_switch(step, gpu, record, "mig_mode", "-mig")


def restore_switch(step: Step, gpu: Gpu, record: Gpu, key: str, flag: str) -> bool:
    wanted = record[key]
    pending = gpu.get(key.replace("_mode", "_pending"), wanted)
    if wanted is None or (gpu[key] == wanted and pending in (wanted, None)):
        return False
    now = gpu[key] if gpu[key] != wanted else f"{pending} after the next reset"
    change(step, gpu, f"{key} {now} -> {wanted}", flag, "1" if wanted == "enabled" else "0")
    return True


def restore_settings(step: Step, gpu: Gpu, record: Gpu) -> bool:
    """Whether anything had to be changed."""
    changed = restore_switch(step, gpu, record, "persistence_mode", "-pm")
    if record["compute_mode"] and gpu["compute_mode"] != record["compute_mode"]:
        change(
            step,
            gpu,
            f"compute mode {gpu['compute_mode']} -> {record['compute_mode']}",
            "-c",
            record["compute_mode"].upper(),
        )
        changed = True
    if record["power_limit_watts"] and gpu["power_limit_watts"] != record["power_limit_watts"]:
        change(
            step,
            gpu,
            f"power limit -> {record['power_limit_watts']} W",
            "-pl",
            f"{record['power_limit_watts']:g}",
        )
        changed = True
    clocks = record["application_clocks"]
    if clocks and gpu["application_clocks"] != clocks:
        change(step, gpu, f"application clocks -> {clocks}", "-ac", f"{clocks[1]},{clocks[0]}")
        changed = True
    return changed


def release_clocks(step: Step) -> None:
    """Locked clocks cannot be read back: those of all GPUs are always released."""
    for flag in ("-rgc", "-rmc"):
        said = run("nvidia-smi", flag)
        if not said.ok:
            step.note(f"nvidia-smi {flag}: {said.tail(120)}")


def change(step: Step, gpu: Gpu, what: str, *flags: str) -> None:
    step.did(f"GPU {gpu['index']}: {what}")
    if step.check:
        return
    said = run("nvidia-smi", "-i", str(gpu["index"]), *flags)
    if not said.ok:
        raise StepFailed(f"GPU {gpu['index']} does not take {what}", [said.tail()])


def reset_all(step: Step, present: list[Gpu], pause: list[str]) -> bool:
    """Reset all at once: GPUs joined by NVLink can only be reset together. Whether they were."""
    step.did(f"reset {len(present)} GPUs")
    if step.check:
        return False
    indices = ",".join(str(gpu["index"]) for gpu in present)
    with_pause = [name for name in pause if run("systemctl", "is-active", "--quiet", name).ok]
    for name in with_pause:
        run("systemctl", "stop", name, timeout=60)
    try:
        return judge_reset(step, run("nvidia-smi", "--gpu-reset", "-i", indices, timeout=180))
    finally:
        for name in with_pause:
            run("systemctl", "start", name, timeout=60)


def judge_reset(step: Step, said: Ran) -> bool:
    text = said.out + said.err
    if said.ok:
        return True
    if BUSY.search(text) or not UNSUPPORTED.search(text):
        raise StepFailed("the GPUs could not be reset", [said.tail()])
    step.note(f"GPU reset skipped, the hardware does not offer it: {said.tail(160)}")
    return False


def unlike(gpu: Gpu, record: Gpu | None, keys: tuple[str, ...]) -> Iterator[str]:
    for key in keys:
        if record is not None and gpu[key] != record[key]:
            yield f"GPU {gpu['index']} ({gpu['uuid']}): {key} is {gpu[key]}, enrolment recorded {record[key]}"


def findings(manifest: dict[str, Any]) -> list[str]:
    """Everything about the GPUs that differs from the manifest or could not be looked at.

    Whether they are well is for the health check to say: a sick GPU need not cost its whole host.
    """
    try:
        return list(_findings(manifest))
    except StepFailed as failed:
        return [f"GPUs could not be checked: {failed.message}", *failed.evidence]


def _findings(manifest: dict[str, Any]) -> Iterator[str]:
    answer = nvidia_smi.query()
    on_bus = machine.pci_gpus()
    wanted = {gpu["uuid"]: gpu for gpu in manifest["gpu"]["gpus"]}
    if answer is None:
        if wanted or on_bus:
            yield "GPUs could not be checked: nvidia-smi is missing"
        return
    present = {gpu["uuid"]: gpu for gpu in answer["gpus"]}
    yield from machine.lost_gpus(on_bus, answer["gpus"])
    yield from (f"GPU {uuid} of the manifest is missing" for uuid in wanted if uuid not in present)
    yield from (f"GPU {uuid} is not in the manifest" for uuid in present if uuid not in wanted)
    if answer["driver_version"] != manifest["gpu"]["driver_version"]:
        yield f"driver is {answer['driver_version']}, enrolment recorded {manifest['gpu']['driver_version']}"
    for uuid, gpu in present.items():
        yield from unlike(gpu, wanted.get(uuid), FIXED + RESTORED)
        if gpu["mig_devices"]:
            yield f"GPU {gpu['index']} has {gpu['mig_devices']} MIG instances"
    held, hidden = busy(manifest, answer["gpus"])
    yield from (f"process on a GPU: {process}" for process in held)
    yield from (f"process on a GPU that the host does not show: pid {pid}" for pid in hidden)
