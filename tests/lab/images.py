"""The image of a lab host: a base of packages, and a thin layer with the simulator and the host's settings.

Both tags carry a hash of what went in, so a changed simulator costs a second and no new base.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.lab.packages import catalog, deb
from tests.lab.run import LabError, run, say

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ironyard" / "lab"
RECIPE = 1  # counts changes of the base that packages.txt does not show
STAND_INS = "var/cache/stand-ins"
INSTALL = f"dpkg --force-unsafe-io -i /{STAND_INS}/*.deb && rm -r /{STAND_INS}"
LINKS = {
    "usr/bin/lspci": "/usr/lib/nvidia-sim/lspci.py",
    "usr/sbin/nvidia-sim": "/usr/lib/nvidia-sim/nvidia_sim.py",
    "etc/systemd/system/ssh.service.wants/lab-host-keys.service": "../lab-host-keys.service",
    # hosts must not change by themselves while a playbook is compared with them
    "etc/systemd/system/apt-daily.timer": "/dev/null",
    "etc/systemd/system/apt-daily-upgrade.timer": "/dev/null",
    "etc/systemd/system/e2scrub_all.timer": "/dev/null",
    "etc/systemd/system/dpkg-db-backup.timer": "/dev/null",
}
CHANGES = ('CMD ["/lib/systemd/systemd"]', "ENV container=docker")


def os_release() -> dict[str, str]:
    path = Path("/etc/os-release")
    lines = path.read_text().splitlines() if path.exists() else []
    return {k: v.strip('"') for k, _, v in (line.partition("=") for line in lines if "=" in line)}


def packages() -> list[str]:
    names = (HERE / "image" / "packages.txt").read_text().split()
    # newer releases ship the client apart
    if shutil.which("apt-cache") and "Package: docker-cli" in run(
        "apt-cache", "show", "docker-cli", check=False
    ):
        names.append("docker-cli")
    return names


def native() -> bool:
    """Whether images can be made from the machine's own distribution."""
    return (
        os.geteuid() == 0
        and bool(shutil.which("mmdebstrap"))
        and os_release().get("ID") in ("debian", "ubuntu")
    )


def base_tag() -> str:
    release = os_release()
    system = f"{release.get('ID')}-{release.get('VERSION_CODENAME')}" if native() else "debian-12"
    inputs = f"{RECIPE} {system} {' '.join(packages())}"
    return f"ironyard-lab-base:{hashlib.sha256(inputs.encode()).hexdigest()[:12]}"


def sources() -> list[str]:
    """The machine's own list of the distribution's packages; none means mmdebstrap's default."""
    name = os_release().get("ID", "")
    known = (Path(f"/etc/apt/sources.list.d/{name}.sources"), Path("/etc/apt/sources.list"))
    return [str(path) for path in known if path.exists()][:1]


def bootstrap(target: Path, names: Sequence[str]) -> None:
    """A tar archive of a small system with these packages. Raises LabError."""
    suite = os_release().get("VERSION_CODENAME", "")
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".part")
    excludes = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
    run(
        "mmdebstrap",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(names)}",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in excludes),
        '--customize-hook=rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/apt/apt.conf.d/99mmdebstrap',
        '--customize-hook=: > "$1"/etc/machine-id',
        suite,
        str(unfinished),
        *sources(),
        timeout=1800,
    )
    unfinished.rename(target)


def _has(tag: str) -> bool:
    return bool(run("docker", "image", "inspect", "--format", "{{.Id}}", tag, check=False).strip())


def ensure_base() -> str:
    tag = base_tag()
    if _has(tag):
        return tag
    if not native():
        say("building the base image with the Dockerfile")
        run("docker", "build", "-t", tag, "-f", str(HERE / "image" / "Dockerfile"), str(HERE), timeout=1800)
        return tag
    tarball = CACHE / f"{tag.partition(':')[2]}.tar"
    if not tarball.exists():
        say("building the base image with mmdebstrap (about a minute)")
        bootstrap(tarball, packages())
    say("importing the base image")
    changes = [part for change in CHANGES for part in ("-c", change)]
    run("docker", "import", *changes, str(tarball), tag)
    return tag


def overlay() -> bytes:
    """The thin layer as a tar archive with the stand-in packages, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _directory(tar, "var/lib/nvidia-sim", 0o1777)
        _empty(tar, "var/lib/nvidia-sim/state.json", 0o666)  # hardware has a state before anybody uses it
        _directory(tar, "etc/nvidia-sim", 0o755)
        for root, prefix in ((HERE / "simulator", "usr/lib/nvidia-sim"), (HERE / "image" / "overlay", "")):
            for path in sorted(p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
                _file(tar, f"{prefix}/{path.relative_to(root)}".lstrip("/"), path)
        for package in catalog.vendor():
            _content(tar, f"{STAND_INS}/{package.name}.deb", deb.build(package))
        for name, target in sorted(LINKS.items()):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    return buffer.getvalue()


def _directory(tar: tarfile.TarFile, name: str, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    tar.addfile(info)


def _empty(tar: tarfile.TarFile, name: str, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.mode = mode
    tar.addfile(info)


def _file(tar: tarfile.TarFile, name: str, path: Path) -> None:
    _content(tar, name, path.read_bytes())


def _content(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o755 if content.startswith(b"#!") else 0o644
    tar.addfile(info, io.BytesIO(content))


def ensure() -> str:
    """The tag of the finished image, built where needed. Raises LabError."""
    layer = overlay()
    base = base_tag()
    tag = f"ironyard-lab:{hashlib.sha256(base.encode() + layer).hexdigest()[:12]}"
    if _has(tag):
        return tag
    base = ensure_base()
    say("adding the simulator and the stand-in packages to the image")
    container = run("docker", "create", "--network=none", base, "sh", "-ec", INSTALL).strip()
    try:
        run("docker", "cp", "-", f"{container}:/", stdin=layer)
        run("docker", "start", "--attach", container)
        run("docker", "commit", *(part for change in CHANGES for part in ("-c", change)), container, tag)
    finally:
        run("docker", "rm", container, check=False)
    for old in _tags("ironyard-lab"):
        if old != tag:
            run("docker", "rmi", old, check=False)  # the engine keeps those which hosts still use
    return tag


def _tags(repository: str) -> list[str]:
    return run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}", repository).split()


def remove_all() -> None:
    if ours := _tags("ironyard-lab") + _tags("ironyard-lab-base"):
        run("docker", "rmi", "-f", *ours)


__all__ = ["LabError", "base_tag", "ensure", "ensure_base", "overlay", "remove_all"]
