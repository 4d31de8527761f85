"""`--query-gpu` and `--query-compute-apps` as CSV."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

from .fields import APP_FIELDS, GPU_FIELDS, Field, index
from .models import DRIVER
from .reading import DEPRECATED, NA, REASONS, read
from .state import Gpu, Machine
from .xmlout import gpu_nodes


class UnknownField(Exception):
    """A field which cannot be queried; the message is nvidia-smi's own."""


def now() -> str:
    return dt.datetime.now().strftime("%Y/%m/%d %H:%M:%S.%f")[:-3]  # noqa: DTZ005 - the tool prints local time


def flatten(nodes: Any, prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, content in nodes:
        if isinstance(content, list):
            flat |= flatten(content, f"{prefix}{name}/")
        else:
            flat.setdefault(f"{prefix}{name}", str(content))
    return flat


def _bracketed(text: str) -> str:
    return f"[{text}]" if text in (NA, DEPRECATED) else text


def _ecc(gpu: Gpu, severity: str, span: str, place: str) -> str:
    if not gpu.state["ecc_current"]:
        return "[N/A]"
    counts = gpu.state[span]
    kinds = {
        "corrected": (("sram_correctable",), ("dram_correctable",)),
        "uncorrected": (
            ("sram_uncorrectable_parity", "sram_uncorrectable_secded"),
            ("dram_uncorrectable",),
        ),
    }[severity]
    sram, dram = (sum(counts[kind] for kind in group) for group in kinds)
    value = {"device_memory": dram, "dram": dram, "sram": sram, "total": sram + dram}.get(place)
    return "[N/A]" if value is None else str(value)


Own = Callable[[dict[str, str], Machine, Gpu, Field, list[str]], str]

OWN: dict[str, Own] = {
    "timestamp": lambda x, m, g, f, a: now(),
    "driver": lambda x, m, g, f, a: DRIVER,
    "count": lambda x, m, g, f, a: str(len(m.gpus)),
    "index": lambda x, m, g, f, a: str(g.index),
    "valid": lambda x, m, g, f, a: "valid",
    "zero": lambda x, m, g, f, a: "0 us",
    "deprecated": lambda x, m, g, f, a: f"[{DEPRECATED}]",
    "enabled": lambda x, m, g, f, a: "Enabled",
    "blank": lambda x, m, g, f, a: "",
    "none": lambda x, m, g, f, a: "0",
    "one": lambda x, m, g, f, a: "1",
    "peer": lambda x, m, g, f, a: "Direct Connected",
    "guid": lambda x, m, g, f, a: "0x0000000000000000",
    "capability": lambda x, m, g, f, a: g.model.compute_capability,
    "raw": lambda x, m, g, f, a: x[a[0]],
    "0x": lambda x, m, g, f, a: f"0x{x[a[0]]}",
    "x": lambda x, m, g, f, a: x[a[0]].removesuffix("x"),
    "degrees": lambda x, m, g, f, a: x[a[0]].removesuffix(" C"),
    "mode": lambda x, m, g, f, a: x[a[0]],
    "edpp": lambda x, m, g, f, a: _bracketed(x[a[0]].replace("%", " %")),
    "bank": lambda x, m, g, f, a: x.get(
        f"remapped_rows/row_remapper_histogram/row_remapper_histogram_{a[0]}", "[N/A]"
    ).split()[0],
    "ecc": lambda x, m, g, f, a: _ecc(g, *a),
    "reason": lambda x, m, g, f, a: read(m, g)["reasons"][f.name.rpartition(".")[2]],
    "supported": lambda x, m, g, f, a: f"0x{2 ** len(REASONS) - 1:016X}",
    "active": lambda x, m, g, f, a: f"0x{read(m, g)['reason_bits']:016X}",
}


def _value(xml: dict[str, str], machine: Machine, gpu: Gpu, field: Field) -> str:
    if not field.source:
        return "[N/A]"
    if field.source.startswith("="):
        name, *arguments = field.source[1:].split()
        return OWN[name](xml, machine, gpu, field, arguments)
    return _bracketed(xml.get(field.source, NA))


def _choose(asked: str, fields: list[Field]) -> list[Field]:
    known = index(fields)
    chosen = []
    for name in (part.strip() for part in asked.split(",")):
        if name not in known:
            raise UnknownField(f'Field "{name}" is not a valid field to query.\n\n')
        chosen.append(known[name])
    return chosen


def _print(fields: list[Field], rows: list[list[str]], options: set[str]) -> str:
    units = "nounits" not in options
    lines = []
    if "noheader" not in options:
        lines.append(", ".join(f"{f.name} [{f.unit}]" if f.unit and units else f.name for f in fields))
    for row in rows:
        cells = [
            v.removesuffix(f" {f.unit}") if f.unit and not units else v
            for f, v in zip(fields, row, strict=True)
        ]
        lines.append(", ".join(cells))
    return "".join(f"{line}\n" for line in lines)


def query_gpu(machine: Machine, gpus: list[Gpu], asked: str, options: set[str]) -> str:
    fields = _choose(asked, GPU_FIELDS)
    rows = []
    for gpu in gpus:
        xml = flatten(gpu_nodes(machine, gpu))
        rows.append([_value(xml, machine, gpu, field) for field in fields])
    return _print(fields, rows, options)


def query_apps(machine: Machine, gpus: list[Gpu], asked: str, options: set[str]) -> str:
    fields = _choose(asked, APP_FIELDS)
    rows = []
    for gpu in gpus:
        for p in machine.processes(gpu):
            values = {
                "timestamp": now(),
                "name": gpu.model.name,
                "bus": gpu.smi_bus,
                "serial": gpu.serial,
                "uuid": gpu.uuid,
                "pid": str(p["pid"]),
                "process": p["name"],
                "memory": f"{p['memory']} MiB",
            }
            rows.append([values[field.source] for field in fields])
    return _print(fields, rows, options)
