"""A workspace's project in the registry, as a resource of the stack."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from stacks.tenancy.harbor import Harbor

INPUTS = ("url", "username", "password", "ca_file", "project", "storage", "members")
GIB = 1024**3


def _harbor(props: dict[str, Any]) -> Harbor:
    return Harbor(props["url"], props["username"], props["password"], props.get("ca_file") or None)


class _Projects(ResourceProvider):
    """Every call can be repeated: what an interrupted one made is found and taken on."""

    def create(self, props: dict[str, Any]) -> CreateResult:
        harbor = _harbor(props)
        project_id = harbor.ensure_project(props["project"], int(props["storage"]))
        absent = harbor.set_members(project_id, props["members"], set())
        robot_id, robot, secret = harbor.ensure_robot(props["project"], project_id)
        made = {"project_id": project_id, "absent": absent, "robot_id": robot_id}
        return CreateResult(str(project_id), {**props, **made, "robot": robot, "robot_secret": secret})

    def update(self, id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:  # noqa: A002
        harbor = _harbor(news)
        harbor.ensure_project(news["project"], int(news["storage"]))
        absent = harbor.set_members(int(id), news["members"], set(olds.get("members", {})))
        kept = {name: olds[name] for name in ("project_id", "robot_id", "robot", "robot_secret")}
        return UpdateResult({**news, **kept, "absent": absent})

    def diff(self, id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:  # noqa: A002, ARG002
        """A member that Harbor did not know is looked for again."""
        replaces = [name for name in ("url", "project") if olds.get(name) != news.get(name)]
        changed = any(olds.get(name) != news.get(name) for name in INPUTS)
        waiting = [email for email in olds.get("absent", []) if email in news["members"]]
        if not changed and waiting:
            harbor = _harbor(news)
            changed = any(harbor.username(email) is not None for email in waiting)
        return DiffResult(changes=changed, replaces=replaces, delete_before_replace=False)

    def read(self, id: str, props: dict[str, Any]) -> ReadResult:  # noqa: A002
        gone = _harbor(props).project(props["project"]) is None
        return ReadResult("", {}) if gone else ReadResult(id, props)

    def delete(self, id: str, props: dict[str, Any]) -> None:  # noqa: A002
        harbor = _harbor(props)
        harbor.delete_robot(int(props["robot_id"]))
        harbor.delete_project(int(id))


class RegistryProject(Resource):
    """A private Harbor project: a storage quota, the workspace's members, a robot for its workloads."""

    robot: pulumi.Output[str]
    robot_secret: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        url: str,
        username: str,
        password: pulumi.Input[str],
        ca_file: str | None,
        project: str,
        storage_gib: int,
        members: dict[str, str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        inputs = {
            "url": url,
            "username": username,
            "password": password,
            "ca_file": ca_file or "",
            "project": project,
            "storage": storage_gib * GIB,
            "members": members,
        }
        outputs = ("project_id", "absent", "robot_id", "robot", "robot_secret")
        hidden = pulumi.ResourceOptions(additional_secret_outputs=["robot_secret", "password"])
        super().__init__(
            _Projects(),
            name,
            inputs | dict.fromkeys(outputs),
            pulumi.ResourceOptions.merge(opts, hidden),
        )
