"""Packages and repositories, the same for apt and dnf: what is there, what is offered, all or none."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ansible.module_utils.steps import SEARCH_PATH, Ran, StepFailed, run

UNREACHABLE = re.compile(
    r"Could not (?:connect|resolve)|Failed to fetch|Unable to connect|Connection (?:failed|refused|timed out)"
    r"|Cannot download|Failed to download|Temporary failure|Could not retrieve|Curl error",
    re.IGNORECASE,
)
UNSIGNED = re.compile(
    r"NO_PUBKEY|BADSIG|EXPKEYSIG|REVKEYSIG|is not signed|couldn't be verified|No good signature"
    r"|GPG (?:check|error)|[Pp]ublic key for \S+ is not installed|not correct for this package"
    r"|Bad GPG signature"
)
TOLD = 6  # lines of a package manager's complaint that are kept


@dataclass(frozen=True)
class Wanted:
    """A package; ``version`` may be a pattern such as ``580.*`` and is None where any will do."""

    name: str
    version: str | None = None

    @classmethod
    def parse(cls, text: str) -> Wanted:
        name, _, version = text.partition("=")
        return cls(name, version or None)

    def accepts(self, version: str | None) -> bool:
        """Whether this version will do. An epoch (3:580.95-1) is not part of what is asked for."""
        if version is None:
            return False
        plain = version.rsplit(":", 1)[-1]
        return self.version is None or any(
            fnmatch.fnmatchcase(said, self.version) for said in (version, plain)
        )

    def __str__(self) -> str:
        return f"{self.name}={self.version}" if self.version else self.name


@dataclass(frozen=True)
class Manager:
    """What apt and dnf share. ``options`` go to every call; ``proxy`` is for this run only."""

    options: tuple[str, ...] = ()
    proxy: str = ""
    timeout: float = 1800.0

    def call(self, *argv: str) -> Ran:
        settings = [f"{name}={self.proxy}" for name in ("http_proxy", "https_proxy") if self.proxy]
        quiet = ["DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_MODE=l", "APT_LISTCHANGES_FRONTEND=none"]
        return run("env", *settings, *quiet, *argv, timeout=self.timeout)

    def must(self, what: str, *argv: str) -> Ran:
        ran = self.call(*argv)
        if not ran.ok:
            raise StepFailed(f"{what}: {reason(ran)}", complaint(ran))
        return ran

    def installed(self, names: Sequence[str]) -> dict[str, str]:
        """Versions of those packages that are installed."""
        raise NotImplementedError

    def offered(self, wanted: Wanted) -> str | None:
        """The best version that a repository offers and that will do."""
        raise NotImplementedError

    def refresh(self) -> list[str]:
        """Read the repositories' lists again; what went wrong, which need not matter."""
        raise NotImplementedError

    def install(self, packages: Sequence[Wanted]) -> None:
        """Install exactly these versions, all or none of them."""
        raise NotImplementedError

    def missing(self, packages: Sequence[Wanted]) -> list[Wanted]:
        present = self.installed([package.name for package in packages])
        return [package for package in packages if not package.accepts(present.get(package.name))]

    def choose(self, packages: Sequence[Wanted]) -> list[Wanted]:
        """Each package with the version that will be installed. Raises StepFailed when one is not offered."""
        versions = {package: self.offered(package) for package in packages}
        problems: list[str] = []
        if None in versions.values():
            problems = self.refresh()
            versions = {package: self.offered(package) for package in packages}
        absent = [str(package) for package, version in versions.items() if version is None]
        if absent:
            raise StepFailed(
                f"no package repository of this host offers {', '.join(absent)}"
                + (": some could not be read" if problems else ""),
                problems[:TOLD],
            )
        return [Wanted(package.name, version) for package, version in versions.items()]


@dataclass(frozen=True)
class Apt(Manager):
    lists: Path = field(default=Path("/var/lib/apt/lists"))

    def installed(self, names: Sequence[str]) -> dict[str, str]:
        asked = run("dpkg-query", "-W", "-f=${Package}\t${db:Status-Status}\t${Version}\n", *names)
        if asked.code not in (0, 1):  # 1: it does not know all of them
            raise StepFailed("dpkg cannot say what is installed", [asked.tail()])
        rows = (line.split("\t") for line in asked.out.splitlines())
        return {row[0]: row[2] for row in rows if len(row) == 3 and row[1] == "installed"}

    def offered(self, wanted: Wanted) -> str | None:
        rows = (line.split("|") for line in run("apt-cache", "madison", wanted.name).out.splitlines())
        versions = [row[1].strip() for row in rows if len(row) > 2 and row[0].strip() == wanted.name]
        return next((version for version in versions if wanted.accepts(version)), None)

    def refresh(self) -> list[str]:
        ran = self.call("apt-get", "update", "-q", *self.options)
        return complaint(ran)

    def install(self, packages: Sequence[Wanted]) -> None:
        command = (
            "apt-get", "install", "-y", "-q", "--no-install-recommends", "--allow-downgrades",
            "-oDpkg::Options::=--force-confold", "-oDPkg::Lock::Timeout=120", *self.options,
        )  # fmt: skip
        names = [str(package) for package in packages]
        self.must(
            "the packages cannot be fetched, nothing was installed", *command, "--download-only", *names
        )
        self.must("the packages cannot be installed", *command, *names)


