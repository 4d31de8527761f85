"""The parts of a running system as plain Python: what counts as foreign, and what is done about it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import (
    cgroups,
    containers,
    firewall,
    kernel,
    keyrings,
    logs,
    mounts,
    network,
    nftables,
    parts,
    storage,
    sysctl,
)
from ansible.module_utils.steps import Ran, Step, StepFailed

MOUNTINFO = """\
20 1 254:0 / / rw,relatime - ext4 /dev/vda rw
21 20 0:60 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
22 20 0:61 / /run rw,nosuid,nodev - tmpfs tmpfs rw
23 22 0:62 / /run/lock rw - tmpfs tmpfs rw
24 20 0:63 / /srv/a\\040b rw - tmpfs tmpfs rw
"""


def read(text: str) -> list[mounts.Mount]:
    found: list[mounts.Mount] = mounts.parse(text.splitlines())
    return found


BEFORE = {"mounts": mounts.rows(read(MOUNTINFO)), "swap": [], "loops": []}


@pytest.mark.parametrize(
    ("more", "points"),
    [
        ("", []),
        ("30 20 0:70 / /usr/bin rw - tmpfs evil rw", ["/usr/bin"]),
        ("30 20 254:0 /etc/hostname /etc/passwd rw - ext4 /dev/vda rw", ["/etc/passwd"]),
        ("30 20 0:70 / /mnt rw - tmpfs a rw\n31 30 0:71 / /mnt rw - tmpfs b rw", ["/mnt", "/mnt"]),
        ("30 23 0:70 / /run/lock rw - tmpfs tmpfs rw", ["/run/lock"]),  # over a recorded one, and like it
        ("30 22 0:62 / /run rw - tmpfs tmpfs rw", ["/run"]),  # hides /run/lock
        ("30 20 0:60 /sys /proc/sys rw - proc proc rw", ["/proc/sys"]),
        ("30 21 0:77 / /proc/sys/fs/binfmt_misc rw - binfmt_misc binfmt_misc rw", []),
        ("30 22 0:78 / /run/user/0 rw - tmpfs tmpfs rw", []),
        ("30 22 0:78 / /run/user/0 rw - ext4 /dev/sdb rw", ["/run/user/0"]),
    ],
)
def test_mounts_that_enrolment_did_not_see(more: str, points: list[str]) -> None:
    now = read(MOUNTINFO + more)
    assert [mount.point for mount in mounts.extra(BEFORE, now)] == points
    assert mounts.missing(BEFORE, now) == []


def test_a_copy_of_a_volume_under_the_volume_hides_nothing() -> None:
    volume = "30 20 0:90 / /data rw - tmpfs tmpfs rw\n"
    tucked = "31 20 0:90 / /data rw - tmpfs tmpfs rw\n30 31 0:90 / /data rw - tmpfs tmpfs rw\n"
    before = {**BEFORE, "mounts": mounts.rows(read(MOUNTINFO + volume))}
    assert mounts.extra(before, read(MOUNTINFO + tucked)) == []
    other = tucked.replace("31 20 0:90", "31 20 0:99")
    assert [mount.device for mount in mounts.extra(before, read(MOUNTINFO + other))] == ["0:99"]


def test_mounts_that_are_gone_or_have_other_options() -> None:
    lines = MOUNTINFO.splitlines()
    assert [row[0] for row in mounts.missing(BEFORE, read("\n".join(lines[:4])))] == ["/srv/a b"]
    writable = MOUNTINFO.replace("/run rw,nosuid,nodev", "/run rw,nodev")
    assert mounts.remounted(BEFORE, read(writable)) == [("/run", "rw,nodev", "rw,nosuid,nodev")]


def test_system_calls_say_why_they_fail() -> None:
    from ansible.module_utils import libc

    with pytest.raises(OSError, match="No such file"):
        libc.umount("/no/such/place")
    assert libc.join_mounts(os.getpid()) is False


PARAMETERS = {
    "net/ipv4/conf/default/rp_filter": "2",
    "net/ipv4/conf/eth0/rp_filter": "2",
    "net/ipv4/conf/eth1/rp_filter": "0",
    "kernel/core_pattern": "core",
    "fs/file-max": "1000000",
    "kernel/random/uuid": "a",
}


def parameters(root: Path, values: dict[str, str]) -> str:
    for key, said in values.items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{said}\n")
    return str(root)


def test_parameters_are_recorded_without_what_moves_and_what_a_link_takes_over(tmp_path: Path) -> None:
    root = parameters(tmp_path, PARAMETERS)
    assert sysctl.record(root) == {
        "fs/file-max": "1000000",
        "kernel/core_pattern": "core",
        "net/ipv4/conf/default/rp_filter": "2",
        "net/ipv4/conf/eth1/rp_filter": "0",
    }


@pytest.mark.parametrize(
    ("key", "evil", "found"),
    [
        ("kernel/core_pattern", "|/opt/evil", True),
        ("net/ipv4/conf/eth0/rp_filter", "0", True),  # recorded by the default
        ("net/ipv4/conf/eth1/rp_filter", "1", True),
        ("fs/file-max", "1000999", False),  # follows the memory at boot
        ("fs/file-max", "12", True),
        ("kernel/random/uuid", "b", False),
        ("net/ipv4/conf/veth12/rp_filter", "0", False),
    ],
)
def test_parameters_that_differ(tmp_path: Path, key: str, evil: str, found: bool) -> None:
    before = sysctl.record(parameters(tmp_path, PARAMETERS))
    now = sysctl.read(parameters(tmp_path, {key: evil}))
    assert (key in sysctl.differences(before, now)) is found


def test_a_parameter_that_the_kernel_refuses_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = parameters(tmp_path, PARAMETERS)
    before = sysctl.record(root)
    parameters(tmp_path, {"kernel/core_pattern": "|/opt/evil"})
    monkeypatch.setattr(sysctl, "read", lambda: before | {"kernel/core_pattern": "|/opt/evil"})
    monkeypatch.setattr(sysctl.pseudo, "write", lambda _path, _said: None)
    step = Step("wipe")
    with pytest.raises(StepFailed, match="1 kernel parameters could not be put back"):
        sysctl.clean(step, before)
    assert step.removed == {"kernel parameters": 1}


KERNEL = {"release": "6.1", "cmdline": "quiet", "taint": 1 << 9, "modules": ["nvidia"], "livepatches": [],
          "binfmt": [], "bpf": [], "probes": [], "settings": {}}  # fmt: skip


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """A kernel whose files say what the test wants."""
    files: dict[str, str | None] = {
        "/proc/sys/kernel/tainted": str(1 << 9),
        "/proc/cmdline": "quiet",
        "/proc/modules": "nvidia 1 0 - Live 0x0",
    }
    monkeypatch.setattr(kernel.pseudo, "read", files.get)
    monkeypatch.setattr(kernel.pseudo, "names", lambda _folder: [])
    monkeypatch.setattr(kernel, "hidden", list)
    monkeypatch.setattr(kernel, "settings", dict)
    monkeypatch.setattr(kernel, "pinned", list)
    monkeypatch.setattr(kernel.platform, "release", lambda: "6.1")
    monkeypatch.setattr(kernel, "run", lambda *argv, **_: Ran(argv, 1, "", ""))
    return files


@pytest.mark.parametrize(
    ("path", "said", "finding"),
    [
        ("/proc/cmdline", "quiet init=/bin/sh", "the kernel's cmdline is"),
        ("/proc/modules", "nvidia 1 0 - Live 0x0\nrootkit 1 0 - Live 0x0", "kernel module rootkit"),
        ("/proc/sys/kernel/tainted", str(1 << 9 | 1 << 12), "an out-of-tree module was loaded"),
        ("/proc/sys/kernel/tainted", str(1 << 9 | 1 << 15), "patched while it ran"),
        (f"{kernel.TRACING}/kprobe_events", "p:evil do_sys_open", "probes not in the manifest: p:evil"),
    ],
)
def test_a_kernel_that_cannot_be_trusted(
    machine: dict[str, str | None], path: str, said: str, finding: str
) -> None:
    assert kernel.findings(KERNEL) == []
    machine[path] = said
    assert [one for one in kernel.findings(KERNEL) if finding in one]


def test_the_hosts_own_module_is_vouched_for_by_its_file(
    machine: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"filename": "/lib/modules/6.1/kernel/nvidia-uvm.ko", "srcversion": "ABC"}
    monkeypatch.setattr(kernel, "run", lambda *argv, **_: Ran(argv, 0, said[argv[2]], ""))
    machine["/sys/module/nvidia_uvm/srcversion"] = "ABC"
    assert kernel.vouched("nvidia_uvm")
    machine["/sys/module/nvidia_uvm/srcversion"] = "EVIL"
    assert not kernel.vouched("nvidia_uvm")
    said["filename"] = "/opt/evil.ko"
    assert not kernel.vouched("nvidia_uvm")


SAVED = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A INPUT -p tcp --dport 22 -j ACCEPT
-A INPUT -j LOG
-A FORWARD -j DOCKER-USER
-A FORWARD -i docker0 -j ACCEPT
COMMIT
*nat
:OUTPUT ACCEPT [0:0]
-A OUTPUT -d 127.0.0.11/32 -p tcp -m tcp --dport 53 -j DNAT --to-destination 127.0.0.11:37321
COMMIT
"""


