"""RPM packages and a repository of them, each package signed; needs rpmbuild, rpmsign and createrepo_c."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from tests.lab.packages.catalog import Package
from tests.lab.packages.keys import Key
from tests.lab.run import run

TOOLS = ("rpmbuild", "rpmsign", "createrepo_c", "dnf", "rpm")


def missing() -> list[str]:
    """Those of the tools that this machine does not have."""
    return [name for name in TOOLS if not shutil.which(name)]


def spec(package: Package, source: Path) -> str:
    paths = [*package.files, *package.links]
    return (
        f"Name: {package.name}\nVersion: {package.version}\nRelease: {package.rpm_release}\n"
        "Summary: Stand-in for the package of this name\nLicense: none\nBuildArch: noarch\nAutoReqProv: no\n"
        + "".join(f"Requires: {name.split()[0]}\n" for name in package.depends)
        + f"%description\nStand-in.\n%install\ncp -a {source}/. %{{buildroot}}/\n%files\n"
        + "".join(f"{path}\n" for path in paths)
    )


def build(folder: Path, package: Package) -> None:
    """One package into the folder. Raises LabError."""
    work = folder.parent / f"build-{package.name}-{package.version}"
    source = work / "source"
    source.mkdir(parents=True)
    for path, raw in package.files.items():
        real = source / path.lstrip("/")
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_bytes(raw)
        real.chmod(0o755 if raw.startswith(b"#!") else 0o644)
    for path, target in package.links.items():
        real = source / path.lstrip("/")
        real.parent.mkdir(parents=True, exist_ok=True)
        real.symlink_to(target)
    (work / "package.spec").write_text(spec(package, source))
    settings = {"_topdir": work, "_rpmdir": folder, "_build_id_links": "none", "debug_package": "%{nil}"}
    defines = [part for name, said in settings.items() for part in ("--define", f"{name} {said}")]
    run("rpmbuild", "-bb", "--quiet", *defines, str(work / "package.spec"))
    shutil.rmtree(work)


def publish(folder: Path, packages: Iterable[Package], key: Key) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for package in packages:
        build(folder, package)
    settings = {"_gpg_path": key.home, "_gpg_name": "Ironyard lab", "__gpg": shutil.which("gpg")}
    signing = [part for name, said in settings.items() for part in ("--define", f"{name} {said}")]
    run("rpmsign", *signing, "--addsign", *map(str, sorted(folder.rglob("*.rpm"))))
    run("createrepo_c", "--quiet", str(folder))