@dataclass(frozen=True)
class Dnf(Manager):
    def installed(self, names: Sequence[str]) -> dict[str, str]:
        asked = run("rpm", "-q", "--qf", "%{NAME}\t%{VERSION}-%{RELEASE}\n", *names)
        rows = (line.split("\t") for line in asked.out.splitlines())
        return {row[0]: row[1] for row in rows if len(row) == 2}

    def offered(self, wanted: Wanted) -> str | None:
        name = f"{wanted.name}-{wanted.version}" if wanted.version else wanted.name
        asked = self.call(
            "dnf", "-q", *self.options, "repoquery", "--latest-limit=1",
            "--qf=%{name}\t%{version}-%{release}", name,
        )  # fmt: skip
        rows = (line.split("\t") for line in asked.out.splitlines())
        versions = [row[1] for row in rows if len(row) == 2 and row[0] == wanted.name]
        return next((version for version in versions if wanted.accepts(version)), None)

    def refresh(self) -> list[str]:
        ran = self.call("dnf", "-q", "-y", *self.options, "makecache", "--refresh")
        return [] if ran.ok else complaint(ran)

    def install(self, packages: Sequence[Wanted]) -> None:
        names = [f"{package.name}-{package.version}" for package in packages]
        self.must(
            "the packages cannot be installed", "dnf", "-y", "-q", "--allowerasing",
            "--setopt=install_weak_deps=False", *self.options, "install", *names,
        )  # fmt: skip

    def stream(self, name: str) -> bool:
        """Choose a module's stream, as in ``nvidia-driver:580-open``; whether that changed anything."""
        module, _, wanted = name.partition(":")
        enabled = self.call("dnf", "-q", *self.options, "module", "list", "--enabled", module)
        if any(line.split()[:2] == [module, wanted] for line in enabled.out.splitlines()):
            return False
        self.must(f"dnf cannot choose {name}", "dnf", "-y", "-q", *self.options, "module", "reset", module)
        self.must(f"dnf cannot choose {name}", "dnf", "-y", "-q", *self.options, "module", "enable", name)
        return True


def manager(options: dict[str, list[str]] | None = None, proxy: str = "") -> Apt | Dnf:
    """The host's own package manager. Raises StepFailed when there is neither apt nor dnf.

    ``options`` holds more arguments for each of them, by name.
    """
    more = options or {}
    for name, kind in (("dnf", Dnf), ("apt-get", Apt)):
        if shutil.which(name, path=SEARCH_PATH):
            short = name.partition("-")[0]
            return kind(options=tuple(more.get(short, ())), proxy=proxy)
    raise StepFailed("this host has neither apt nor dnf: packages cannot be installed")


def complaint(ran: Ran) -> list[str]:
    """The lines in which a package manager says what is wrong."""
    lines = [" ".join(line.split()) for line in (ran.err + "\n" + ran.out).splitlines()]
    told = [line for line in lines if re.match(r"(E|W|Err(:\d+)?|Error|Errors|warning|error)\b:?", line)]
    return list(dict.fromkeys(told or ([] if ran.ok else [ran.tail()])))[:TOLD]


def reason(ran: Ran) -> str:
    said = ran.err + ran.out
    if ran.code == 124:
        return "it took too long"
    if UNSIGNED.search(said):
        return "the repository's signature does not fit the key that was given for it"
    if UNREACHABLE.search(said):
        return "a package repository cannot be reached"
    if "No space left" in said or "enough free space" in said:
        return "no space is left on the host"
    return next(iter(complaint(ran)), f"exit {ran.code}")


def family(release: dict[str, str]) -> str:
    """Debian, ubuntu or rhel: by which the tables of packages are read."""
    name = release.get("ID", "")
    return name if name in ("debian", "ubuntu") else "rhel"


def places(release: dict[str, str], machine: str | None = None) -> dict[str, str]:
    """What the words in an address or package name stand for on this host."""
    built = machine or os.uname().machine
    name, version = family(release), release.get("VERSION_ID", "").split()[0] if release else ""
    plain = version.split(".")[0] if name != "ubuntu" else version.replace(".", "")
    return {
        "id": name,
        "distro": f"{name}{plain}",
        "version": version.split(".")[0],
        "codename": release.get("VERSION_CODENAME", ""),
        "arch": {"aarch64": "sbsa"}.get(built, built),
        "machine": built,
        "debarch": {"x86_64": "amd64", "aarch64": "arm64"}.get(built, built),
        "kernel": os.uname().release,
    }


def fill(text: str, words: dict[str, str]) -> str:
    """A name or address with its words replaced. Raises StepFailed for one that nobody knows."""
    try:
        return text.format_map(words)
    except (KeyError, ValueError, IndexError) as error:
        raise StepFailed(
            f"'{text}' cannot be read: {error} is not one of {', '.join(sorted(words))}"
        ) from error
