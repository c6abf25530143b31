"""Resume points: event ids that prove themselves (the contract's section 3).

Strategy: an id names a place in a stream, and carries a short check of the message that stood there. Whoever resumes
reads that place again and compares: a stream deleted and made anew, or an id from elsewhere, shows itself without any
state of ours. The alphabet is such that a cross-origin reconnect never needs a preflight (fetch, CORS-safelisted
request-header values).

    k3Xq.1042.9fA_2Q      stream's tag . offset . check
    k3Xq.begin            before the first message of a stream that was empty
    m7Yw2bQ9e.17          a memory's name . sequence number
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from hashlib import blake2s
from zlib import crc32

from sidecar.amqp import Delivery

_STREAM = re.compile(r"([A-Za-z0-9_-]{4})\.(?:(0|[1-9][0-9]{0,18})\.([A-Za-z0-9_-]{6})|begin)")
_MEMORY = re.compile(r"(m[A-Za-z0-9_-]{8})\.(0|[1-9][0-9]{0,18})")
_MAX_OFFSET = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a stream: the offset of the last message had, and the check of it; −1: before the first."""

    tag: str
    offset: int
    check: str

    def __str__(self) -> str:
        return f"{self.tag}.{self.offset}.{self.check}" if self.offset >= 0 else f"{self.tag}.begin"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Read an id; None where it is none of ours."""
        found = _STREAM.fullmatch(text)
        if found is None:
            return None
        tag, offset, check = found.groups()
        if offset is None:
            return cls(tag, -1, "")
        return cls(tag, int(offset), check) if int(offset) <= _MAX_OFFSET else None


@dataclass(frozen=True, slots=True)
class MemoryCursor:
    """A place in a memory of this process."""

    name: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.name}.{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> MemoryCursor | None:
        """Read an id; None where it is none of ours."""
        found = _MEMORY.fullmatch(text)
        return cls(found[1], int(found[2])) if found else None


def tag_of(stream: str) -> str:
    """Return four characters that tell one stream's ids from another's, the same in every process."""
    return _text(blake2s(stream.encode(), digest_size=3).digest())


def check_of(delivery: Delivery) -> str:
    """Return six characters over what of a message does not change between readings.

    Not over its raw properties: a broker may write the same field table in another order after an upgrade.
    """
    value = crc32(delivery.body, crc32(delivery.routing_key.encode("utf-8", "surrogateescape")))
    properties = delivery.properties if _is_dated(delivery) else None
    if properties is not None:
        value = crc32(f"{properties.message_id}\n{properties.timestamp}".encode(), value)
    return _text(value.to_bytes(4, "big"))


def _is_dated(delivery: Delivery) -> bool:
    """Whether it has a message id or a timestamp; for one off the wire that is two bits of its property flags."""
    raw = delivery.raw_properties
    return (
        bool(raw[1] & 0xC0) if len(raw) > 1 else bool(delivery.properties.message_id or delivery.properties.timestamp)
    )


def offset_of(delivery: Delivery) -> int:
    """Return the offset a stream's broker gave this message (its header ``x-stream-offset``); −1 if there is none.

    Looked for where RabbitMQ puts it, at either end of the header table; anywhere else the table is parsed, since a
    publisher may have written the same bytes into a value of its own.
    """
    raw = delivery.raw_properties
    start = _table_of(raw)
    if start:
        end = start + int.from_bytes(raw[start - 4 : start], "big")
        for at in (start, end - 25):
            if at >= start and raw.startswith(_FIELD, at):
                return int.from_bytes(raw[at + 17 : at + 25], "big")
    value = delivery.properties.headers.get("x-stream-offset")
    return value if isinstance(value, int) else -1


_FIELD = b"\x0fx-stream-offsetl"


def _table_of(raw: bytes) -> int:
    """Where the entries of the header table begin, after content type and encoding; 0 where there is none."""
    if len(raw) < 6 or not raw[0] & 0x20:
        return 0
    at = 2
    for flag in (0x80, 0x40):
        if raw[0] & flag and at < len(raw):
            at += 1 + raw[at]
    return at + 4 if at + 4 <= len(raw) else 0


def _text(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()
