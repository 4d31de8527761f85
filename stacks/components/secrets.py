"""Secrets that the platform makes for itself: once, kept encrypted in the stack's state."""

from __future__ import annotations

import secrets
import string
import uuid
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, Resource, ResourceProvider

ALPHABETS = {
    "letters": string.ascii_letters + string.digits,
    "hex": "0123456789abcdef",
}


class _Generator(ResourceProvider):
    """Draws from the operating system's random source. Only a new length or alphabet makes a new secret."""

    serialize_as_secret_always = False

    def create(self, props: dict[str, Any]) -> CreateResult:
        letters = ALPHABETS[props["alphabet"]]
        value = "".join(secrets.choice(letters) for _ in range(int(props["length"])))
        return CreateResult(str(uuid.uuid4()), {**props, "value": value})

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        changed = [
            key
            for key in ("length", "alphabet", "generation")
            if _plain(olds.get(key)) != _plain(news.get(key))
        ]
        return DiffResult(changes=bool(changed), replaces=changed, delete_before_replace=False)


def _plain(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) else str(value)


class Generated(Resource):
    """A random string of `length` characters of an alphabet (`letters`: letters and digits, `hex`).

    Give `generation` another value to rotate it.
    """

    value: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        length: int,
        alphabet: str,
        generation: int = 1,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            _Generator(),
            name,
            {"length": length, "alphabet": alphabet, "generation": generation, "value": None},
            pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(additional_secret_outputs=["value"])),
        )
