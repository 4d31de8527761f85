"""What the distribution's package manager says is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable

from ansible.module_utils.steps import SEARCH_PATH, StepFailed, run

DPKG = ("dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${binary:Package}\t${Version}\n")
RPM = ("rpm", "-qa", "--qf", "ii\t%{NAME}.%{ARCH}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\n")
SECONDS = 300.0


def _uses_dpkg() -> bool:
    return shutil.which("dpkg-query", path=SEARCH_PATH) is not None


def record() -> dict[str, str]:
    """Installed packages and their versions. Raises StepFailed when they cannot be listed."""
    listed = run(*(DPKG if _uses_dpkg() else RPM), timeout=60)
    if not listed.ok:
        raise StepFailed("the installed packages cannot be listed", [listed.tail()])
    return parse(listed.out)


def parse(text: str) -> dict[str, str]:
    """Only what is fully installed; of several versions of one name (kernels), all."""
    found: dict[str, str] = {}
    for line in sorted(text.splitlines()):
        status, _, rest = line.partition("\t")
        name, _, version = rest.partition("\t")
        if status.strip() == "ii" and name:
            found[name] = f"{found[name]}, {version}" if name in found else version
    return found


def findings(before: dict[str, str], now: dict[str, str]) -> list[str]:
    found = [f"package {name} is not in the manifest" for name in sorted(now.keys() - before.keys())]
    found += [f"package {name} is gone" for name in sorted(before.keys() - now.keys())]
    return found + [
        f"package {name} is {now[name]}, was {before[name]}"
        for name in sorted(before.keys() & now.keys())
        if before[name] != now[name]
    ]


def owners(paths: Iterable[str]) -> list[str]:
    """The packages that files belong to. /usr/bin/true may be known as /bin/true."""
    found = set()
    for path in paths:
        for name in (path, path[4:] if path.startswith("/usr/") else path):
            asked = (
                run("dpkg-query", "-S", name)
                if _uses_dpkg()
                else run("rpm", "-qf", "--qf", "%{NAME}\n", name)
            )
            if asked.ok:
                said = asked.out.splitlines()[0]
                found.update(said.rsplit(": ", 1)[0].split(", ") if _uses_dpkg() else [said])
                break
    return sorted(found)


def reinstall(names: list[str]) -> str:
    """Unpack the packages again from the host's own repositories; '' or why that failed."""
    if not names:
        return "no package owns them"
    if _uses_dpkg():
        quick = (
            "-o",
            "Acquire::Retries=0",
            "-o",
            "Acquire::http::Timeout=10",
            "-o",
            "Dpkg::Options::=--force-confnew",
        )
        ran = run(
            "apt-get", "install", "-y", "--reinstall", "--allow-downgrades", *quick, *names, timeout=SECONDS
        )
    else:
        ran = run(
            "dnf", "reinstall", "-y", "--setopt=timeout=10", "--setopt=retries=1", *names, timeout=SECONDS
        )
    refused = [line for line in ran.out.splitlines() if "is not possible" in line]  # apt calls that success
    return "" if ran.ok and not refused else "; ".join(refused) or ran.tail()
