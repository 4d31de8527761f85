"""Builds the facade's image where no registry and no package index may be reached from inside a build.

The base comes from mmdebstrap, the packages are downloaded outside; both are kept between runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

from tests.lab import images
from tests.lab.run import LabError, run, say

ROOT = Path(__file__).resolve().parents[2]
CACHE = images.CACHE.parent / "image"
PUBLIC_BASE = "python:3.11-slim"
PACKAGES = ("python3", "python3-venv", "openssh-client", "ca-certificates", "tini", "busybox-static")
CONTEXT = (
    "Dockerfile",
    ".dockerignore",
    "README.md",
    "ansible.cfg",
    "constraints.txt",
    "pyproject.toml",
    "api",
    "inventory",
    "playbooks",
    "stacks",
    "templates",
    "tests",  # to be left out by .dockerignore
)
JUNK = shutil.ignore_patterns("__pycache__", ".ruff_cache", ".mypy_cache", "*.pyc", "recordings")


def base() -> str:
    """A tag with Python, its venv module and the programs of the image. Raises LabError."""
    if not images.native():
        return PUBLIC_BASE
    release = images.os_release()
    suite = release["VERSION_CODENAME"]
    tag = f"ironyard-image-base:{_digest(suite, *PACKAGES)}"
    if run("docker", "image", "inspect", "--format", "{{.Id}}", tag, check=False).strip():
        return tag
    tarball = CACHE / f"{tag.partition(':')[2]}.tar"
    if not tarball.exists():
        say("building the image's base with mmdebstrap (about a minute)")
        images.bootstrap(tarball, PACKAGES)
    run("docker", "import", str(tarball), tag)
    return tag


def wheels(python: str) -> Path:
    """A folder with every package of the lock, for this version of Python (`3.11`). Raises LabError."""
    lock = ROOT / "constraints.txt"
    place = CACHE / f"wheels-{_digest(python, lock.read_text())}"
    if place.exists():
        return place
    say("downloading the packages of constraints.txt (a minute)")
    draft = place.with_name(f"{place.name}.{os.getpid()}")
    options = (
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        f"--python-version={python}",
    )
    run(sys.executable, "-m", "pip", "download", *options, "-r", str(lock), "-d", str(draft), timeout=900)
    for old in CACHE.glob("wheels-*"):
        if old != draft:
            shutil.rmtree(old, ignore_errors=True)
    draft.rename(place)
    return place


def build(context: Path) -> str:
    """The tag of the image, built from a copy of the tree in `context`. Raises LabError."""
    chosen = base()
    show = "import sys; print('%d.%d' % sys.version_info[:2])"
    python = run("docker", "run", "--rm", chosen, "python3", "-c", show).strip()
    for name in CONTEXT:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=JUNK)
        else:
            shutil.copy(ROOT / name, context / name)
    shutil.copytree(wheels(python), context / "build" / "wheels", copy_function=_link)
    tag = f"ironyard-image-test:{_digest(str(context))}"
    arguments = (f"--build-arg=BASE={chosen}", "--build-arg=PIP_NO_INDEX=1")
    run("docker", "build", "--quiet", *arguments, f"--tag={tag}", str(context), timeout=1800)
    return tag


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy(source, target)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


__all__ = ["LabError", "base", "build", "wheels"]
