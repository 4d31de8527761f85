"""Tiny images in a registry: a manifest, a configuration and one layer, all made here."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import tarfile
from typing import Any
from urllib.parse import quote

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class Registry:
    """What a test stores in, and reads from, a registry without TLS."""

    def __init__(self, address: str) -> None:
        self.address = address

    def put_image(self, name: str, tag: str, *, content: str = "", platforms: tuple[str, ...] = ()) -> str:
        """Its digest. With `platforms` (`amd64`, …): an index with an image for each."""
        if not platforms:
            return self._put_manifest(name, tag, MANIFEST, self._manifest(name, content, "amd64"))
        entries = []
        for platform in platforms:
            document = self._manifest(name, content, platform)
            digest = self._put_manifest(name, None, MANIFEST, document)
            entry = {"mediaType": MANIFEST, "digest": digest, "size": len(_text(document))}
            entries.append({**entry, "platform": {"os": "linux", "architecture": platform}})
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        return self._put_manifest(name, tag, INDEX, index)

    def digest(self, name: str, tag: str) -> str | None:
        """As the registry says it; None when it is not there."""
        status, headers, _ = self._ask(
            "HEAD", f"/v2/{name}/manifests/{tag}", headers={"Accept": f"{MANIFEST}, {INDEX}"}
        )
        return headers["docker-content-digest"] if status == 200 else None

    def _manifest(self, name: str, content: str, platform: str) -> dict[str, Any]:
        layer = _layer(content or name)
        config = _text(
            {
                "architecture": platform,
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [_digest(gzip.decompress(layer))]},
            }
        )
        kinds = ("application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip")
        parts = [
            {"mediaType": kind, "digest": self._put_blob(name, data), "size": len(data)}
            for kind, data in zip(kinds, (config, layer), strict=True)
        ]
        return {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:]}

    def _put_blob(self, name: str, data: bytes) -> str:
        digest = _digest(data)
        _, headers, _ = self._ask("POST", f"/v2/{name}/blobs/uploads/")
        place = headers["location"].removeprefix(f"http://{self.address}")
        joint = "&" if "?" in place else "?"
        status, _, said = self._ask("PUT", f"{place}{joint}digest={quote(digest)}", data)
        assert status == 201, said
        return digest

    def _put_manifest(self, name: str, tag: str | None, kind: str, document: dict[str, Any]) -> str:
        data = _text(document)
        status, _, said = self._ask(
            "PUT", f"/v2/{name}/manifests/{tag or _digest(data)}", data, {"Content-Type": kind}
        )
        assert status == 201, said
        return _digest(data)

    def _ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()
        finally:
            connection.close()


def _layer(content: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("content")
        entry.size = len(content.encode())
        archive.addfile(entry, io.BytesIO(content.encode()))
    return gzip.compress(packed.getvalue(), mtime=0)


def _text(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
