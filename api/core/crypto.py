"""Secrets at rest: authenticated encryption under a key derived from the encryption secret."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken


class SecretBox:
    """Encrypts short texts (Fernet: AES-128-CBC with HMAC-SHA256)."""

    def __init__(self, secret: str) -> None:
        digest = hashlib.scrypt(secret.encode(), salt=b"ironyard/secret-box", n=2**14, r=8, p=1, dklen=32)
        self._fernet = Fernet(base64.urlsafe_b64encode(digest))

    def seal(self, text: str) -> str:
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """Raises ValueError when the text was sealed under another secret or altered."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken as error:
            raise ValueError(
                "the stored secret cannot be decrypted with the present encryption secret"
            ) from error
