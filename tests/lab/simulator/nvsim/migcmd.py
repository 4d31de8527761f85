"""`nvidia-smi mig …`: profiles, GPU instances and compute instances."""

from __future__ import annotations

from collections.abc import Iterator

from . import mig
from .models import MigProfile
from .settings import IN_USE, USAGE, Refused
from .state import Gpu, Machine

NOT_FOUND = 6
INSUFFICIENT = 1


def options(arguments: list[str]) -> dict[str, str]:
    """The subcommand's options; a switch without a value holds an empty text."""
    found: dict[str, str] = {}
    name = ""
    for argument in arguments:
        if argument.startswith("-"):
            name, _, value = argument.partition("=")
            found[name] = value
        elif name:
            found[name] = argument
    return found


def run(machine: Machine, gpus: list[Gpu], arguments: list[str]) -> str:
    asked = options(arguments)
    enabled = [g for g in gpus if g.mig_enabled]
    commands = {
        "-lgip": _profiles,
        "-lgi": _instances,
        "-cgi": _create,
        "-dgi": _destroy,
        "-lci": _compute_instances,
        "-cci": _create_compute,
        "-dci": _destroy_compute,
    }
    for name, command in commands.items():
        if name in asked:
            if not enabled:
                raise Refused("No MIG-enabled devices found.\n", NOT_FOUND)
            return "".join(command(machine, enabled, asked))
    raise Refused("Invalid combination of input arguments. Please run 'nvidia-smi mig -h' for help.\n", USAGE)


