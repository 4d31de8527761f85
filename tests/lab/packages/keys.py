"""A signing key of its own for a lab repository, in a keyring of its own."""

from __future__ import annotations

from pathlib import Path

from tests.lab.run import run


class Key:
    """An OpenPGP key without a passphrase; ``public`` is its armoured half."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700, parents=True)
        self.home = home
        who = "Ironyard lab <lab@ironyard.invalid>"
        self._gpg("--passphrase", "", "--quick-gen-key", who, "rsa2048", "sign", "never")
        self.public = self._gpg("--armor", "--export")

    def _gpg(self, *argv: str) -> str:
        return run("gpg", "--batch", "--yes", "--quiet", "--homedir", str(self.home), *argv)

    def sign(self, source: Path, target: Path, *, clear: bool) -> None:
        how = "--clear-sign" if clear else "--detach-sign"
        self._gpg("--armor", how, "--output", str(target), str(source))

    def close(self) -> None:
        """End the agent that gpg started for this keyring."""
        run("gpgconf", "--homedir", str(self.home), "--kill", "all", check=False)
