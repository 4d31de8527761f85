"""What the provider says when it cannot do what was asked: words for the person who ran `pulumi`."""

from __future__ import annotations

from typing import Any


class Failure(Exception):
    """Shown to the user as it stands."""


class Unreachable(Failure):
    """The cluster's API gives no answer."""


class Refused(Failure):
    """The API answered with an error; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class NoSuchKind(Failure):
    """No definition of this kind is installed."""


class NotReady(Failure):
    """The object was written but did not become ready: it belongs to the state all the same."""

    def __init__(self, message: str, identity: str, outputs: dict[str, Any]) -> None:
        super().__init__(message)
        self.identity = identity
        self.outputs = outputs
