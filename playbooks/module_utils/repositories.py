"""Package repositories of the platform: written only when they answer and their signature fits."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils import software, tracked
from ansible.module_utils.steps import StepFailed

ROOT = Path("/")
PREFIX = "ironyard-"
FETCH_SECONDS = 30
HEADER = "# Ironyard: changes here are overwritten by the next enrolment.\n"


@dataclass(frozen=True)
class Repository:
    """``suite`` and ``components`` are apt's; a flat repository has the suite / and no components.

    ``key`` is the signer's public key as text; without it, it is fetched from ``key_url``.
    """

    name: str
    url: str
    suite: str = "/"
    components: str = ""
    key: str = ""
    key_url: str = ""
    key_sha256: str = ""

    @classmethod
    def read(cls, name: str, said: dict[str, Any], words: dict[str, str]) -> Repository:
        known = ("url", "suite", "components", "key_url")
        filled = {part: software.fill(str(said[part]), words) for part in known if said.get(part)}
        url = filled.pop("url").rstrip("/")
        key_url = filled.pop("key_url", "")
        if key_url:
            key_url = urllib.parse.urljoin(f"{url}/", key_url)
        plain = {part: str(said[part]) for part in ("key", "key_sha256") if said.get(part)}
        return cls(name=name, url=url, key_url=key_url, **filled, **plain)


@dataclass(frozen=True)
class Layout:
    """Where one package manager keeps its repositories and their keys."""

    sources: str
    suffix: str
    keys: str

    def source(self, name: str) -> str:
        return f"{self.sources}/{PREFIX}{name}{self.suffix}"

    def key(self, name: str, raw: bytes) -> str:
        return f"{self.keys}/{PREFIX}{name}{'.asc' if raw.lstrip().startswith(b'-----BEGIN') else '.gpg'}"


LAYOUTS: dict[type, Layout] = {
    software.Apt: Layout("/etc/apt/sources.list.d", ".sources", "/etc/apt/keyrings"),
    software.Dnf: Layout("/etc/yum.repos.d", ".repo", "/etc/pki/rpm-gpg"),
}


def wanted_files(manager: software.Manager, repository: Repository, raw: bytes) -> dict[str, bytes]:
    layout = LAYOUTS[type(manager)]
    key = layout.key(repository.name, raw)
    write = _apt if isinstance(manager, software.Apt) else _dnf
    return {key: raw, layout.source(repository.name): (HEADER + write(repository, key)).encode()}


def _apt(repository: Repository, key: str) -> str:
    lines = {
        "Types": "deb",
        "URIs": repository.url + ("/" if repository.suite == "/" else ""),
        "Suites": repository.suite,
        "Components": repository.components,
        "Signed-By": key,
    }
    return "".join(f"{name}: {said}\n" for name, said in lines.items() if said)


def _dnf(repository: Repository, key: str) -> str:
    return (
        f"[{PREFIX}{repository.name}]\nname=Ironyard {repository.name}\nbaseurl={repository.url}\n"
        f"enabled=1\nskip_if_unavailable=0\ngpgcheck=1\ngpgkey=file://{key}\n"
    )


def known_key(manager: software.Manager, repository: Repository, root: Path = ROOT) -> bytes | None:
    """The key that an earlier run put in place, unless another one is asked for now."""
    if repository.key:
        return None
    layout = LAYOUTS[type(manager)]
    for suffix in (".asc", ".gpg"):
        path = root / f"{layout.keys}/{PREFIX}{repository.name}{suffix}".lstrip("/")
        if path.is_file():
            raw = path.read_bytes()
            digest = hashlib.sha256(raw).hexdigest()
            return raw if repository.key_sha256 in ("", digest) else None
    return None


def fetch_key(repository: Repository, proxy: str) -> bytes:
    """The repository's public key. Raises StepFailed when it cannot be had or is not the one expected."""
    raw = repository.key.encode() or _download(repository, proxy)
    digest = hashlib.sha256(raw).hexdigest()
    if repository.key_sha256 and digest != repository.key_sha256:
        raise StepFailed(
            f"the key of the repository {repository.name} is not the expected one: its SHA-256 is {digest}, "
            f"not {repository.key_sha256}"
        )
    return raw


def _download(repository: Repository, proxy: str) -> bytes:
    if not repository.key_url.startswith(("http://", "https://")):
        raise StepFailed(f"the repository {repository.name} has neither a key nor an address of one")
    proxies = {"http": proxy, "https": proxy} if proxy else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    try:
        with opener.open(repository.key_url, timeout=FETCH_SECONDS) as answer:
            said: bytes = answer.read(1 << 20)
    except (OSError, urllib.error.URLError) as error:
        raise StepFailed(
            f"the repository {repository.name} cannot be reached: no key at {repository.key_url}: {error}"
        ) from error
    return said


def prove(manager: software.Manager, files: dict[str, bytes]) -> None:
    """Read the repositories from a folder aside. Raises StepFailed when one does not answer or is not signed.

    The host's own files are not touched.
    """
    aside = Path(tempfile.mkdtemp(prefix="ironyard-", dir="/run"))
    try:
        aside.chmod(0o755)  # apt reads as a user of its own
        moved = {path: str(aside / Path(path).name) for path in files}
        for path, raw in files.items():
            text = raw
            for old, new in moved.items():
                text = text.replace(old.encode(), new.encode()) if text.startswith(HEADER.encode()) else text
            Path(moved[path]).write_bytes(text)
            Path(moved[path]).chmod(0o644)
        _read(manager, aside)
    finally:
        shutil.rmtree(aside)


def _read(manager: software.Manager, aside: Path) -> None:
    if isinstance(manager, software.Apt):
        argv = (
            "apt-get", "update", "-q", "-oDir::Etc::sourcelist=/dev/null", f"-oDir::Etc::sourceparts={aside}",
            "-oAPT::Get::List-Cleanup=0", "-oAPT::Update::Error-Mode=any", *manager.options,
        )  # fmt: skip
    else:
        argv = ("dnf", "-y", "-q", f"--setopt=reposdir={aside}", *manager.options, "makecache", "--refresh")
    manager.must("the package repositories cannot be used, nothing was changed", *argv)


def differing(files: dict[str, bytes], root: Path = ROOT) -> list[str]:
    return [path for path, raw in files.items() if _content(root / path.lstrip("/")) != raw]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def write(files: dict[str, bytes], paths: list[str], root: Path = ROOT) -> None:
    """Keys come first: a source is never there without its key."""
    for path in sorted(paths, key=lambda name: not files[name].startswith(HEADER.encode()), reverse=True):
        real = root / path.lstrip("/")
        tracked.write(real, files[path], 0o644)
        if os.geteuid() == 0:
            os.chown(real, 0, 0)


def stale(manager: software.Manager, keep: dict[str, bytes], root: Path = ROOT) -> list[str]:
    """Files of repositories that the platform once wrote and no longer wants."""
    return [path for path in ours(root, [LAYOUTS[type(manager)]]) if path not in keep]


def ours(root: Path = ROOT, layouts: list[Layout] | None = None) -> list[str]:
    """Every repository file and key that the platform put on this host."""
    found: list[Path] = []
    for layout in layouts or list(LAYOUTS.values()):
        for folder in (layout.sources, layout.keys):
            found += sorted((root / folder.lstrip("/")).glob(f"{PREFIX}*"))
    return [f"/{path.relative_to(root)}" for path in found]
