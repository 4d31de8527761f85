"""A Docker network of its own for each lab, on a subnet nothing else on the machine uses."""

from __future__ import annotations

import hashlib
import ipaddress
import json

from tests.lab.run import LabError, run

POOL = ipaddress.IPv4Network("10.213.0.0/16")
FIRST_HOST = 11


def ensure(name: str) -> ipaddress.IPv4Network:
    """The network's subnet; made if it is not there. Raises LabError when the pool is used up."""
    if found := _subnet(name):
        return found
    taken = _taken()
    candidates = list(POOL.subnets(new_prefix=24))
    # the default lab gets the first subnet, others start at a place of their own so that two labs agree
    start = 0 if name == "lab" else int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(candidates)
    for subnet in candidates[start:] + candidates[:start]:
        if not any(subnet.overlaps(other) for other in taken):
            run(
                "docker",
                "network",
                "create",
                "--label",
                f"ironyard.lab={name}",
                "--subnet",
                str(subnet),
                name,
            )
            return subnet
    raise LabError(f"No free subnet in {POOL} for the lab's network.")


def address(subnet: ipaddress.IPv4Network, number: int) -> str:
    return str(subnet[FIRST_HOST + number - 1])


def _subnet(name: str) -> ipaddress.IPv4Network | None:
    text = run("docker", "network", "inspect", name, check=False).strip()
    found = json.loads(text) if text else []
    return ipaddress.IPv4Network(found[0]["IPAM"]["Config"][0]["Subnet"]) if found else None


def _taken() -> list[ipaddress.IPv4Network]:
    routes = run("ip", "-4", "-j", "route", check=False)
    entries = json.loads(routes) if routes.strip() else []
    targets = [r["dst"] for r in entries if r.get("dst") not in (None, "default")]
    return [ipaddress.IPv4Network(t, strict=False) for t in targets]


def remove(name: str) -> None:
    run("docker", "network", "rm", name, check=False)
