"""Where the server's address and the session token are kept; the Ansible plugins read it too."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import NamedTuple

from api.cli.exits import Exit, Failure

DEFAULT_URL = "http://127.0.0.1:8080"


class Credentials(NamedTuple):
    url: str
    token: str | None


def path() -> Path:
    given = os.environ.get("IRONYARD_CREDENTIALS")
    return Path(given or "~/.config/ironyard/credentials.json").expanduser()


def load() -> Credentials:
    """From the environment, else from the file."""
    stored = _stored()
    url = os.environ.get("IRONYARD_URL") or stored.get("url") or DEFAULT_URL
    return Credentials(url.rstrip("/"), os.environ.get("IRONYARD_TOKEN") or stored.get("token"))


def save(url: str, token: str) -> Path:
    """Readable by the owner only, from its first byte on."""
    kept = path()
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}")
    draft.touch(mode=0o600, exist_ok=False)
    draft.write_text(json.dumps({"url": url.rstrip("/"), "token": token}))
    draft.replace(kept)
    return kept


def forget() -> bool:
    try:
        path().unlink()
    except FileNotFoundError:
        return False
    return True


def _stored() -> dict[str, str]:
    try:
        found = json.loads(path().read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise Failure(f"{path()} cannot be read ({error}); sign in again.", Exit.DENIED) from error
    return found if isinstance(found, dict) else {}
