"""Interfaces, addresses, routes, rules, neighbours, queues, tunnels and namespaces as recorded."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import socket
from collections.abc import Callable
from typing import Any

from ansible.module_utils import libc, pseudo
from ansible.module_utils.steps import Step, StepFailed, run

# What these lists print is, word for word, what the commands that add and delete take.
LISTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "addresses": (("ip", "-4", "-o", "addr", "show"), ("ip", "-6", "-o", "addr", "show")),
    "routes": (("ip", "-4", "route", "show", "table", "all"), ("ip", "-6", "route", "show", "table", "all")),
    "rules": (("ip", "-4", "rule", "show"), ("ip", "-6", "rule", "show")),
    "neighbours": (
        ("ip", "-4", "neigh", "show", "nud", "permanent"),
        ("ip", "-6", "neigh", "show", "nud", "permanent"),
        ("ip", "-4", "neigh", "show", "proxy"),
        ("ip", "-6", "neigh", "show", "proxy"),
    ),
    "queues": (("tc", "qdisc", "show"),),
    "transforms": (("ip", "-o", "xfrm", "policy", "show"), ("ip", "-o", "xfrm", "state", "show")),
    "nexthops": (("ip", "nexthop", "show"),),
}
FLEETING = re.compile(r"\s(linkdown|dead|offload|\[detached\]|expires \d+\S*|uid [\d-]+)(?=\s|$)")
# Given by a router for a while, or drawn by the kernel for a link.
DYNAMIC = re.compile(r"\b(dynamic|mngtmpaddr|temporary|tentative|proto (ra|redirect))\b|\bfe80:")
LOCAL = re.compile(r"^(local|broadcast|anycast|multicast) ")
QUEUE = re.compile(r"^qdisc (\S+) \S+ (?:dev (\S+) )(root|ingress|clsact|parent \S+)")
# Links of containers come and go with them; a bridge draws its address.
ENGINE_BRIDGE = re.compile(r"^(docker\d*|br-[0-9a-f]{12}|podman\d*|cni\d*|cbr\d+|virbr\d+)$")


def record() -> dict[str, Any]:
    return {"hostname": socket.gethostname(), "links": links(), **{name: listed(name) for name in LISTS}}


def listed(name: str) -> list[str]:
    """One list, tidied: what moves by itself is left out. A family that the kernel lacks is empty."""
    rows: list[str] = []
    for command in LISTS[name]:
        ran = run(*command, timeout=30)
        if not ran.ok and ran.code != 127 and "not supported" not in ran.err and ran.err.strip():
            raise StepFailed(f"{name} cannot be read", [ran.tail()])
        family = f"{command[1]} " if command[1] in ("-4", "-6") else ""
        rows += [f"{family}{tidy(name, line)}" for line in ran.out.splitlines() if keeps(name, line)]
    return sorted(rows)


def keeps(name: str, line: str) -> bool:
    if name == "queues":
        return bool(QUEUE.match(line)) and not re.search(r"dev (veth|lo\b)|^qdisc (mq|noqueue)\b", line)
    if name == "addresses" and "dynamic" in line and " inet " in line:  # DHCP renews it, and gives the same
        return True
    return not (DYNAMIC.search(line) or LOCAL.match(line) or re.search(r"\bdev veth", line))


def tidy(name: str, line: str) -> str:
    line = FLEETING.sub("", line.replace("\\", " "))
    if name == "queues":
        queue = QUEUE.match(line)
        return " ".join(queue.groups()) if queue else ""
    words = line.split()
    if name == "addresses":  # "2: eth0    inet 192.0.2.7/24 brd … scope global eth0 valid_lft …"
        return f"{words[3]} dev {words[1].split('@')[0]}"
    if name == "rules":
        return " ".join(["priority", words[0].rstrip(":"), *words[1:]])
    return " ".join(word for word in words if word != "PERMANENT")


def links() -> dict[str, dict[str, Any]]:
    """By name what an operator sets on a link; a container's end of a pair is left out."""
    ran = run("ip", "-j", "-d", "link", "show", timeout=30)
    if not ran.ok:
        raise StepFailed("network interfaces cannot be read", [ran.tail()])
    found = {}
    for link in json.loads(ran.out or "[]"):
        kind = link.get("linkinfo", {}).get("info_kind", "")
        if kind == "veth" and ENGINE_BRIDGE.match(link.get("master", "")):
            continue
        flags = set(link["flags"])
        found[link["ifname"]] = {
            "kind": kind,
            "mtu": link["mtu"],
            "master": link.get("master", ""),
            "up": "UP" in flags,
            "promiscuous": "PROMISC" in flags,
            "arp": "NOARP" not in flags,
            "xdp": "xdp" in link,
            **({} if kind == "bridge" else {"address": link.get("address", "")}),
        }
    return found


def foreign_namespaces() -> list[str]:
    """Named network namespaces, and those of engines that belong to no running container."""
    held = {"/run/docker/netns/default"}
    for engine in ("docker",):
        ids = run(engine, "ps", "-q").out.split()
        shown = run(engine, "inspect", "-f", "{{.NetworkSettings.SandboxKey}}", *ids).out if ids else ""
        held |= {path.replace("/var/run/", "/run/") for path in shown.split()}
    there = [*glob.glob("/run/netns/*"), *glob.glob("/run/docker/netns/*")]
    return sorted(path for path in there if path not in held)