@pytest.mark.parametrize(
    ("old", "new", "chains"),
    [
        ("-A INPUT -j LOG", "-A INPUT -j LOG\n-A INPUT -s 1.2.3.4 -j DROP", {"filter": ["INPUT"]}),
        ("-A INPUT -j LOG\n", "", {"filter": ["INPUT"]}),
        (":FORWARD DROP", ":FORWARD ACCEPT", {"filter": ["FORWARD"]}),
        ("-A INPUT -p tcp --dport 22 -j ACCEPT\n-A INPUT -j LOG",
         "-A INPUT -j LOG\n-A INPUT -p tcp --dport 22 -j ACCEPT", {"filter": ["INPUT"]}),
        ("-A FORWARD -j DOCKER-USER\n-A FORWARD -i docker0 -j ACCEPT",
         "-A FORWARD -i docker0 -j ACCEPT\n-A FORWARD -j DOCKER-USER", {}),
        ("37321", "44444", {}),  # the engine's resolver draws another port
        (":DOCKER-USER - [0:0]\n", ":DOCKER-USER - [0:0]\n:EVIL - [0:0]\n", {"filter": ["EVIL"]}),
        ("*nat", "*mangle\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n*nat", {}),
    ],
)  # fmt: skip
def test_rules_that_differ(old: str, new: str, chains: dict[str, list[str]]) -> None:
    assert old in SAVED
    assert firewall.differences(firewall.parse(SAVED), firewall.parse(SAVED.replace(old, new))) == chains


