"""Where a host's clean state lies: how each place is compared, and why some are compared less strictly."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import NamedTuple


class Rule(NamedTuple):
    """How a place is compared with the index.

    ``additions``: finding (removed; verify reports one), removed (removed; verify does not mind), kept.
    ``content``: compared (restored; verify reports it), restored (verify does not mind), left.
    ``walk``: whether what is below belongs to the index.
    """

    additions: str
    content: str
    reason: str
    walk: bool = True


STRICT = Rule("finding", "compared", "nothing writes here on a host that is idle")


def state(reason: str) -> Rule:
    return Rule("finding", "restored", reason)


def churn(reason: str) -> Rule:
    return Rule("removed", "restored", reason)


def live(reason: str) -> Rule:
    return Rule("removed", "left", reason)


def own(reason: str) -> Rule:
    return Rule("finding", "left", reason)


def ignored(reason: str) -> Rule:
    return Rule("kept", "left", reason, walk=False)


# Names only: what is added at the top of the folder goes, what lies deeper is somebody else's matter.
SHALLOW = Rule("finding", "left", "an engine's storage; the part `containers` empties it")
BELOW_SHALLOW = Rule("finding", "left", SHALLOW.reason, walk=False)
NOT_A_TREE = ignored("not on a disk; the parts of the running system look at it")
RULES: dict[str, Rule] = {
    **dict.fromkeys(("/dev", "/proc", "/sys"), NOT_A_TREE),
    "/run": ignored("made anew at every boot; its folders of configuration are looked at by name"),
    "/var/log": ignored("the part `logs` empties it"),
    "/var/lib/systemd/coredump": ignored("the part `logs` empties it"),
    "/var/lib/systemd/pstore": ignored("the part `logs` empties it"),
    **dict.fromkeys(("/var/lib/containerd", "/var/lib/docker"), SHALLOW),
    **dict.fromkeys(("/var/lib/containers", "/var/lib/kubelet"), BELOW_SHALLOW),
    "/var/lib/ironyard/pristine": ignored("the store of clean copies, which checks itself"),
    # this and the next lines: other steps and services of ours
    "/etc/shadow": own("passwords: the step `identity` compares digests of them"),
    "/etc/gshadow": own("passwords: the step `identity` compares them"),
    **{
        f"/etc/{name}-": ignored("left by useradd; the step `identity` removes it")
        for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")
    },
    "/etc/.pwd.lock": ignored("an empty lock; the step `identity` empties it"),
    "/etc/nologin": ignored("the fence; it goes when the fence is lifted"),
    "/etc/ssh/ironyard-fence": ignored("the fence; it goes when the fence is lifted"),
    "/etc/ssh/ironyard-staged": ignored("the next host keys"),
    "/etc/ssh/sshd_config.d/00-ironyard-fence.conf": ignored("the fence; it goes when the fence is lifted"),
    # state that services write
    "/boot/grub/grubenv": state("written at boot"),
    "/boot/grub2/grubenv": state("written at boot"),
    "/etc/adjtime": state("written when the clock is set"),
    "/etc/lvm/archive": churn("LVM's backups of its metadata"),
    "/etc/lvm/backup": churn("LVM's backups of its metadata"),
    "/var/backups": churn("daily copies of the package database"),
    "/var/cache": churn("caches can be made again"),
    "/var/lib/AccountsService": churn("written at log-in"),
    "/var/lib/PackageKit": churn("package lists"),
    "/var/lib/apt/lists": churn("package lists"),
    "/var/lib/apt/periodic": churn("stamps of timers"),
    "/var/lib/chrony": live("drift of the clock"),
    "/var/lib/cloud": churn("written at boot"),
    "/var/lib/command-not-found": churn("made from the package lists"),
    "/var/lib/dhcp": live("leases"),
    "/var/lib/dhclient": live("leases"),
    "/var/lib/dnf": churn("package lists and history"),
    "/var/lib/fwupd": churn("lists of firmware"),
    "/var/lib/logrotate": churn("when logs were rotated"),
    "/var/lib/man-db": churn("stamps of timers"),
    "/var/lib/mlocate": churn("an index of file names"),
    "/var/lib/NetworkManager": live("leases, secrets and times of connections"),
    "/var/lib/ntp": live("drift of the clock"),
    "/var/lib/ntpsec": live("drift of the clock"),
    "/var/lib/plocate": churn("an index of file names"),
    "/var/lib/private/systemd": live("state of services with dynamic users"),
    "/var/lib/prometheus": churn("metrics that collectors write"),
    "/var/lib/snapd": live("snapd's own state"),
    "/var/lib/sudo": churn("who was lectured"),
    "/var/lib/systemd/backlight": churn("written at shutdown"),
    "/var/lib/systemd/random-seed": live("random by purpose"),
    "/var/lib/systemd/rfkill": churn("written at shutdown"),
    "/var/lib/systemd/timers": churn("stamps of timers"),
    "/var/lib/systemd/timesync": live("the clock"),
    "/var/lib/ubuntu-advantage": churn("stamps and lists"),
    "/var/lib/ubuntu-release-upgrader": churn("stamps"),
    "/var/lib/unattended-upgrades": churn("stamps"),
    "/var/lib/update-notifier": churn("stamps"),
    "/var/spool/at/.SEQ": live("a counter"),
    "/var/spool/cron/atjobs/.SEQ": live("a counter"),
}
# The same by pattern, for the names in one folder ("" is any folder).
PATTERNS: dict[str, tuple[tuple[str, Rule], ...]] = {
    "": (("__pycache__", Rule("removed", "compared", "Python compiles what it runs, when it runs it")),),
    "/etc/ssh": (("ssh_host_*", ignored("the step `identity` makes new host keys")),),
    "/usr/lib/sysimage/rpm": (("*-shm", live("memory that readers of the package database share")),),
    "/var/lib": (("nvidia*", live("the GPU driver's own state")),),
    "/var/lib/rpm": (("*-shm", live("memory that readers of the package database share")),),
}
# Configuration in /run that outlives a service but no boot: compared like the rest.
RUNTIME = (
    *(
        f"/run/systemd/{name}"
        for name in (
            "system",
            "user",
            "network",
            "system.control",
            "user.control",
            "generator",
            "generator.early",
            "generator.late",
            "system-generators",
            "user-generators",
            "journald.conf.d",
            "logind.conf.d",
            "resolved.conf.d",
            "system.conf.d",
        )
    ),
    "/run/udev/rules.d",
    "/run/NetworkManager/conf.d",
    "/run/NetworkManager/system-connections",
    *(
        f"/run/{name}.d"
        for name in ("binfmt", "environment", "modprobe", "modules-load", "sysctl", "tmpfiles", "motd")
    ),
)
# Accounts, keys and the right to become root: restored by the step `identity`, the rest by `wipe`.
IDENTITY = (
    "/etc/passwd",
    "/etc/group",
    "/etc/subuid",
    "/etc/subgid",
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/etc/ssh",
    "/etc/pam.d",
    "/etc/security",
    "/etc/nsswitch.conf",
    "/etc/login.defs",
    "/etc/polkit-1/rules.d",
)
# Content that the ledger keeps itself, in this order while there is room; `/etc` last.
CONTENT = (
    *IDENTITY,
    "/etc/systemd",
    "/etc/cron.d",
    "/etc/crontab",
    "/var/spool/cron",
    "/etc/profile",
    "/etc",
)
# Written by mere use of an account: never part of the record, always wiped.
TRACES = (
    ".ansible",
    ".bash_history",
    ".cache",
    ".lesshst",
    ".mysql_history",
    ".node_repl_history",
    ".psql_history",
    ".python_history",
    ".sqlite_history",
    ".ssh/known_hosts",
    ".ssh/known_hosts.old",
    ".sudo_as_admin_successful",
    ".viminfo",
    ".wget-hsts",
    ".zsh_history",
)


class Rules:
    """The table with what is known of one host only: its homes, emptied folders and mounts."""

    def __init__(
        self,
        homes: Iterable[str] = (),
        emptied: Iterable[str] = (),
        skip: Iterable[str] = (),
        mounts: Iterable[str] = (),
    ) -> None:
        self.traces = {f"{home.rstrip('/')}/{name}" for home in homes for name in TRACES}
        self.mounts = frozenset(mounts)
        self.folders: dict[str, Rule] = {}
        self.exact: dict[str, Rule] = {
            **RULES,
            **dict.fromkeys(RUNTIME, STRICT),
            **dict.fromkeys(emptied, Rule("finding", "left", "emptied at every reclaim", walk=False)),
            **dict.fromkeys(skip, ignored("left out by `manifest_skip`")),
            **{
                f"{home.rstrip('/')}/.ansible": Rule("removed", "left", "the platform's own log-ins")
                for home in homes
            },
        }

    def child(self, folder: str, name: str, inherited: Rule) -> Rule:
        """The rule of a name in a folder whose own rule is known."""
        exact = self.exact.get(f"{folder.rstrip('/')}/{name}")
        if exact is not None:
            return exact
        if inherited is SHALLOW:
            return BELOW_SHALLOW
        for pattern, rule in (*PATTERNS.get(folder, ()), *PATTERNS[""]):
            if fnmatchcase(name, pattern):
                return rule
        return inherited

    def of(self, path: str) -> Rule:
        if path == "/":
            return STRICT
        folder, _, name = path.rpartition("/")
        return self.child(folder or "/", name, self._folder(folder or "/"))

    def _folder(self, folder: str) -> Rule:
        """The same for a folder, remembered: its files ask again and again."""
        found = self.folders.get(folder)
        if found is None:
            found = self.folders[folder] = self.of(folder)
        return found
