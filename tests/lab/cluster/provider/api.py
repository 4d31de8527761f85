"""The cluster's API by plain HTTP: `kubectl proxy` on a private socket reads the kubeconfig and signs in."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlencode

from tests.lab.cluster.provider.errors import Failure, NoSuchKind, Refused, Unreachable

MANAGER = "pulumi-kubernetes"
ATTEMPTS = 8
START_SECONDS = 20.0
# the document as JSON is YAML too; the type says how the server is to read it
APPLY = "application/apply-patch+yaml"


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


class Api:
    """One cluster, by a kubeconfig (path or content; None: kubectl's own) and maybe one of its contexts."""

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        self._given = kubeconfig
        self.context = context
        self._local = threading.local()
        self._lock = threading.Lock()
        self._proxy: subprocess.Popen[bytes] | None = None
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}

    @cached_property
    def folder(self) -> Path:
        """A private one, until `close`."""
        return Path(tempfile.mkdtemp(prefix="ironyard-provider-"))

    @cached_property
    def kubeconfig(self) -> str | None:
        """A path; given by its content it is written to a private file."""
        given = self._given
        if not given:
            return None
        if "\n" not in given and not given.lstrip().startswith("{"):
            return str(Path(given).expanduser())
        place = self.folder / "kubeconfig"
        place.touch(mode=0o600)
        place.write_text(given)
        return str(place)

    def close(self) -> None:
        if self._proxy is not None:
            self._proxy.terminate()
            self._proxy.wait()
        if "folder" in self.__dict__:
            shutil.rmtree(self.folder, ignore_errors=True)

    def options(self) -> list[str]:
        """The cluster as options that kubectl understands."""
        made = [f"--kubeconfig={self.kubeconfig}"] if self.kubeconfig else []
        return made + ([f"--context={self.context}"] if self.context else [])

    def environment(self) -> dict[str, str]:
        return {**os.environ, **({"KUBECONFIG": self.kubeconfig} if self.kubeconfig else {})}

    def _socket(self) -> Path:
        path = self.folder / "socket"
        with self._lock:
            if self._proxy is None:
                self._proxy = _tied("kubectl", *self.options(), "proxy", f"--unix-socket={path}")
            deadline = time.monotonic() + START_SECONDS
            while not path.exists():
                if self._proxy.poll() is not None or time.monotonic() > deadline:
                    said = self._proxy.communicate()[1].decode(errors="replace").strip()
                    self._proxy = None
                    raise Unreachable(f"{self._named()} cannot be used: {said}")
                time.sleep(0.02)
        return path

    def _named(self) -> str:
        return f"The kubeconfig {self.kubeconfig or os.environ.get('KUBECONFIG', '~/.kube/config')}"

    def request(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        """The answer's document. Raises Refused with the API's words, Unreachable when there is no answer."""
        status, text = self._sent(method, path, None if body is None else json.dumps(body), kind)
        try:
            answer = json.loads(text)
        except ValueError as error:
            if status == http.HTTPStatus.NOT_FOUND:  # a group that no definition brought yet
                raise Refused(status, text.strip()) from error
            # the proxy's own words: the API has only documents to say otherwise
            raise Unreachable(
                f"The cluster's API gives no answer. {self._named()}: {text.strip()}"
            ) from error
        if status == http.HTTPStatus.UNAUTHORIZED:
            raise Unreachable(f"The cluster's API does not let us in. {self._named()}: {answer['message']}")
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise Refused(status, answer.get("message") or f"the API answered {status}")
        return answer

    def _sent(self, method: str, path: str, body: str | None, kind: str) -> tuple[int, str]:
        place = self._socket()
        for attempt in range(1, ATTEMPTS + 1):
            connection = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._local.connection = _Connection(place)
            try:
                connection.request(method, path, body, {"Content-Type": kind})
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                self._local.connection = None
                if attempt == ATTEMPTS:
                    raise Unreachable(f"The cluster's API gives no answer: {error!r}") from error
                if isinstance(error, ConnectionRefusedError):  # bound, and not yet listening
                    time.sleep(0.1 * attempt)
        raise AssertionError

    def place(self, document: dict[str, Any], namespace: str | None) -> tuple[str, str]:
        """An object's path in the API and its identity, `namespace/name` or `name`.

        Raises NoSuchKind when the cluster has no definition of its kind.
        """
        version, kind = document["apiVersion"], document["kind"]
        plural, namespaced = self._kind(version, kind)
        root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
        name = document["metadata"]["name"]
        if not namespaced:
            return f"{root}/{plural}/{quote(name)}", name
        within = document["metadata"].get("namespace") or namespace or "default"
        return f"{root}/namespaces/{within}/{plural}/{quote(name)}", f"{within}/{name}"

    def _kind(self, version: str, kind: str) -> tuple[str, bool]:
        known = self._kinds.get(version, {})
        if kind not in known:
            root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
            try:
                found = self.request("GET", root)["resources"]
            except Refused as refused:
                if refused.status != 404:
                    raise
                found = []
            known = {r["kind"]: (r["name"], r["namespaced"]) for r in found if "/" not in r["name"]}
            self._kinds[version] = known
        if kind not in known:
            raise NoSuchKind(
                f"The cluster has no kind {kind} in {version}: is what defines it installed before this?"
            )
        return known[kind]

    def forget(self, version: str) -> None:
        """Ask again which kinds an API version has."""
        self._kinds.pop(version, None)

    def apply(
        self, path: str, document: dict[str, Any], *, dry_run: bool = False, force: bool = False
    ) -> Any:
        """Server-side apply with strict validation; the object as it is after."""
        options = {"fieldManager": MANAGER, "fieldValidation": "Strict", "force": str(force).lower()}
        if dry_run:
            options["dryRun"] = "All"
        return self.request("PATCH", f"{path}?{urlencode(options)}", document, APPLY)

    def get(self, path: str) -> Any | None:
        try:
            return self.request("GET", path)
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def delete(self, path: str, propagation: Literal["Foreground", "Background"] = "Foreground") -> None:
        """Absent is success."""
        try:
            self.request("DELETE", path, {"propagationPolicy": propagation})
        except Refused as refused:
            if refused.status != 404:
                raise


def _tied(*argv: str) -> subprocess.Popen[bytes]:
    """Ends with this process, where the system can arrange it."""
    setpriv = shutil.which("setpriv")
    start = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
    try:
        return subprocess.Popen(
            [*start, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
    except FileNotFoundError as error:
        raise Failure(f"{argv[0]} is not on PATH.") from error