def test_the_restoring_script_keeps_what_the_engine_drew() -> None:
    before = firewall.parse(SAVED)
    now = firewall.parse(
        SAVED.replace("37321", "44444").replace("COMMIT\n*nat", ":EVIL - [0:0]\nCOMMIT\n*nat")
        + "*nat\n-A OUTPUT -j EVIL\nCOMMIT\n"
    )
    lines = firewall.script("nat", ["OUTPUT"], before, now).splitlines()
    assert lines[1:3] == [":OUTPUT ACCEPT [0:0]", "-F OUTPUT"]
    assert lines[3].endswith("127.0.0.11:44444")
    assert lines[-1] == "COMMIT"
    assert firewall.script("filter", ["EVIL"], before, now).splitlines()[-2] == "-X EVIL"


def test_tables_are_listed_and_deleted_by_netlink(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    def ask(request: bytes) -> list[bytes]:
        sent.append(request)
        return [
            b"\x01\0\0\0" + nftables._attribute(1, b"evil\0"),
            b"\x02\0\0\0" + nftables._attribute(1, b"filter\0"),
        ]

    monkeypatch.setattr(nftables, "_ask", ask)
    assert nftables.tables() == ["inet evil", "ip filter"]
    nftables.delete("inet evil")
    assert b"evil\0" in sent[-1]


def test_what_a_network_list_says_is_what_its_command_takes() -> None:
    route = network.tidy("routes", "10.0.0.0/8 via 192.0.2.1 dev eth0 proto static linkdown")
    assert network.command("routes", f"-4 {route}", "del") == [
        "ip", "-4", "route", "del", "10.0.0.0/8", "via", "192.0.2.1", "dev", "eth0", "proto", "static",
    ]  # fmt: skip
    rule = network.tidy("rules", "32765:\tfrom 10.1.1.1 lookup 77")
    assert network.command("rules", f"-4 {rule}", "del")[2:6] == ["rule", "del", "priority", "32765"]
    address = network.tidy("addresses", r"2: eth0    inet 10.9.9.9/32 scope global eth0\  valid_lft forever")
    assert network.command("addresses", f"-4 {address}", "del") == [
        "ip", "-4", "addr", "del", "10.9.9.9/32", "dev", "eth0",
    ]  # fmt: skip
    queue = network.tidy("queues", "qdisc netem 8001: dev eth0 root refcnt 2 limit 1000 delay 1ms")
    assert network.command("queues", queue, "del") == ["tc", "qdisc", "del", "dev", "eth0", "root"]
    proxy = network.command("neighbours", "-4 192.0.2.9 dev eth0 proxy", "del")
    assert proxy == ["ip", "-4", "neigh", "del", "proxy", "192.0.2.9", "dev", "eth0"]


@pytest.mark.parametrize(
    ("name", "line", "kept"),
    [
        ("routes", "default via 192.0.2.1 dev eth0 proto dhcp metric 100", True),
        ("routes", "default via fe80::1 dev eth0 proto ra metric 100 expires 1700sec", False),
        ("routes", "local 192.0.2.7 dev eth0 table local proto kernel scope host", False),
        ("routes", "10.1.0.0/16 dev veth12ab scope link", False),
        ("addresses", r"2: eth0    inet6 2001:db8::7/64 scope global dynamic mngtmpaddr\  valid", False),
        ("addresses", r"2: eth0    inet 192.0.2.7/24 scope global dynamic eth0\ valid_lft 9sec", True),
        ("queues", "qdisc noqueue 0: dev docker0 root refcnt 2", False),
        ("queues", "qdisc clsact ffff: dev eth0 parent ffff:fff1", True),
    ],
)  # fmt: skip
def test_what_moves_by_itself_in_a_network_is_left_out(name: str, line: str, kept: bool) -> None:
    assert network.keeps(name, line) is kept


def test_our_own_connection_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "listed", lambda _name: ["-4 192.0.2.7/24 dev eth0"])
    monkeypatch.setattr(network, "connected", lambda: {"192.0.2.7"})
    ran: list[Any] = []
    monkeypatch.setattr(network, "run", lambda *argv, **_: ran.append(argv))
    with pytest.raises(StepFailed, match="our own connection comes in at"):
        network.clean_list(Step("wipe"), "addresses", [])
    assert ran == []
    assert network.unpack("0100007F") == "127.0.0.1"
    assert network.unpack("0000000000000000FFFF00000100007F") == "127.0.0.1"


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_engines_lists(monkeypatch: pytest.MonkeyPatch, engine: str) -> None:
    said = {
        "ps": "c1\n", "images": "sha256:a app:1\nsha256:a app:2\nsha256:b <none>:<none>\n", "volume": "v\n",
        "network": "bridge\npodman\nmine\n", "plugin": "", "pod": "p1\n", "secret": "s\n",
    }  # fmt: skip
    monkeypatch.setattr(containers, "run", lambda *argv, **_: Ran(argv, 0, said[argv[1]], ""))
    monkeypatch.setattr(containers, "SWARM", "/no/such/file")
    held = containers.inventory(engine)
    assert held["images"] == ["sha256:a", "sha256:b"]
    assert held["tags"] == ["app:1=sha256:a", "app:2=sha256:a"]
    assert held["networks"] == ["mine"]
    assert held["pods" if engine == "podman" else "swarms"] == (["p1"] if engine == "podman" else [])


