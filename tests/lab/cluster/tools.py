"""The programs a cluster lab runs: official ones on PATH first, the rest built once by Go and kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.run import LabError, run, say

SOURCES = Path(__file__).with_name("tools")
DEBIAN = {"etcd": "etcd-server", "docker-registry": "docker-registry"}
HOST_MODULE = "github.com/pulumi/pulumi/sdk/v3"
KWOK_MODULE = "sigs.k8s.io/kwok"
KUBERNETES = {"gitVersion": "v1.34.4", "gitMajor": "1", "gitMinor": "34"}


class ToolsMissing(LabError):
    """A program is neither installed nor can be built here; the message says which and what to install."""


@dataclass(frozen=True)
class Module:
    """One Go module: what it builds, and the names its binary answers to."""

    name: str
    package: str
    programs: tuple[str, ...]
    variables: Mapping[str, str]
    # programs that are only taken from PATH together
    together: bool = False


def _kubernetes_version() -> dict[str, str]:
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return {f"{package}.{key}": value for package in packages for key, value in KUBERNETES.items()}


MODULES = (
    Module(
        "pulumi",
        "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
        ("pulumi",),
        {"github.com/pulumi/pulumi/sdk/v3/go/common/version.Version": "3.259.0"},
        together=True,
    ),
    Module(
        "pulumi-language-python",
        f"{HOST_MODULE}/python/cmd/pulumi-language-python",
        (
            "pulumi-language-python",
            "pulumi-language-python-exec",
            "pulumi-analyzer-policy-python",
            "pulumi-resource-pulumi-python",
        ),
        {},
        together=True,
    ),
    Module(
        "kubernetes",
        ".",
        ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
        _kubernetes_version(),
    ),
    Module("kwok", f"{KWOK_MODULE}/cmd/kwok", ("kwok",), {}),
    Module(
        "helm",
        "helm.sh/helm/v3/cmd/helm",
        ("helm",),
        {"helm.sh/helm/v3/internal/version.version": "v3.20.2"},
    ),
)


@dataclass(frozen=True)
class Tools:
    """Programs by name; `built` are those that are not on PATH, `stages` is kwok's folder of stage files."""

    programs: Mapping[str, Path]
    built: frozenset[str]
    stages: Path | None

    def __getitem__(self, name: str) -> str:
        return str(self.programs[name])

    def link(self, folder: Path, *, leave_out: Sequence[str] = ()) -> Path:
        """A folder for PATH that holds what PATH lacks."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.built - set(leave_out):
            place = folder / name
            place.unlink(missing_ok=True)
            place.symlink_to(self.programs[name])
        return folder


NONE = Tools({}, frozenset(), None)


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ironyard" / "tools"


def ensure() -> Tools:
    """Every program, built where it is missing (minutes the first time; progress on stderr).

    Raises ToolsMissing when one is missing and cannot be built here, LabError when a build fails.
    """
    found = {name: path for name in DEBIAN if (path := shutil.which(name))}
    if absent := sorted(set(DEBIAN) - set(found)):
        packages = ", ".join(DEBIAN[name] for name in absent)
        raise ToolsMissing(f"Not installed: {packages}; `make setup` as root on Debian installs them.")
    programs = {name: Path(path) for name, path in found.items()}
    built: set[str] = set()
    stages = None
    official = _official()
    to_build = [module for module in MODULES if not set(module.programs) <= set(official)]
    version = _go_version(to_build) if to_build else ""
    for module in MODULES:
        if module not in to_build:
            programs.update({name: official[name] for name in module.programs})
            continue
        place = _built(module, version)
        here = {name for name in module.programs if module.together or name not in official}
        programs.update({name: place / name for name in here})
        programs.update({name: official[name] for name in module.programs if name not in here})
        built |= here
        stages = place / "stages" if module.name == "kwok" else stages
    return Tools(programs, frozenset(built), stages)


def _official() -> dict[str, Path]:
    """Programs on PATH; Pulumi's only as a whole, because its engine and language host fit each other."""
    found = {
        name: Path(place) for m in MODULES for name in m.programs if (place := shutil.which(name)) is not None
    }
    whole = {name for m in MODULES if m.together for name in m.programs}
    if not whole <= set(found):
        found = {name: place for name, place in found.items() if name not in whole}
    return found


def _go_version(modules: list[Module]) -> str:
    names = ", ".join(module.name for module in modules)
    needed = max(_numbers(_directive(module)) for module in modules)
    said = run("go", "version", check=False) if shutil.which("go") else ""
    match = re.search(r"go(\d+(\.\d+)+)", said)
    if match is None or _numbers(match[1]) < needed:
        wanted = ".".join(map(str, needed))
        raise ToolsMissing(f"Go {wanted} or newer is not installed, so {names} cannot be built.")
    return said.strip()


def _directive(module: Module) -> str:
    """The Go version that a module and what it requires ask for."""
    text = (SOURCES / module.name / "go.mod").read_text()
    return next(line.split()[1] for line in text.splitlines() if line.startswith("go "))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _fingerprint(module: Module, go_version: str) -> str:
    digest = hashlib.sha256(f"{go_version} {module.package} {sorted(module.variables.items())}".encode())
    for path in sorted((SOURCES / module.name).iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(name: str) -> Iterator[None]:
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _built(module: Module, go_version: str) -> Path:
    place = cache() / f"{module.name}-{_fingerprint(module, go_version)}"
    if place.is_dir():
        return place
    with _locked(module.name):
        if not place.is_dir():
            say(f"building {module.name} (once; minutes on a small machine)")
            work = Path(tempfile.mkdtemp(prefix=f".{module.name}-", dir=cache()))
            try:
                _build(module, work)
                work.chmod(0o755)
                work.rename(place)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    return place


def _build(module: Module, place: Path) -> None:
    flags = " ".join(["-s -w", *(f"-X {name}={value}" for name, value in module.variables.items())])
    binary = place / module.programs[0]
    _go(module, "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", str(binary), module.package)
    if module.name == "pulumi-language-python":
        _host_scripts(module, place)
        return
    if module.name == "kwok":
        _stages(module, place / "stages")
    for other in module.programs[1:]:
        (place / other).symlink_to(binary.name)


def _host_scripts(module: Module, place: Path) -> None:
    source = _module_folder(module, HOST_MODULE) / "python"
    for folder, name in (
        ("cmd", "pulumi-language-python-exec"),
        ("dist", "pulumi-analyzer-policy-python"),
        ("dist", "pulumi-resource-pulumi-python"),
    ):
        shutil.copyfile(source / folder / name, place / name)
        (place / name).chmod(0o755)


def _stages(module: Module, place: Path) -> None:
    """kwok's own stage files, one folder: what makes nodes Ready, pods Running and volumes Bound."""
    source = _module_folder(module, KWOK_MODULE) / "kustomize" / "stage"
    for folder in ("node/fast", "node/heartbeat-with-lease", "pod/fast", "volume/fast"):
        for path in sorted((source / folder).glob("*.yaml")):
            if "kind: Stage" in path.read_text():
                place.mkdir(exist_ok=True)
                shutil.copyfile(path, place / f"{folder.replace('/', '-')}-{path.name}")


def _module_folder(module: Module, path: str) -> Path:
    return Path(_go(module, "list", "-m", "-f", "{{.Dir}}", path).strip())


def _go(module: Module, *arguments: str) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    done = subprocess.run(
        ["nice", "-n", "15", "go", *arguments],
        cwd=SOURCES / module.name,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = " ".join(done.stderr.strip().splitlines()[-5:])
        raise LabError(f"go {arguments[0]} of {module.name} failed: {said}")
    return done.stdout
