"""Words of sentences, and texts from elsewhere, made fit to be stored and sent.

PostgreSQL takes no NUL, UTF-8 no lone surrogate.
"""

from __future__ import annotations

from typing import Any


def gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def storable(found: Any) -> Any:
    r"""The same document with what no database takes spelled out (`\x00`, `\udcff`)."""
    if isinstance(found, str):
        plain = found.encode("utf-8", "backslashreplace").decode() if not found.isascii() else found
        return plain.replace("\0", "\\x00")
    if isinstance(found, dict):
        return {storable(name): storable(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [storable(item) for item in found]
    return found