def test_storage_that_no_engine_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker, podman = tmp_path / "docker", tmp_path / "containers"
    (docker / "overlay2" / "known").mkdir(parents=True)
    monkeypatch.setattr(storage, "FOLDERS", (str(docker), str(podman)))
    monkeypatch.setattr(storage, "namespaces", lambda: None)
    before = storage.record()
    assert storage.findings(before) == []
    (docker / "overlay2" / "hidden" / "deep").mkdir(parents=True)
    (docker / "evil" / "deep").mkdir(parents=True)
    (podman / "storage").mkdir(parents=True)
    assert storage.foreign_paths(before) == [
        str(docker / "evil"),
        str(docker / "overlay2/hidden"),
        str(podman),
    ]
    storage.clean(Step("wipe"), before)
    assert storage.findings(before) == []
    assert (docker / "overlay2" / "known").is_dir()


def test_logs_are_emptied_and_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = tmp_path / "log"
    (top / "apt").mkdir(parents=True)
    (top / "wtmp").write_bytes(b"logins")
    (top / "lastlog").write_bytes(b"")
    monkeypatch.setattr(logs, "LOGS", str(top))
    monkeypatch.setattr(logs, "JOURNALS", (str(top / "journal"), str(tmp_path / "none")))
    monkeypatch.setattr(logs, "DUMPS", (str(tmp_path / "dumps"),))
    monkeypatch.setattr(logs, "run", lambda *argv, **_: Ran(argv, 0, "", ""))
    before = logs.record()
    (top / "wtmp.1").write_text("turned over")
    (top / "journal" / "another-machine").mkdir(parents=True)
    (top / "evil").mkdir()
    (top / "evil" / "log").write_text("evil")
    (top / "lastlog").unlink()
    (top / "apt").chmod(0o777)
    (tmp_path / "dumps").mkdir()
    (tmp_path / "dumps" / "core").write_text("core")
    assert len(logs.findings(before)) == 3
    step = Step("wipe")
    logs.clean(step, before)
    assert sorted(path.name for path in top.iterdir()) == ["apt", "journal", "lastlog", "wtmp"]
    assert (top / "wtmp").stat().st_size == 0
    assert stat.S_IMODE((top / "apt").stat().st_mode) == before[str(top / "apt")][1]
    assert logs.findings(before) == []
    assert step.removed == {"journals": 1, "core dumps": 1, "logs": 2}


