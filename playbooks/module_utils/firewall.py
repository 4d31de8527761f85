"""Packet filters: every rule of iptables (nft and legacy) and nftables as recorded, whoever put it there."""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import Any

from ansible.module_utils import nftables
from ansible.module_utils.steps import SEARCH_PATH, Step, StepFailed, run

# Where a distribution has only one variant, its plain name is that variant.
SAVERS = (
    ("iptables-nft-save", "iptables-nft-restore"),
    ("ip6tables-nft-save", "ip6tables-nft-restore"),
    ("iptables-legacy-save", "iptables-legacy-restore"),
    ("ip6tables-legacy-save", "ip6tables-legacy-restore"),
)
COMPATIBLE = {f"{family} {name}" for family in ("ip", "ip6") for name in
              ("filter", "nat", "mangle", "raw", "security")}  # fmt: skip
# Ports of an engine's resolver (127.0.0.11) are drawn when a container starts.
EPHEMERAL = re.compile(r"(127\.0\.0\.11:|127\.0\.0\.11/32 .*--sport )\d+")
# An engine that starts again puts its jumps into these in another order.
UNORDERED = re.compile(
    r"^(FORWARD|PREROUTING|OUTPUT|POSTROUTING|DOCKER.*|KUBE-.*|CNI-.*|NETAVARK.*|LIBVIRT.*)$"
)
Rules = dict[str, dict[str, Any]]


def record() -> dict[str, Any]:
    return {
        "tables": nftables.tables(),
        "rules": {saver: parse(_save(saver)) for saver, _ in SAVERS if _has(saver)},
        "nft": _nft(),
        "sets": _sets(),
    }


def _has(program: str) -> bool:
    return shutil.which(program, path=SEARCH_PATH) is not None


def _save(saver: str) -> str:
    ran = run(saver, timeout=30)
    if not ran.ok:
        raise StepFailed(f"the packet filter cannot be read with {saver}", [ran.tail()])
    return ran.out


def _nft() -> dict[str, str]:
    """The text of every table that is not iptables' own, without counters and handles."""
    if not _has("nft"):
        return {}
    found = {}
    for table in nftables.tables():
        if table not in COMPATIBLE:
            found[table] = run("nft", "--stateless", "list", "table", *table.split(" ", 1)).out
    return found


def _sets() -> list[str]:
    return sorted(run("ipset", "list", "-n").out.split()) if _has("ipset") else []


def parse(text: str) -> Rules:
    """By table: the chains with their policies, and by chain the rules in order, as iptables-save prints."""
    tables: Rules = {}
    here: dict[str, Any] = {}
    for line in text.splitlines():
        if line.startswith("*"):
            here = tables.setdefault(line[1:], {"chains": {}, "rules": {}})
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            here["chains"][name] = policy
        elif line.startswith("-A "):
            here["rules"].setdefault(line.split()[1], []).append(line)
    return tables


def normal(rule: str) -> str:
    return EPHEMERAL.sub(r"\1#", rule)


def foreign_tables(before: dict[str, Any]) -> list[str]:
    """Tables that enrolment did not see; an empty one of iptables' own is made by mere looking."""
    now = set(nftables.tables()) - set(before["tables"])
    return sorted(now - (COMPATIBLE - _filled()))


def _filled() -> set[str]:
    found = set()
    for saver, family in (("iptables-nft-save", "ip"), ("ip6tables-nft-save", "ip6")):
        tables = parse(_save(saver)) if _has(saver) else {}
        found |= {f"{family} {name}" for name, table in tables.items() if not _idle(table)}
    return found


def _idle(table: dict[str, Any]) -> bool:
    return not table["rules"] and set(table["chains"].values()) <= {"ACCEPT"}


