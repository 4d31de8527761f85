"""A Harbor of the tests' own: it takes only what the vendor's specification allows, and answers by it."""

from __future__ import annotations

import base64
import json
import re
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import yaml

BASE = "/api/v2.0"
USER, PASSWORD = "admin", "correct horse"
AUTHORIZATION = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


class Specification:
    """Swagger 2.0: which requests there are, and what bodies look like."""

    def __init__(self, contracts: Path) -> None:
        self.document = yaml.safe_load((contracts / "harbor" / "swagger-v2.15.2.yaml").read_text())
        self.routes = [
            (re.compile(re.sub(r"\{\w+\}", "([^/]+)", path)), path) for path in self.document["paths"]
        ]

    def operation(self, method: str, path: str) -> dict[str, Any]:
        for pattern, known in self.routes:
            found = self.document["paths"][known]
            if pattern.fullmatch(path) and method.lower() in found:
                operation: dict[str, Any] = found[method.lower()]
                return operation
        raise AssertionError(f"Harbor has no {method} {path}")

    def parameters(self, operation: dict[str, Any], place: str) -> dict[str, Any]:
        rows = [self._resolved(row) for row in operation.get("parameters", [])]
        return {row["name"]: row for row in rows if row["in"] == place}

    def _resolved(self, row: dict[str, Any]) -> dict[str, Any]:
        if "$ref" not in row:
            return row
        found: dict[str, Any] = self.document["parameters"][row["$ref"].rsplit("/", 1)[1]]
        return found

    def check_body(self, schema: dict[str, Any], body: Any) -> None:
        definitions = {name: _strict(part) for name, part in self.document["definitions"].items()}
        jsonschema.Draft4Validator({**schema, "definitions": definitions}).validate(body)

    def check_request(self, method: str, path: str, query: dict[str, str], body: Any) -> None:
        operation = self.operation(method, path)
        unknown = query.keys() - self.parameters(operation, "query").keys()
        assert not unknown, f"{method} {path} takes no {unknown}"
        (wanted,) = self.parameters(operation, "body").values() or [None]
        assert (wanted is None) == (body is None), f"{method} {path}: body {body!r}"
        if wanted is not None:
            self.check_body(wanted["schema"], body)

    def check_answer(self, method: str, path: str, status: int, body: Any) -> None:
        responses = self.operation(method, path)["responses"]
        assert str(status) in responses, f"{method} {path} never answers {status}"
        schema = responses[str(status)].get("schema")
        if schema is not None:
            self.check_body(schema, body)


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict):
        made.setdefault("additionalProperties", False)
    if made.pop("x-nullable", False) and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