def findings(before: dict[str, Any]) -> list[str]:
    now = record()
    found = []
    if now["hostname"] != before["hostname"]:
        found.append(f"the host calls itself {now['hostname']}, was {before['hostname']}")
    found += [f"network interface {name} is not in the manifest" for name in now["links"]
              if name not in before["links"]]  # fmt: skip
    found += [f"network interface {name} is gone" for name in before["links"] if name not in now["links"]]
    for name, key, said, wanted in changed_links(before, now["links"]):
        found.append(f"network interface {name}: {key} is {said}, was {wanted}")
    for name in LISTS:
        found += [
            f"network {name} not in the manifest: {row}" for row in now[name] if row not in before[name]
        ]
        found += [
            f"network {name} gone since enrolment: {row}" for row in before[name] if row not in now[name]
        ]
    return found + [f"network namespace {path} belongs to nobody" for path in foreign_namespaces()]


def changed_links(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str, Any, Any]]:
    return [
        (name, key, now[name][key], wanted)
        for name, link in before["links"].items()
        if name in now
        for key, wanted in link.items()
        if key in now[name] and now[name][key] != wanted
    ]


def clean(step: Step, before: dict[str, Any]) -> None:
    """Links first: what hangs on them goes with them. What carries our own connection is never taken."""
    if socket.gethostname() != before["hostname"]:
        step.gone("host names", socket.gethostname())
        if not step.check:
            socket.sethostname(before["hostname"])
    for path in foreign_namespaces():
        step.gone("network namespaces", path)
        if not step.check:
            remove_namespace(path)
    clean_links(step, before)
    for name in ("nexthops", "addresses", "neighbours", "rules", "routes", "transforms", "queues"):
        clean_list(step, name, before[name])
    left = [] if step.check else findings(before)
    if left:
        raise StepFailed(f"the network is not as recorded: {left[0]}", left)


def remove_namespace(path: str) -> None:
    with contextlib.suppress(OSError):  # the part mounts may have detached it
        libc.umount(path, detach=True)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def clean_links(step: Step, before: dict[str, Any]) -> None:
    now = links()
    for name in sorted(now.keys() - before["links"].keys()):
        if now[name]["kind"]:
            step.gone("network interfaces", name)
            if not step.check:
                run("ip", "link", "del", name)
    words: dict[str, Callable[[Any], list[str]]] = {
        "mtu": lambda wanted: ["mtu", str(wanted)],
        "master": lambda wanted: ["master", wanted] if wanted else ["nomaster"],
        "up": lambda wanted: ["up" if wanted else "down"],
        "promiscuous": lambda wanted: ["promisc", "on" if wanted else "off"],
        "arp": lambda wanted: ["arp", "on" if wanted else "off"],
        "address": lambda wanted: ["address", wanted],
        "xdp": lambda _wanted: ["xdp", "off"],
    }
    for name, key, said, wanted in changed_links(before, now):
        step.gone("network settings", f"{name} {key} {said} → {wanted}")
        if not step.check and key in words:
            run("ip", "link", "set", "dev", name, *words[key](wanted))


def clean_list(step: Step, name: str, before: list[str]) -> None:
    now = listed(name)
    for row in now:
        if row in before:
            continue
        if name == "addresses" and row.split()[1].split("/")[0] in connected():
            raise StepFailed(f"our own connection comes in at {row}, which the manifest does not know")
        step.gone(f"network {name}", row)
        if not step.check:
            run(*command(name, row, "del"))
    for row in before:
        if row not in now:
            step.did(f"network {name} restored: {row}")
            if not step.check:
                run(*command(name, row, "add"))


def command(name: str, row: str, verb: str) -> list[str]:
    """The command that adds or deletes what a row of a list says."""
    words = row.split()
    if name == "queues":  # deleting gives the kernel's own queue back
        kind, device, place = words[0], words[1], words[2:]
        place = [kind] if kind in ("ingress", "clsact") else place
        return ["tc", "qdisc", verb, "dev", device, *place, *([kind] if verb == "add" else [])]
    if name == "transforms":
        return ["ip", "xfrm", "policy" if "dir" in words else "state", "flush"]
    if name == "nexthops":
        return ["ip", "nexthop", verb, *words[:2]] if verb == "del" else ["ip", "nexthop", verb, *words]
    if words[-1] == "proxy":
        words = [words[0], "proxy", *words[1:-1]]
    objects = {"addresses": "addr", "routes": "route", "rules": "rule", "neighbours": "neigh"}
    return ["ip", words[0], objects[name], verb, *words[1:]]


def connected() -> set[str]:
    """Our end of every established TCP connection, as text."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in (pseudo.read(f"/proc/net/{name}") or "").splitlines()[1:]:
            cells = line.split()
            if cells[3] == "01":
                found.add(unpack(cells[1].split(":")[0]))
    return found


def unpack(text: str) -> str:
    """An address as /proc/net prints it, in 32-bit words of the machine's byte order."""
    raw = b"".join(bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8))
    if len(raw) == 16 and raw.startswith(b"\0" * 10 + b"\xff\xff"):
        raw = raw[12:]
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)
