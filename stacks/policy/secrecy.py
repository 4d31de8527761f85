"""Rules about secrets that anybody could read.

A rule sees text that the program marked as a secret as `Sealed`; everything else lies open in the state,
in previews and, in a pod or ConfigMap, in the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from stacks.policy.pods import containers, free_form
from stacks.policy.subject import Config, Fault, Sealed, Subject, entries, join, walk

SECRETIVE = re.compile(
    r"(password|passwd|passphrase|token|secret|credential|credentials|api_?key|private_?key|secret_?key"
    r"|secret_?access_?key|encryption_?key|signing_?key)$",
    re.IGNORECASE,
)
NAMES_A_SECRET = re.compile(r"(^existing|.secret$)", re.IGNORECASE)
OBJECT_NAME = re.compile(r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")
HARMLESS = re.compile(
    r"^(|true|false|yes|no|none|null|\d+[smhd]?|/.*|file:.*|\$[({].*|\{\{.*|<secret\b.*)$", re.IGNORECASE
)
ASSIGNED = re.compile(r"""^\s*(?:export\s+|-\s+)?["']?([\w.-]+)["']?\s*[:=]\s*["']?([^\s"',]+)""")
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----")
URL_WITH_PASSWORD = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@]*:([^\s/@]+)@")
KUBECONFIG = re.compile(r"^\s*[\"']?(token|password|client-key-data)[\"']?\s*:\s*\S", re.MULTILINE)


def secrets_are_kept(subject: Subject, _config: Config) -> Iterator[Fault]:
    """No password, token or key in the open."""
    if subject.type.startswith("pulumi:providers:"):
        yield from _provider(subject.props)
    elif subject.in_cluster:
        if (subject.group, subject.kind) == ("core", "Secret"):
            yield from _secret(subject.props)
        elif (subject.group, subject.kind) == ("core", "ConfigMap"):
            yield from _config_map(subject.props)
        yield from _environment(subject)
        yield from _values(subject)
        yield from _anywhere(subject.props)


def _provider(props: Mapping[str, Any]) -> Iterator[Fault]:
    given = props.get("kubeconfig")
    if _open(given) and KUBECONFIG.search(given):
        yield Fault(
            "kubeconfig",
            "it holds a key that lies open in the state",
            "Mark it as a secret, or give its path",
        )


def _secret(props: Mapping[str, Any]) -> Iterator[Fault]:
    for part in ("data", "stringData"):
        given = props.get(part)
        for key, value in given.items() if isinstance(given, Mapping) else ():
            if _open(value) and value:
                yield Fault(
                    join(part, str(key)),
                    "the value is not marked as a secret",
                    "Wrap it in pulumi.Output.secret",
                )


def _config_map(props: Mapping[str, Any]) -> Iterator[Fault]:
    given = props.get("data")
    remedy = "Move it into a Secret, and mark it with pulumi.Output.secret"
    for key, value in given.items() if isinstance(given, Mapping) else ():
        if not isinstance(value, str):
            continue
        path = join("data", str(key))
        if _is_secret(str(key), value):
            yield Fault(path, "a secret lies in a ConfigMap", remedy)
        for number, line in enumerate(value.splitlines(), 1):
            found = ASSIGNED.match(line)
            if found and _is_secret(found[1].rsplit(".", 1)[-1], found[2]):
                yield Fault(path, f"line {number} sets {found[1]} in a ConfigMap", remedy)


def _environment(subject: Subject) -> Iterator[Fault]:
    """A variable's literal value shows in the pod, also where the state keeps it."""
    for path, container in containers(subject):
        for number, variable in entries(container.get("env")):
            name, value = variable.get("name"), variable.get("value")
            if isinstance(name, str) and isinstance(value, str) and _is_secret(name, value):
                yield Fault(
                    f"{path}.env[{number}].value",
                    f"{name} shows to everybody who can read pods",
                    "Take it from a Secret with valueFrom.secretKeyRef",
                )


def _values(subject: Subject) -> Iterator[Fault]:
    for path, key, value in free_form(subject):
        if _open(value) and _is_secret(key, value):
            yield Fault(
                path,
                f"{key} lies open in the state",
                "Name an existing Secret, or mark the value with pulumi.Output.secret",
            )
    for path, key, value in free_form(subject):
        if key in ("env", "extraEnv", "extraEnvVars"):
            for number, variable in entries(value):
                name, text = variable.get("name"), variable.get("value")
                if isinstance(name, str) and isinstance(text, str) and _is_secret(name, text):
                    yield Fault(
                        f"{path}[{number}].value",
                        f"{name} shows to everybody who can read pods",
                        "Take it from a Secret with valueFrom.secretKeyRef",
                    )


def _anywhere(props: Mapping[str, Any]) -> Iterator[Fault]:
    for path, _, value in walk(props):
        if not _open(value):
            continue
        if PRIVATE_KEY.search(value):
            yield Fault(path, "a private key lies open", "Mark it with pulumi.Output.secret, in a Secret")
        found = URL_WITH_PASSWORD.search(value)
        if found and not HARMLESS.fullmatch(found[1]):
            yield Fault(path, "an address holds a password", "Take the password from a Secret")


def _open(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and not isinstance(value, Sealed)


def _is_secret(key: str, value: str) -> bool:
    """By its name, unless the value is a switch, a path, a duration or a reference."""
    if not SECRETIVE.search(key) or HARMLESS.fullmatch(value.strip()):
        return False
    return not (NAMES_A_SECRET.search(key) and OBJECT_NAME.fullmatch(value))
