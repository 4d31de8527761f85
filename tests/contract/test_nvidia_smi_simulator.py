"""The simulated nvidia-smi against recordings of the real one.

The recordings are not part of this repository: IRONYARD_CONTRACTS names the folder that holds `nvidia-smi/`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.lab.simulated import Simulated

ROOT = Path(__file__).parents[2]
RECORDINGS = Path(os.environ.get("IRONYARD_CONTRACTS", ROOT.parent / "shared" / "contracts")) / "nvidia-smi"

pytestmark = pytest.mark.skipif(
    not RECORDINGS.is_dir(),
    reason=f"no recordings in {RECORDINGS}; set IRONYARD_CONTRACTS to the folder that holds nvidia-smi/",
)

H100, H100_MIG, L40S = "*nvidia-h100-80gb-hbm3__*", "*nvidia-h100-mig__*", "*nvidia-l40s__*"
PROCESS = ("use", "--memory", "512", "--", "sleep", "60")


def section(capture: str, phase: str, command: str) -> tuple[str, str]:
    """The command line of one section of a capture (matched by its start), and what it printed."""
    (path,) = (RECORDINGS / "captures").glob(capture)
    pattern = rf"^# {phase} :: [^\n]*\n# \$ (nvidia-smi {re.escape(command)}[^\n]*)\n#+\n(.*?)\n*(?=^####|\Z)"
    found = re.search(pattern, path.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{capture} has no section {phase} {command}"
    return found[1], found[2] + "\n"


def recorded_xml(name: str) -> ET.Element:
    return ET.parse(RECORDINGS / "telegraf" / name).getroot()


def paths(element: ET.Element, prefix: str = "") -> Iterator[str]:
    here = f"{prefix}/{element.tag}"
    yield here
    for child in element:
        yield from paths(child, here)


def shape(text: str) -> str:
    """The text with each number and each id replaced, so that only its form is left."""
    text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<uuid>", text)
    text = re.sub(r"\b[0-9A-F]{8}:[0-9A-F]{2}:[0-9A-F]{2}\.\d\b", "<bus>", text)
    text = re.sub(r"0x[0-9A-Fa-f]+", "<hex>", text)
    text = re.sub(r"^[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d [\d:]{8} \d{4}$", "<date>", text)
    return re.sub(r"-?\d+", "#", text)


@pytest.fixture
def h100(tmp_path: Path) -> Iterator[Simulated]:
    """One H100 that a process uses, so that every part of the output has something to show."""
    simulated = Simulated(tmp_path, "h100-sxm", 1)
    with simulated.start("nvidia_sim.py", *PROCESS) as process:
        while not simulated.smi("--query-compute-apps=pid", "--format=csv,noheader"):
            assert process.poll() is None
        yield simulated
        process.kill()


@pytest.fixture
def l40s(tmp_path: Path) -> Simulated:
    return Simulated(tmp_path, "l40s", 1, nvlink=False)


def test_xml_has_exactly_the_elements_of_its_generation(h100: Simulated) -> None:
    recorded, simulated = set(paths(recorded_xml("rtx-4000-sff-ada-v13.xml"))), set(paths(h100.xml()))
    assert simulated == recorded


def test_xml_keeps_the_order_of_elements(h100: Simulated) -> None:
    recorded, simulated = recorded_xml("rtx-4000-sff-ada-v13.xml"), h100.xml()
    for path in sorted({p.removeprefix("/nvidia_smi_log/") for p in paths(recorded)} - {"/nvidia_smi_log"}):
        ours, theirs = simulated.find(path), recorded.find(path)
        assert ours is not None
        assert theirs is not None
        assert list(dict.fromkeys(c.tag for c in ours)) == list(dict.fromkeys(c.tag for c in theirs)), path


def test_xml_of_mig_devices_has_the_elements_recorded_on_a_mig_machine(tmp_path: Path) -> None:
    """The v13 recording has no MIG device; the v12 one has, and newer text output still shows it all."""
    simulated = Simulated(tmp_path, "a100-sxm", 1)
    simulated.smi("-mig", "1")
    simulated.smi("mig", "-cgi", "14,14", "-C")
    recorded = recorded_xml("a100-sxm4-v12.xml")
    mig = "gpu/mig_devices"
    ours, theirs = simulated.xml().find(mig), recorded.find(mig)
    assert ours is not None
    assert theirs is not None
    assert set(paths(ours)) == set(paths(theirs))
    assert [r.text for r in (simulated.xml().find("gpu/remapped_rows"),) if r is not None] == ["N/A"]
    remapped = recorded.find("gpu/remapped_rows")
    assert remapped is not None
    assert remapped.text == "N/A"


def test_xml_document_type_and_header(h100: Simulated) -> None:
    text = (RECORDINGS / "telegraf" / "rtx-4000-sff-ada-v13.xml").read_text()
    assert h100.smi("-q", "-x").splitlines()[:3] == text.splitlines()[:3]


UNKNOWN = {"N/A", "Requested functionality has been deprecated"}
# the machines of the XML recordings say N/A here (ECC off, no MIG, no fabric); text recordings show values
SHOWN_AS_TEXT = {
    "product_name", "product_architecture", "current_mig", "pending_mig", "vbios_version",
    "gpu_part_number", "c2c_mode", "sram_uncorrectable_parity",
    "sram_uncorrectable_secded", "sram_threshold_exceeded", "sram_l2",
    "sram_sm", "sram_microcontroller", "sram_pcie", "sram_other", "edpp_multiplier",
    "unrepairable_memory",
    "gpu_temp_max_mem_tlimit_threshold", "state", "status", "cliqueId", "clusterUuid",
}  # fmt: skip
HEXADECIMAL = {"pci_bus", "pci_sub_system_id"}
HOSTS_OWN = {"process_name"}


def test_xml_values_have_the_recorded_form(h100: Simulated) -> None:
    recorded: dict[str, set[str]] = {}
    for path in (RECORDINGS / "telegraf").glob("*.xml"):
        for element in ET.parse(path).getroot().iter():
            recorded.setdefault(element.tag, set()).add(shape((element.text or "").strip()))
    texts = "".join(section(capture, "idle", "-q")[1] for capture in (H100, L40S))
    shown = {shape(line.partition(" : ")[2]) for line in texts.splitlines()}
    for element in h100.xml().iter():
        tag, text = element.tag, (element.text or "").strip()
        if tag in HEXADECIMAL:
            assert re.fullmatch(r"[0-9A-F]+", text)
        elif tag not in HOSTS_OWN and text not in UNKNOWN:
            assert shape(text) in recorded[tag] | (shown if tag in SHOWN_AS_TEXT else set()), f"{tag}: {text}"


def names(help_text: str) -> set[str]:
    lines = [line for line in help_text.splitlines() if re.fullmatch(r'"[\w.]+"( or "[\w.]+")*', line)]
    return {name for line in lines for name in re.findall(r'"([\w.]+)"', line)}


def test_query_fields_are_exactly_those_of_the_driver(l40s: Simulated) -> None:
    _, recorded = section(L40S, "capabilities", "--help-query-gpu")
    assert names(l40s.smi("--help-query-gpu")) == names(recorded)


def test_every_field_and_alias_can_be_queried(l40s: Simulated) -> None:
    _, recorded = section(L40S, "capabilities", "--help-query-gpu")
    fields = sorted(names(recorded))
    assert len(l40s.query(",".join(fields))[0]) == len(fields)


# where a value differs in kind from the recorded GPU's: the host's own texts and counters
OTHER = {
    "driver_version",
    "kmd_version",
    "inforom.img",
    "name",
    "vbios_version",
    "persistence_mode",
    "accounting.mode",
    "pstate",
}
BUSY = {"utilization", "clocks_event_reasons"}


@pytest.mark.parametrize(("model", "capture"), [("l40s", L40S), ("h100-sxm", H100)])
def test_query_prints_the_recorded_header_and_forms(tmp_path: Path, model: str, capture: str) -> None:
    command, recorded = section(capture, "idle", "--query-gpu=")
    asked = re.sub(r"power_smoothing[\w.]*,", "", command).split("=")[1].split(" ")[0]
    header, row = (line.split(", ") for line in recorded.splitlines())
    kept = [n for n, title in enumerate(header) if not title.startswith("power_smoothing")]
    simulated = Simulated(tmp_path, model, 1)
    ours = simulated.smi(f"--query-gpu={asked}", "--format=csv").splitlines()
    assert ours[0].split(", ") == [header[n] for n in kept]
    for title, said, expected in zip(
        ours[0].split(", "), ours[1].split(", "), [row[n] for n in kept], strict=True
    ):
        if title not in OTHER and title.split(".")[0] not in BUSY:
            assert shape(said) == shape(expected), title


FACTS = (
    "name,pci.device_id,pci.sub_device_id,vbios_version,inforom.img,inforom.ecc,memory.total,memory.reserved,"
    "memory.free,power.default_limit,power.min_limit,power.max_limit,clocks.max.sm,clocks.max.memory,compute_cap,"
    "remapped_rows.histogram.max,ecc.mode.current,mig.mode.current,pcie.link.gen.max,addressing_mode"
)


@pytest.mark.parametrize(("model", "capture"), [("l40s", L40S), ("h100-sxm", H100)])
def test_what_a_model_says_of_itself_is_what_was_recorded(tmp_path: Path, model: str, capture: str) -> None:
    _, recorded = section(capture, "idle", "--query-gpu=")
    header, row = (line.split(", ") for line in recorded.splitlines())
    values = {title.partition(" [")[0]: value for title, value in zip(header, row, strict=True)}
    asked = FACTS.split(",")
    ours = (
        Simulated(tmp_path, model, 1).smi(f"--query-gpu={FACTS}", "--format=csv,noheader").strip().split(", ")
    )
    assert dict(zip(asked, ours, strict=True)) == {name: values[name] for name in asked}


def test_units_can_be_left_out(l40s: Simulated) -> None:
    asked = "memory.total,power.limit,temperature.gpu"
    assert l40s.smi(f"--query-gpu={asked}", "--format=csv,nounits").splitlines() == [
        "memory.total, power.limit, temperature.gpu",
        "46068, 350.00, 34",
    ]


def test_an_unknown_field_is_refused(l40s: Simulated) -> None:
    code, said = l40s.try_smi("--query-gpu=index,colour", "--format=csv")
    assert (code, said) == (2, 'Field "colour" is not a valid field to query.\n\n')


def test_compute_apps_print_the_recorded_header_and_rows(h100: Simulated) -> None:
    command, recorded = section(H100, "load", "--query-compute-apps=")
    asked = command.split("=")[1].split(" ")[0]
    ours = h100.smi(f"--query-compute-apps={asked}", "--format=csv").splitlines()
    theirs = recorded.splitlines()
    assert ours[0] == theirs[0]
    without_name = [re.sub(r", [^,]*, # MiB$", "", shape(row)) for row in (ours[1], theirs[1])]
    assert without_name[0] == without_name[1]


def test_list_names_gpus_as_recorded(h100: Simulated) -> None:
    _, recorded = section(H100, "capabilities", "-L")
    assert shape(h100.smi("-L")) == shape(recorded)


def test_list_names_mig_devices_as_recorded(tmp_path: Path) -> None:
    _, recorded = section(H100_MIG, "capabilities", "-L")
    simulated = Simulated(tmp_path, "h100-sxm", 1)
    simulated.smi("-mig", "1")
    simulated.smi("mig", "-cgi", "9,14,19,19", "-C")
    exact = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
    assert exact.sub("<uuid>", simulated.smi("-L")) == exact.sub("<uuid>", recorded)


def test_summary_table_has_the_recorded_columns(h100: Simulated) -> None:
    _, recorded = section(H100, "load", "")
    ours, theirs = h100.smi().splitlines()[1:], recorded.splitlines()[1:]
    fixed = [line for line in theirs if not re.search(r"\d", line)]
    assert fixed == [line for line in ours if not re.search(r"\d", line)]
    assert {len(line) for line in ours} == {len(line) for line in theirs}
    bars = [[m.start() for m in re.finditer(r"\|", line)] for line in ours if line]
    assert all(row in [[m.start() for m in re.finditer(r"\|", line)] for line in theirs] for row in bars)


def test_version_is_printed_as_recorded(l40s: Simulated) -> None:
    _, recorded = section(L40S, "capabilities", "--version")
    assert l40s.smi("--version") == recorded


@pytest.mark.parametrize(("model", "capture"), [("l40s", L40S), ("h100-sxm", H100)])
def test_nvlinks_are_listed_as_recorded(tmp_path: Path, model: str, capture: str) -> None:
    _, recorded = section(capture, "capabilities", "nvlink -s")
    simulated = Simulated(tmp_path, model, 1)
    assert re.sub(r"GPU-[-\w]+", "", simulated.smi("nvlink", "-s")) == re.sub(r"GPU-[-\w]+", "", recorded)


def test_topology_has_the_recorded_matrix(h100: Simulated) -> None:
    _, recorded = section(H100, "capabilities", "topo -m")
    assert [shape(line) for line in h100.smi("topo", "-m").splitlines()[:3]] == [
        shape(line) for line in recorded.splitlines()[:3]
    ]


def test_lspci_lists_the_gpus_as_recorded(tmp_path: Path) -> None:
    recorded = (RECORDINGS / "gpud" / "lspci-nn-a100.txt").read_text().splitlines()
    expected = {line.partition(" ")[2] for line in recorded if "3D controller" in line}
    ours = Simulated(tmp_path, "a100-sxm", 4).lspci("-Dnn").splitlines()
    assert {line.partition(" ")[2] for line in ours} == expected
    assert all(re.match(r"[0-9a-f]{4}:[0-9a-f]{2}:00\.0 ", line) for line in ours)
