"""The kernel's nf_tables over netlink: tables by name, also those that no tool on the host would show."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

NETLINK_NETFILTER, NFTABLES = 12, 10
GETTABLE, DELTABLE, BATCH_BEGIN, BATCH_END = 1, 2, 16, 17
REQUEST, ACK, DUMP = 1, 4, 0x300
ERROR, DONE = 2, 3
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
OWNED = 2  # NFT_TABLE_F_OWNER: lives as long as the program that holds it


def tables() -> list[str]:
    """'family name' of every table; none where the kernel has no nf_tables. Raises OSError."""
    found = []
    try:
        payloads = list(_ask(_message(NFTABLES << 8 | GETTABLE, REQUEST | DUMP, _generic(0))))
    except OSError as error:
        if error.errno in (93, 95, 22):  # no such protocol or not supported
            return []
        raise
    for payload in payloads:
        family = FAMILIES.get(payload[0], str(payload[0]))
        name = dict(_attributes(payload[4:])).get(1, b"").rstrip(b"\0").decode("utf-8", "replace")
        found.append(f"{family} {name}")
    return sorted(found)


def delete(table: str) -> None:
    """Delete a table with everything in it. Raises OSError."""
    family_name, name = table.split(" ", 1)
    family = next((code for code, word in FAMILIES.items() if word == family_name), None)
    code = int(family_name) if family is None else family
    attribute = _attribute(1, name.encode() + b"\0")
    batch = (
        _message(BATCH_BEGIN, REQUEST, struct.pack("!BBH", 0, 0, NFTABLES))
        + _message(NFTABLES << 8 | DELTABLE, REQUEST | ACK, _generic(code) + attribute)
        + _message(BATCH_END, REQUEST, struct.pack("!BBH", 0, 0, NFTABLES))
    )
    list(_ask(batch))


def _generic(family: int) -> bytes:
    return struct.pack("!BBH", family, 0, 0)


def _message(kind: int, flags: int, payload: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, 1, 0) + payload


def _attribute(kind: int, payload: bytes) -> bytes:
    raw = struct.pack("=HH", 4 + len(payload), kind) + payload
    return raw + b"\0" * (-len(raw) % 4)


def _attributes(raw: bytes) -> Iterator[tuple[int, bytes]]:
    while len(raw) >= 4:
        size, kind = struct.unpack_from("=HH", raw)
        if size < 4:
            return
        yield kind & 0x3FFF, raw[4:size]
        raw = raw[(size + 3) & ~3 :]


def _ask(request: bytes) -> Iterator[bytes]:
    """Send, and give the payload of every answer up to its end. Raises OSError with the kernel's code."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as link:
        link.settimeout(10)
        link.bind((0, 0))
        link.send(request)
        while True:
            raw = link.recv(1 << 18)
            while len(raw) >= 16:
                size, kind, _, _, _ = struct.unpack_from("=IHHII", raw)
                payload, raw = raw[16:size], raw[(size + 3) & ~3 :]
                if kind == DONE:
                    return
                if kind == ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    if code:
                        raise OSError(code, os.strerror(code))
                    return
                yield payload
