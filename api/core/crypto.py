"""Secrets at rest: authenticated encryption under a key derived from the encryption secret."""

from __future__ import annotations

import base64
import hashlib
import hmac

from cryptography.fernet import Fernet, InvalidToken


class SecretBox:
    """Encrypts what is short (Fernet: AES-128-CBC with HMAC-SHA256)."""

    def __init__(self, secret: str) -> None:
        digest = hashlib.scrypt(secret.encode(), salt=b"ironyard/secret-box", n=2**14, r=8, p=1, dklen=32)
        self._fernet = Fernet(base64.urlsafe_b64encode(digest))
        self._fingerprint_key = hmac.digest(digest, b"ironyard/fingerprint", "sha256")

    def seal(self, text: str) -> str:
        return self.seal_bytes(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """Raises ValueError when the text was sealed under another secret or altered."""
        return self.open_bytes(sealed.encode()).decode()

    def fingerprint(self, content: bytes) -> str:
        """Tells two contents apart and nothing else: without the secret nobody can try guesses against it."""
        return hmac.new(self._fingerprint_key, content, "sha256").hexdigest()

    def seal_bytes(self, content: bytes) -> bytes:
        return self._fernet.encrypt(content)

    def open_bytes(self, sealed: bytes) -> bytes:
        """Raises ValueError as `open` does."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken as error:
            raise ValueError(
                "the stored secret cannot be decrypted with the present encryption secret"
            ) from error
