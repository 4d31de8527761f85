"""The kernel's parameters under /proc/sys: recorded whole, restored where they differ."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from ansible.module_utils import pseudo
from ansible.module_utils.steps import Step, StepFailed

ROOT = "/proc/sys"
Values = dict[str, str]
# Values that move without anybody setting them, measured on idle and on busy hosts.
DRIFTING = {
    r"fs/binfmt_misc/.*": "entries, not parameters: compared by name in the part kernel",
    r"kernel/ns_last_pid": "the last process number",
    r"kernel/random/.*": "entropy and identifiers drawn at each boot or read",
    r"kernel/(hostname|domainname)": "compared in the part network",
    r"kernel/tainted": "compared bit by bit in the part kernel",
    r"kernel/perf_event_max_sample_rate": "the kernel lowers it when interrupts take long",
    r"kernel/keys/.*": "quotas that the kernel scales by memory",
    r"net/ipv4/tcp_fastopen_key": "drawn at each boot",
    r"net/ipv[46]/conf/.*/(mtu|stable_secret)": "follows the interface",
    r"net/ipv[46]/neigh/.*": "timers that the kernel randomises, one set per interface",
    r"net/ipv6/conf/.*/(forwarding|disable_ipv6|accept_ra)": "network managers and engines set them per link",
    r"net/netfilter/nf_conntrack_(count|max|buckets)": "follow the connections and the memory",
    r"vm/(compact_memory|drop_caches|stat_refresh)": "orders, not values",
    r"vm/nr_hugepages.*": "compared in the part kernel",
    r"dev/(cdrom|scsi|raid)/.*": "follows the devices",
    r"sunrpc/.*": "follows the services",
}
# Interfaces that engines make and remove; the part network looks at them.
PASSING = re.compile(r"^net/ipv[46]/conf/(veth|docker|br-|cni|flannel|cali|virbr)")
PER_LINK = re.compile(r"^(net/ipv[46]/conf)/(?!all/|default/)[^/]+/(.+)$")
# The kernel sizes these by the memory that it finds at boot: equal within this share.
BY_MEMORY = re.compile(
    r"^(fs/(file-max|epoll/max_user_watches|inotify/max_user_watches)|kernel/threads-max|user/max_.*|"
    r"net/ipv4/(tcp_mem|udp_mem|tcp_max_orphans|tcp_max_tw_buckets|tcp_rmem|tcp_wmem)|vm/min_free_kbytes)$"
)
TOLERANCE = 0.05


def walk(root: str = ROOT) -> Iterator[str]:
    """Names of the parameters that can be written and read, as paths below the root."""
    drifting = re.compile("|".join(f"(?:{pattern})" for pattern in DRIFTING))
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            key = os.path.relpath(path, root)
            mode = os.stat(path).st_mode
            if mode & stat.S_IWUSR and mode & stat.S_IRUSR and not drifting.fullmatch(key):
                yield key


def read(root: str = ROOT) -> Values:
    found = {}
    for key in sorted(walk(root)):
        if PASSING.match(key):
            continue
        said = pseudo.read(os.path.join(root, key))
        if said is not None:
            found[key] = " ".join(said.split())
    return found


def record(root: str = ROOT) -> Values:
    """Every stable parameter; those of a link only where they differ from the default for links."""
    now = read(root)
    return {key: said for key, said in now.items() if said != now.get(_default(key))}


def _default(key: str) -> str:
    link = PER_LINK.match(key)
    return f"{link.group(1)}/default/{link.group(2)}" if link else ""


def differences(before: Values, now: Values) -> dict[str, tuple[str, str]]:
    """By name what is set and what was recorded; parameters of new links and modules have no record."""
    found = {}
    for key, said in now.items():
        wanted = before.get(key, before.get(_default(key)))
        if wanted is not None and said != wanted and not _close(key, said, wanted):
            found[key] = (said, wanted)
    return found


def _close(key: str, said: str, wanted: str) -> bool:
    if not BY_MEMORY.match(key):
        return False
    pairs = list(zip(said.split(), wanted.split()))
    return all(
        one.isdigit() and two.isdigit() and abs(int(one) - int(two)) <= TOLERANCE * int(two)
        for one, two in pairs
    )


def findings(before: Values) -> list[str]:
    return [
        f"sysctl {key.replace('/', '.')} is {said!r}, enrolment recorded {wanted!r}"
        for key, (said, wanted) in differences(before, read()).items()
    ]


def clean(step: Step, before: Values) -> None:
    """Put back what differs; raises StepFailed with the names of those that the kernel refuses."""
    changed = differences(before, read())
    for key, (said, wanted) in changed.items():
        step.gone("kernel parameters", f"{key.replace('/', '.')} {said} → {wanted}")
        if not step.check:
            pseudo.write(f"{ROOT}/{key}", wanted)
    left = {} if step.check else differences(before, read())
    if left:
        raise StepFailed(
            f"{len(left)} kernel parameters could not be put back",
            [f"{key} is {said}, was {wanted}" for key, (said, wanted) in left.items()],
        )