def differences(before: Rules, now: Rules) -> dict[str, list[str]]:
    """By table the chains whose policy or rules are not as recorded; a table of pure ACCEPT is none."""
    found: dict[str, list[str]] = {}
    for name in sorted(before.keys() | now.keys()):
        empty: dict[str, Any] = {"chains": {}, "rules": {}}
        was, is_ = before.get(name, empty), now.get(name, empty)
        chains = [chain for chain in sorted(was["chains"].keys() | is_["chains"].keys())
                  if not _same(was, is_, chain)]  # fmt: skip
        if chains:
            found[name] = chains
    return found


def _same(was: dict[str, Any], is_: dict[str, Any], chain: str) -> bool:
    policies = {was["chains"].get(chain, "ACCEPT"), is_["chains"].get(chain, "ACCEPT")}
    rules = [list(map(normal, table["rules"].get(chain, []))) for table in (was, is_)]
    if UNORDERED.match(chain):
        rules = [sorted(one) for one in rules]
    return len(policies) == 1 and rules[0] == rules[1]


def findings(before: dict[str, Any]) -> list[str]:
    found = [f"packet filter table {table} is not in the manifest" for table in foreign_tables(before)]
    gone = set(before["tables"]) - set(nftables.tables()) - COMPATIBLE
    found += [f"packet filter table {table} is gone" for table in sorted(gone)]
    for saver, rules in before["rules"].items():
        for table, chains in differences(rules, parse(_save(saver))).items():
            found.append(f"{saver[:-5]} {table}: {', '.join(chains)} differ from the manifest")
    now = _nft()
    found += [f"nftables {table} differs from the manifest" for table, text in before["nft"].items()
              if now.get(table) != text and table not in gone]  # fmt: skip
    return found + [f"IP set {name} is not in the manifest" for name in _sets() if name not in before["sets"]]


def clean(step: Step, before: dict[str, Any]) -> None:
    """Rules back to the record, one atomic change a table, so that our own connection never is without."""
    for table in foreign_tables(before):
        step.gone("packet filter tables", table)
        if not step.check:
            with contextlib.suppress(OSError):
                nftables.delete(table)
    for saver, restorer in SAVERS:
        if saver in before["rules"]:
            restore_rules(step, saver, restorer, before["rules"][saver])
    restore_nft(step, before)
    left = [] if step.check else findings(before)
    if left:
        raise StepFailed(f"the packet filter is not as recorded: {left[0]}", left)


def restore_nft(step: Step, before: dict[str, Any]) -> None:
    now = _nft()
    for table, text in before["nft"].items():
        if now.get(table) != text:
            step.gone("packet filter rules", table)
            if not step.check:
                run("nft", "-f", "-", feed=f"table {table}\ndelete table {table}\n{text}")
    for name in _sets():
        if name not in before["sets"]:
            step.gone("IP sets", name)
            if not step.check:
                run("ipset", "destroy", name)


def restore_rules(step: Step, saver: str, restorer: str, before: Rules) -> None:
    now = parse(_save(saver))
    for table, chains in differences(before, now).items():
        step.gone("packet filter rules", f"{saver[:-5]} {table}: {', '.join(chains)}", len(chains))
        if not step.check:
            run(restorer, "--noflush", feed=script(table, chains, before, now))


def script(table: str, chains: list[str], before: Rules, now: Rules) -> str:
    """What iptables-restore has to read so that these chains are as recorded and foreign ones are gone."""
    empty: dict[str, Any] = {"chains": {}, "rules": {}}
    was, is_ = before.get(table, empty), now.get(table, empty)
    present = {normal(rule): rule for rules in is_["rules"].values() for rule in rules}
    lines = [f"*{table}"]
    foreign = [chain for chain in chains if chain not in was["chains"] and is_["chains"].get(chain) == "-"]
    for chain in chains:
        policy = was["chains"].get(chain, "-" if chain in foreign else "ACCEPT")
        lines += [f":{chain} {policy} [0:0]", f"-F {chain}"]
    for chain in chains:
        lines += [present.get(normal(rule), rule) for rule in was["rules"].get(chain, [])]
    lines += [f"-X {chain}" for chain in foreign]
    return "\n".join([*lines, "COMMIT", ""])
