"""Harbor's REST API (v2.0), as far as a workspace's project needs it."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

ROLE_IDS = {"owner": 1, "admin": 4, "member": 2, "viewer": 3}  # project admin, maintainer, developer, guest
ROBOT = "workloads"
ACCESS = [{"resource": "repository", "action": action} for action in ("pull", "push")]
PAGE = 100
PATIENCE = 30  # seconds
BAD_REQUEST, GONE, CONFLICT, NOT_EMPTY = 400, 404, 409, 412


class HarborError(Exception):
    """Harbor refused or did not answer. `status`: 0 without an answer."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Harbor:
    """A small client. What makes something finds what is there already, so every call can be repeated."""

    def __init__(self, url: str, username: str, password: str, ca_file: str | None = None) -> None:
        self.base = url.rstrip("/") + "/api/v2.0"
        self._authorization = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()
        self._trust = ssl.create_default_context(cafile=ca_file) if url.startswith("https:") else None

    def ensure_project(self, name: str, storage: int) -> int:
        """The id of the private project; `storage` in bytes."""
        wanted = {"project_name": name, "metadata": {"public": "false"}, "storage_limit": storage}
        try:
            self._call("POST", "/projects", wanted)
        except HarborError as error:
            if error.status != CONFLICT:
                raise
        found = self.project(name)
        if found is None:
            raise HarborError(GONE, f"Harbor's project {name} was made and is not there.")
        self._set_quota(found, storage)
        return found

    def project(self, name: str) -> int | None:
        # Answers 403 for a project that is not there when the caller is no administrator.
        try:
            project = self._call("GET", f"/projects/{_quoted(name)}", named=True)
        except HarborError as error:
            if error.status == GONE:
                return None
            raise
        return int(project["project_id"])

    def delete_project(self, project_id: int) -> None:
        """Absent is success. Raises HarborError where it still has repositories."""
        try:
            self._call("DELETE", f"/projects/{project_id}")
        except HarborError as error:
            if error.status == NOT_EMPTY:
                raise HarborError(
                    error.status, "The project still has repositories; empty it first."
                ) from error
            if error.status != GONE:
                raise

    def _set_quota(self, project_id: int, storage: int) -> None:
        found = self._call("GET", f"/quotas?reference=project&reference_id={project_id}")
        for quota in found:
            if quota["hard"].get("storage") != storage:
                self._call("PUT", f"/quotas/{quota['id']}", {"hard": {"storage": storage}})

    def set_members(self, project_id: int, wanted: Mapping[str, str], managed: set[str]) -> list[str]:
        """Give each e-mail address its role; take `managed` ones out that are not wanted any more.

        Returns those that Harbor has no user for: they appear there when they sign in for the first time.
        """
        present = {row["entity_name"]: row for row in self._members(project_id)}
        absent = []
        for email, role in sorted(wanted.items()):
            username = self.username(email)
            if username is None:
                absent.append(email)
            else:
                self._set_member(project_id, username, ROLE_IDS[role], present.get(username))
        for email in sorted(managed - wanted.keys()):
            row = present.get(self.username(email) or email)
            if row is not None:
                self._call("DELETE", f"/projects/{project_id}/members/{row['id']}")
        return absent

    def _set_member(self, project_id: int, username: str, role_id: int, row: dict[str, Any] | None) -> None:
        if row is None:
            body = {"role_id": role_id, "member_user": {"username": username}}
            self._call("POST", f"/projects/{project_id}/members", body)
        elif row["role_id"] != role_id:
            self._call("PUT", f"/projects/{project_id}/members/{row['id']}", {"role_id": role_id})

    def _members(self, project_id: int) -> Iterator[dict[str, Any]]:
        rows = self._pages(f"/projects/{project_id}/members")
        return (row for row in rows if row["entity_type"] == "u")

    def username(self, email: str) -> str | None:
        """The user with this address, or of this name."""
        for field in ("email", "username"):
            query = urllib.parse.quote(f"{field}={email}")
            for user in self._pages(f"/users?q={query}"):
                if str(user.get(field, "")).lower() == email.lower():
                    return str(user["username"])
        return None

    def ensure_robot(self, project: str, project_id: int) -> tuple[int, str, str]:
        """Id, full name and a fresh secret of the account with which workloads pull and push."""
        wanted = {
            "name": ROBOT,
            "description": "Workloads of the workspace",
            "level": "project",
            "duration": -1,
            "disable": False,
            "permissions": [{"kind": "project", "namespace": project, "access": ACCESS}],
        }
        try:
            made = self._call("POST", "/robots", wanted)
        except HarborError as error:
            if error.status != CONFLICT:
                raise
            return self._renew_robot(project_id)
        return int(made["id"]), str(made["name"]), str(made["secret"])

    def _renew_robot(self, project_id: int) -> tuple[int, str, str]:
        query = urllib.parse.quote(f"Level=project,ProjectID={project_id}")
        for robot in self._pages(f"/robots?q={query}"):
            if str(robot["name"]).endswith(f"+{ROBOT}"):
                secret = self._call("PATCH", f"/robots/{robot['id']}", {"secret": ""})["secret"]
                return int(robot["id"]), str(robot["name"]), str(secret)
        raise HarborError(CONFLICT, f"Harbor says that a robot {ROBOT} exists, and does not list it.")

    def delete_robot(self, robot_id: int) -> None:
        try:
            self._call("DELETE", f"/robots/{robot_id}")
        except HarborError as error:
            if error.status != GONE:
                raise

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        page, joint = 1, "&" if "?" in path else "?"
        while True:
            rows = self._call("GET", f"{path}{joint}page={page}&page_size={PAGE}")
            yield from rows
            if len(rows) < PAGE:
                return
            page += 1

    def _call(self, method: str, path: str, body: Any = None, *, named: bool = False) -> Any:
        headers = {"Authorization": self._authorization, "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if named:
            headers["X-Is-Resource-Name"] = "true"
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.base + path, data, headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(asked, timeout=PATIENCE, context=self._trust) as answer:  # noqa: S310
                content = answer.read()
        except urllib.error.HTTPError as error:
            raise HarborError(error.code, f"Harbor: {method} {path}: {error.code} {_why(error)}") from error
        except OSError as error:
            why = getattr(error, "reason", error)
            raise HarborError(0, f"Harbor at {self.base} cannot be reached: {why}") from error
        return json.loads(content) if content else None


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _why(error: urllib.error.HTTPError) -> str:
    try:
        return "; ".join(str(item["message"]) for item in json.load(error)["errors"])
    except (ValueError, KeyError, TypeError):
        return error.reason
