"""Exit codes, for scripts."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    DENIED = 4
    NOT_FOUND = 5
    CONFLICT = 6
    INVALID = 7
    DRIFT = 8


MEANINGS = {
    Exit.OK: "done",
    Exit.FAILED: "an operation failed, or something unforeseen",
    Exit.USAGE: "the command line is wrong",
    Exit.UNREACHABLE: "the server cannot be reached",
    Exit.DENIED: "not signed in, or the role does not allow it",
    Exit.NOT_FOUND: "no such thing, or not visible to you",
    Exit.CONFLICT: "conflict: quota, capacity, or the present state",
    Exit.INVALID: "the server refused the request as not valid",
    Exit.DRIFT: "the cluster is not as its stack asks for",
}
BY_STATUS = {
    400: Exit.INVALID,
    401: Exit.DENIED,
    403: Exit.DENIED,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    412: Exit.CONFLICT,
    413: Exit.INVALID,
    422: Exit.INVALID,
    502: Exit.UNREACHABLE,
    503: Exit.UNREACHABLE,
    504: Exit.UNREACHABLE,
}


class Failure(Exception):
    """Ends the command: one sentence on standard error, and an exit code."""

    def __init__(self, sentence: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code