class Refused(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class FakeHarbor:
    """Projects, quotas, members, users and robots in memory; `calls` are the requests it got."""

    def __init__(self, contracts: Path) -> None:
        self.specification = Specification(contracts)
        self.projects: dict[int, dict[str, Any]] = {}
        self.members: dict[int, list[dict[str, Any]]] = {}
        self.quotas: dict[int, int] = {}
        self.robots: dict[int, dict[str, Any]] = {}
        self.users: list[dict[str, Any]] = [{"user_id": 1, "username": USER, "email": "admin@example.org"}]
        self.calls: list[tuple[str, str]] = []
        self.faults: list[str] = []
        self.repositories: set[int] = set()
        self._numbers = iter(range(1, 10_000))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_user(self, username: str, email: str) -> None:
        self.users.append({"user_id": next(self._numbers) + 100, "username": username, "email": email})

    def roles(self, project: str) -> dict[str, int]:
        number = self.number(project)
        return {row["entity_name"]: row["role_id"] for row in self.members[number]}

    def number(self, project: str) -> int:
        return next(key for key, row in self.projects.items() if row["name"] == project)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                status, document = fake.take(self.command, self.path, dict(self.headers), body)
                content = b"" if document is None else json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.answer)
        return Handler

    def take(self, method: str, target: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        parts = urllib.parse.urlsplit(target)
        path = parts.path.removeprefix(BASE)
        query = dict(urllib.parse.parse_qsl(parts.query))
        self.calls.append((method, path))
        try:
            self.specification.check_request(method, path, query, body)
            status, document = self._route(method, path, query, headers, body)
        except Refused as refused:
            status, document = refused.status, {"errors": [{"code": "REFUSED", "message": "on purpose"}]}
        except (AssertionError, jsonschema.ValidationError) as fault:
            self.faults.append(str(fault))
            return 400, {"errors": [{"code": "FAULT", "message": str(fault)}]}
        if status < 300:
            self.specification.check_answer(method, path, status, document)
        return status, document

    def _route(self, method: str, path: str, query: Any, headers: Any, body: Any) -> tuple[int, Any]:
        if headers.get("Authorization") != AUTHORIZATION:
            raise Refused(401)
        routes: list[tuple[str, str, Callable[..., tuple[int, Any]]]] = [
            ("POST", r"/projects", lambda: self._make_project(body)),
            ("GET", r"/projects/([^/]+)", lambda name: self._get_project(name, headers)),
            ("DELETE", r"/projects/(\d+)", self._delete_project),
            ("GET", r"/quotas", lambda: self._quotas_of(int(query["reference_id"]))),
            ("PUT", r"/quotas/(\d+)", lambda number: self._set_quota(number, body)),
            ("GET", r"/projects/(\d+)/members", lambda n: (200, _page(self.members[int(n)], query))),
            ("POST", r"/projects/(\d+)/members", lambda number: self._add_member(number, body)),
            ("PUT", r"/projects/(\d+)/members/(\d+)", lambda n, m: self._set_role(n, m, body)),
            ("DELETE", r"/projects/(\d+)/members/(\d+)", self._remove_member),
            ("GET", r"/users", lambda: (200, _page(_matching(self.users, query), query))),
            ("POST", r"/robots", lambda: self._make_robot(body)),
            ("GET", r"/robots", lambda: (200, _page(self._robots_of(query), query))),
            ("PATCH", r"/robots/(\d+)", self._renew),
            ("DELETE", r"/robots/(\d+)", self._delete_robot),
        ]
        for known, pattern, act in routes:
            found = re.fullmatch(pattern, path)
            if known == method and found:
                return act(*found.groups())
        raise AssertionError(f"the fake has no {method} {path}")

    def _make_project(self, body: Any) -> tuple[int, Any]:
        if any(row["name"] == body["project_name"] for row in self.projects.values()):
            raise Refused(409)
        number = next(self._numbers)
        project = {"project_id": number, "name": body["project_name"], "metadata": body["metadata"]}
        self.projects[number] = project
        self.members[number] = []
        self._join(number, USER, 1)
        self.quotas[number] = body["storage_limit"]
        return 201, None

    def _get_project(self, name: str, headers: dict[str, str]) -> tuple[int, Any]:
        assert headers.get("X-Is-Resource-Name") == "true", (
            "a name that looks like a number is taken for an id"
        )
        for project in self.projects.values():
            if project["name"] == name:
                return 200, project
        raise Refused(404)

    def _delete_project(self, number: str) -> tuple[int, Any]:
        if int(number) not in self.projects:
            raise Refused(404)
        if int(number) in self.repositories:
            raise Refused(412)
        del self.projects[int(number)]
        return 200, None

    def _quotas_of(self, number: int) -> tuple[int, Any]:
        quota = {"id": number + 5000, "hard": {"storage": self.quotas[number]}, "used": {"storage": 0}}
        return 200, [quota]

    def _set_quota(self, number: str, body: Any) -> tuple[int, Any]:
        self.quotas[int(number) - 5000] = body["hard"]["storage"]
        return 200, None

    def _join(self, project: int, username: str, role: int) -> None:
        row = {"id": next(self._numbers), "project_id": project, "entity_name": username, "role_id": role}
        self.members[project].append(row | {"entity_type": "u"})

    def _add_member(self, number: str, body: Any) -> tuple[int, Any]:
        username = body["member_user"]["username"]
        if username in self.roles(self.projects[int(number)]["name"]):
            raise Refused(409)
        assert username in {user["username"] for user in self.users}
        self._join(int(number), username, body["role_id"])
        return 201, None

    def _set_role(self, number: str, member: str, body: Any) -> tuple[int, Any]:
        for row in self.members[int(number)]:
            if row["id"] == int(member):
                row["role_id"] = body["role_id"]
                return 200, None
        raise Refused(404)

    def _remove_member(self, number: str, member: str) -> tuple[int, Any]:
        rows = self.members[int(number)]
        self.members[int(number)] = [row for row in rows if row["id"] != int(member)]
        return 200, None

    def _make_robot(self, body: Any) -> tuple[int, Any]:
        project = body["permissions"][0]["namespace"]
        name = f"robot${project}+{body['name']}"
        if any(row["name"] == name for row in self.robots.values()):
            raise Refused(409)
        number = next(self._numbers)
        self.robots[number] = {"id": number, "name": name, "level": "project"}
        return 201, {"id": number, "name": name, "secret": f"secret-{number}"}

    def _robots_of(self, query: dict[str, str]) -> list[dict[str, Any]]:
        wanted = dict(part.split("=") for part in query["q"].split(","))
        project = self.projects[int(wanted["ProjectID"])]["name"]
        return [row for row in self.robots.values() if row["name"].startswith(f"robot${project}+")]

    def _renew(self, number: str) -> tuple[int, Any]:
        return 200, {"secret": f"renewed-{number}"}

    def _delete_robot(self, number: str) -> tuple[int, Any]:
        if self.robots.pop(int(number), None) is None:
            raise Refused(404)
        return 200, None


def _page(rows: list[Any], query: dict[str, str]) -> list[Any]:
    page, size = int(query.get("page", 1)), int(query.get("page_size", 10))
    assert size <= 100, "Harbor refuses larger pages"
    return rows[(page - 1) * size : page * size]


def _matching(rows: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
    field, _, value = query["q"].partition("=")
    return [row for row in rows if row[field] == value]