def test_groups_of_units_and_engines_are_theirs() -> None:
    assert cgroups.is_units("/sys/fs/cgroup/system.slice/cron.service")
    assert cgroups.is_units("/sys/fs/cgroup/docker/abc")
    assert not cgroups.is_units("/sys/fs/cgroup/evil")


@pytest.mark.parametrize("shared", [False, True])
def test_keys_are_removed_anywhere_and_judged_where_the_kernel_is_the_hosts_own(
    monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    keys = {0: 1, 4246: 2}
    monkeypatch.setattr(keyrings, "users", lambda: sorted(keys))
    monkeypatch.setattr(keyrings, "shared_kernel", lambda: shared)

    def as_user(uid: int, *, clear: bool) -> int:
        if clear:
            keys[uid] = 0
        return keys[uid]

    monkeypatch.setattr(keyrings, "_as_user", as_user)
    before = {"0": 1}
    assert keyrings.findings(before) == ([] if shared else ["user 4246 has 2 keys in the kernel"])
    step = Step("wipe")
    keyrings.clean(step, before)
    assert keys == {0: 1, 4246: 0}
    assert step.removed == {"kernel keys": 2}


class Broken:
    @staticmethod
    def record() -> None: ...

    @staticmethod
    def findings(_before: Any) -> list[str]:
        raise StepFailed("cannot be read")

    @staticmethod
    def clean(step: Step, _before: Any) -> None:
        step.gone("things", "one")
        raise OSError("device is gone")


def test_a_part_that_fails_does_not_keep_the_next_from_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PARTS", {"a": Broken, "b": Broken})
    step = Step("wipe")
    with pytest.raises(StepFailed, match=r"a could not be cleaned: .*; b could not be cleaned") as failed:
        parts.clean(step, {"parts": {"a": {}, "b": {}}}, ["a", "b"])
    assert len(failed.value.evidence) == 2
    assert step.removed == {"things": 2}
    with pytest.raises(StepFailed, match="the manifest holds nothing of a"):
        parts.check("a", {"parts": {}})
