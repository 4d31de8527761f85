"""Debian packages and a signed flat repository, made without Debian's own tools so that any machine can."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from tests.lab.packages.catalog import Package
from tests.lab.packages.keys import Key


def control(package: Package) -> str:
    lines = {
        "Package": package.name,
        "Version": package.debian_version,
        "Architecture": "all",
        "Maintainer": "Ironyard lab <lab@ironyard.invalid>",
        "Depends": ", ".join(package.depends),
        "Description": "Stand-in for the package of this name",
    }
    return "".join(f"{name}: {said}\n" for name, said in lines.items() if said)


def build(package: Package) -> bytes:
    """A .deb: an ar archive of a version, a control archive and the files."""
    scripts = {"control": (control(package).encode(), 0o644)}
    if package.script:
        scripts["postinst"] = (f"#!/bin/sh\nset -e\n{package.script}\n".encode(), 0o755)
    conf = [path for path in package.files if path.startswith("/etc/")]
    if conf:
        scripts["conffiles"] = ("".join(f"{path}\n" for path in conf).encode(), 0o644)
    files = {
        path.lstrip("/"): (raw, 0o755 if raw.startswith(b"#!") else 0o644)
        for path, raw in package.files.items()
    }
    links = {path.lstrip("/"): target for path, target in package.links.items()}
    members = (
        ("debian-binary", b"2.0\n"),
        ("control.tar.gz", _tar(scripts, {})),
        ("data.tar.gz", _tar(files, links)),
    )
    return b"!<arch>\n" + b"".join(_member(name, raw) for name, raw in members)


def _member(name: str, raw: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(raw):<10}`\n".encode()
    return head + raw + b"\n" * (len(raw) % 2)


def _tar(files: dict[str, tuple[bytes, int]], links: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for folder in _folders([*files, *links]):
            info = tarfile.TarInfo(f"./{folder}/" if folder else "./")
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        for name, (raw, mode) in sorted(files.items()):
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.mode = len(raw), mode
            tar.addfile(info, io.BytesIO(raw))
        for name, target in sorted(links.items()):
            info = tarfile.TarInfo(f"./{name}")
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, target, 0o777
            tar.addfile(info)
    return gzip.compress(buffer.getvalue(), mtime=0)


def _folders(paths: Iterable[str]) -> list[str]:
    found = {""}
    for path in paths:
        parts = path.split("/")[:-1]
        found |= {"/".join(parts[: end + 1]) for end in range(len(parts))}
    return sorted(found)


def publish(folder: Path, packages: Iterable[Package], key: Key) -> None:
    """A flat repository in the folder, its Release file signed inside and beside."""
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    for package in packages:
        raw = build(package)
        name = f"{package.name}_{package.debian_version}_all.deb"
        (folder / name).write_bytes(raw)
        digest = hashlib.sha256(raw).hexdigest()
        index.append(f"{control(package)}Filename: ./{name}\nSize: {len(raw)}\nSHA256: {digest}\n")
    listing = "\n".join(index).encode()
    (folder / "Packages").write_bytes(listing)
    digest, date = hashlib.sha256(listing).hexdigest(), format_datetime(datetime.now(UTC), usegmt=True)
    release = (
        f"Origin: Ironyard lab\nLabel: stand-ins\nSuite: lab\nDate: {date}\nArchitectures: all amd64 arm64\n"
        f"SHA256:\n {digest} {len(listing)} Packages\n"
    )
    (folder / "Release").write_text(release)
    key.sign(folder / "Release", folder / "InRelease", clear=True)