def _profiles(machine: Machine, gpus: list[Gpu], asked: dict[str, str]) -> Iterator[str]:
    line = "+" + "-" * 79 + "+\n"
    yield line
    yield "| GPU instance profiles:".ljust(80) + "|\n"
    yield "| GPU   Name               ID    Instances   Memory     P2P    SM    DEC   ENC  |\n"
    yield "|                                Free/Total   GiB              CE    JPEG  OFA  |\n"
    yield line.replace("-", "=").replace("+", "|")
    for gpu in gpus:
        for p in gpu.model.mig:
            limit = 1 if p.name.endswith("+me") else min(7 // p.compute_slices, 8 // p.memory_slices)
            free = f"{mig.room(gpu, p)}/{limit}"
            yield (
                f"| {gpu.index:>3}  MIG {p.name:<13} {p.id:>4}  {free:>7}  {p.memory / 1024:>10.2f}"
                f"{'No':>8}{p.multiprocessors:>7}{p.decoders:>5}{0:>6}   |\n"
            )
            yield f"|{'':60}{p.copy_engines:>5}{p.jpegs:>5}{p.ofas:>6}   |\n"
        yield line


def _wanted(gpu: Gpu, asked: str) -> list[MigProfile]:
    chosen = []
    for name in asked.split(","):
        found = mig.profile(gpu, name)
        if found is None:
            raise Refused(f"Failed to create GPU instances: Invalid Argument (profile {name})\n", USAGE)
        chosen.append(found)
    return chosen


def _create(machine: Machine, gpus: list[Gpu], asked: dict[str, str]) -> Iterator[str]:
    for gpu in gpus:
        for p in _wanted(gpu, asked["-cgi"]):
            try:
                number = mig.create(gpu, p, compute="-C" in asked)
            except ValueError as error:
                raise Refused(
                    f"Unable to create a GPU instance on GPU {gpu.index:>2} using profile {p.id}: {error}\n"
                    f"Failed to create GPU instances: {error}\n",
                    NOT_FOUND,
                ) from error
            yield (
                f"Successfully created GPU instance ID {number:>2} on GPU {gpu.index:>2} "
                f"using profile MIG {p.name} (ID {p.id:>2})\n"
            )
            if "-C" in asked:
                yield _created_compute(gpu, number, p)


def _created_compute(gpu: Gpu, number: int, p: MigProfile) -> str:
    return (
        f"Successfully created compute instance ID  0 on GPU {gpu.index:>2} "
        f"GPU instance ID {number:>2} using profile MIG {p.name} (ID {p.id:>2})\n"
    )


def _instances(machine: Machine, gpus: list[Gpu], asked: dict[str, str]) -> Iterator[str]:
    if not any(g.state["instances"] for g in gpus):
        raise Refused("No GPU instances found: Not Found\n", NOT_FOUND)
    line = "+" + "-" * 57 + "+\n"
    yield line + "| GPU instances:".ljust(58) + "|\n"
    yield "| GPU   Name               Profile  Instance   Placement  |\n"
    yield "|                            ID       ID       Start:Size |\n"
    yield line.replace("-", "=").replace("+", "|")
    for gpu in gpus:
        for i in gpu.state["instances"]:
            p = mig.profile(gpu, i["profile"])
            assert p is not None
            place = f"{i['id'] % 7}:{p.memory_slices}"
            yield f"| {gpu.index:>3}  MIG {p.name:<14} {p.id:>6} {i['id']:>8} {place:>12}      |\n" + line


def _compute_instances(machine: Machine, gpus: list[Gpu], asked: dict[str, str]) -> Iterator[str]:
    rows = [(g, d) for g in gpus for d in mig.devices(g)]
    if not rows:
        raise Refused("No compute instances found: Not Found\n", NOT_FOUND)
    line = "+" + "-" * 68 + "+\n"
    yield line + "| Compute instances:".ljust(69) + "|\n"
    yield "| GPU     GPU       Name             Profile   Instance   Placement  |\n"
    yield "|       Instance                       ID        ID       Start:Size |\n"
    yield line.replace("-", "=").replace("+", "|")
    for gpu, d in rows:
        place = f"0:{d.profile.compute_slices}"
        yield (
            f"| {gpu.index:>3} {d.instance:>6}       MIG {d.profile.name:<13}{d.profile.id:>5}"
            f"{d.compute:>10}{place:>13}      |\n" + line
        )


def _chosen(gpu: Gpu, asked: str | None) -> list[dict[str, object]]:
    numbers = set(asked.split(",")) if asked else None
    return [i for i in gpu.state["instances"] if numbers is None or str(i["id"]) in numbers]


def _create_compute(machine: Machine, gpus: list[Gpu], asked: dict[str, str]) -> Iterator[str]:
    for gpu in gpus:
        for i in _chosen(gpu, asked.get("-gi")):
            p = mig.profile(gpu, str(i["profile"]))
            assert p is not None
            i["compute"] = True
            yield _created_compute(gpu, int(str(i["id"])), p)


def _busy(machine: Machine, gpu: Gpu, number: object) -> bool:
    return any(p["instance"] == number for p in machine.processes(gpu))


def _destroy_compute(machine: Machine, gpus: list[Gpu], asked: dict[str, str]) -> Iterator[str]:
    chosen = [(g, i) for g in gpus for i in _chosen(g, asked.get("-gi")) if i["compute"]]
    if not chosen:
        raise Refused("No compute instances found: Not Found\n", NOT_FOUND)
    for gpu, i in chosen:
        where = f"compute instance ID  0 from GPU {gpu.index:>2} GPU instance ID {i['id']:>2}"
        if _busy(machine, gpu, i["id"]):
            raise Refused(
                f"Unable to destroy {where}: In use by another client\n"
                "Failed to destroy compute instances: In use by another client\n",
                IN_USE,
            )
        i["compute"] = False
        yield f"Successfully destroyed {where}\n"


def _destroy(machine: Machine, gpus: list[Gpu], asked: dict[str, str]) -> Iterator[str]:
    chosen = [(g, i) for g in gpus for i in _chosen(g, asked.get("-gi") or asked["-dgi"])]
    if not chosen:
        raise Refused("No GPU instances found: Not Found\n", NOT_FOUND)
    for gpu, i in chosen:
        where = f"GPU instance ID {i['id']:>2} from GPU {gpu.index:>2}"
        if i["compute"]:
            raise Refused(
                f"Unable to destroy {where}: In use by another client\n"
                "Failed to destroy GPU instances: In use by another client\n",
                IN_USE,
            )
        gpu.state["instances"].remove(i)
        yield f"Successfully destroyed {where}\n"
