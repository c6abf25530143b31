"""AMQP 0-9-1 as bytes: messages, their properties, and the splitter that takes deliveries out of a byte stream.

Strategy: no I/O. A delivery is cut out of the bytes that were read by offsets: one look at each frame's header, and a
message that lies in them whole (nearly all do) becomes a `Delivery` in one go. Its properties stay raw until somebody
asks for them, since most messages go from the broker to a browser without anybody looking. What is not a delivery of
our own consumers is passed on untouched and in order, so that a whole AMQP client can live on what is left.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from struct import Struct
from typing import Any, Final, TypeAlias

FieldValue: TypeAlias = (
    "bool | int | float | str | bytes | Decimal | datetime | list[FieldValue] | dict[str, FieldValue] | None"
)
"""What a field table may hold (AMQP 0-9-1 §4.2.5.5 with RabbitMQ's errata)."""

FRAME_LIMIT: Final = 16 * 1024 * 1024
"""The largest frame in bytes that is waited for; RabbitMQ's `frame_max` is 128 KiB unless an operator raised it."""

NAMES_KEPT: Final = 4096
"""How many pairs of exchange and routing key are kept decoded."""

HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
"""A heartbeat frame (§4.2.7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """The properties of a basic message (AMQP 0-9-1 §1.8.1); each is None, and ``headers`` empty, when absent."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, FieldValue] = field(default_factory=dict)
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: datetime | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


class Delivery:
    """One message as the broker delivered it (AMQP 0-9-1 §1.8.3.14)."""

    __slots__ = (
        "_properties",
        "body",
        "consumer_tag",
        "delivery_tag",
        "exchange",
        "raw_properties",
        "redelivered",
        "routing_key",
    )

    def __init__(
        self,
        consumer_tag: str,
        delivery_tag: int,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        body: bytes,
        raw_properties: bytes = b"",
        properties: Properties | None = None,
    ) -> None:
        self.consumer_tag = consumer_tag
        self.delivery_tag = delivery_tag
        self.redelivered = redelivered
        self.exchange = exchange
        self.routing_key = routing_key
        self.body = body
        self.raw_properties = raw_properties
        self._properties = properties

    @property
    def properties(self) -> Properties:
        """The message's properties, parsed at the first look."""
        if self._properties is None:
            self._properties = decode_properties(self.raw_properties)
        return self._properties

    def __repr__(self) -> str:
        return f"<Delivery {self.delivery_tag} {self.exchange!r} {self.routing_key!r} {len(self.body)} bytes>"


# The splitter. A frame is type, channel, size, payload and the octet 0xCE (§4.2.3).

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_FRAME_END = 0xCE
_DELIVER = b"\x00\x3c\x00\x3c"  # class 60, method 60
_frame_head = Struct(">BHI").unpack_from
_content_head = Struct(">BHIHHQ").unpack_from
_tag_and_flag = Struct(">QB").unpack_from


class _Partial:
    """A delivery of ours whose frames have not all arrived."""

    __slots__ = ("headed", "method", "missing", "parts", "raw_properties")

    def __init__(self, method: tuple[str, int, bool, str, str]) -> None:
        self.method = method
        self.headed = False
        self.missing = 0
        self.raw_properties = b""
        self.parts: list[bytes] = []

    def take(self, kind: int, payload: bytes) -> bool:
        """Add a frame; False when it is not the one the standard lets follow (§4.2.6)."""
        if not self.headed:
            return kind == _HEADER and self._head(payload)
        self.missing -= len(payload)
        self.parts.append(payload)
        return kind == _BODY and self.missing >= 0

    def _head(self, payload: bytes) -> bool:
        if len(payload) < 14 or not payload.startswith(b"\x00\x3c"):
            return False
        self.headed = True
        self.missing = int.from_bytes(payload[4:12])
        self.raw_properties = payload[12:]
        return True

    @property
    def complete(self) -> bool:
        return self.headed and self.missing == 0

    def delivery(self) -> Delivery:
        return Delivery(*self.method, b"".join(self.parts), self.raw_properties)


class Splitter:
    """Takes the deliveries of the given consumer tags out of a connection's incoming bytes.

    The law: the deliveries and the remaining bytes are together exactly the input, however it was cut into chunks;
    the remaining bytes are whole frames in their order. A frame that the standard does not allow sets `broken`: from
    it on everything is passed through, for the client behind to judge, and a delivery that was under way is lost.
    """

    __slots__ = ("_held", "_names", "_partial", "_short", "_tags", "broken")

    def __init__(self) -> None:
        self.broken = False
        self._tags: dict[bytes, str] = {}
        self._names: dict[bytes, tuple[str, str]] = {}
        self._partial: dict[int, _Partial] = {}
        self._held: list[bytes] = []
        self._short = 0

    def add(self, consumer_tag: str) -> None:
        """Take out the deliveries of this consumer from now on."""
        self._tags[consumer_tag.encode()] = consumer_tag

    def discard(self, consumer_tag: str) -> None:
        """Let the deliveries of this consumer pass from now on."""
        self._tags.pop(consumer_tag.encode(), None)

    def feed(self, data: bytes) -> tuple[list[Delivery], bytes]:
        """Take in bytes as they were read; return the deliveries that are now whole, and the remaining bytes."""
        if self._short > len(data):
            self._short -= len(data)
            self._held.append(data)
            return [], b""
        if self._held:
            self._held.append(data)
            data = b"".join(self._held)
            self._held.clear()
        self._short = 0
        if self.broken:
            return [], data
        return self._split(data)

    def _split(self, data: bytes) -> tuple[list[Delivery], bytes]:
        deliveries: list[Delivery] = []
        rest: list[bytes] = []
        tags, names, partials = self._tags, self._names, self._partial
        size = len(data)
        position = passed = 0  # data[passed:position] is what waits to be passed on in one piece
        while size - position >= 8:
            kind, channel, length = _frame_head(data, position)
            end = position + 7 + length
            if end >= size or data[end] != _FRAME_END:
                break
            if kind == _METHOD and data.startswith(_DELIVER, position + 7):
                after_tag = position + 12 + data[position + 11]
                tag = tags.get(data[position + 12 : after_tag])
                if tag is not None:
                    where = data[after_tag + 9 : end]
                    exchange_and_key = names.get(where) or self._remember(where)
                    if exchange_and_key is None or channel in partials:
                        break
                    if passed < position:
                        rest.append(data[passed:position])
                    delivery_tag, redelivered = _tag_and_flag(data, after_tag)
                    position = passed = end + 1
                    # The common case: the content header and the one body frame, or none, lie here whole.
                    if size - position >= 22:
                        kind, header_channel, length, class_id, _, body_size = _content_head(data, position)
                        end = position + 7 + length
                        body_end = end + 8 + body_size if body_size else end
                        if (
                            body_end < size
                            and kind == _HEADER
                            and header_channel == channel
                            and class_id == 60
                            and length >= 14
                            and data[end] == _FRAME_END == data[body_end]
                            and (not body_size or _frame_head(data, end + 1) == (_BODY, channel, body_size))
                        ):
                            body = data[end + 8 : body_end] if body_size else b""
                            raw = data[position + 19 : end]
                            again = redelivered & 1 == 1
                            deliveries.append(Delivery(tag, delivery_tag, again, *exchange_and_key, body, raw))
                            position = passed = body_end + 1
                            continue
                    partials[channel] = _Partial((tag, delivery_tag, redelivered & 1 == 1, *exchange_and_key))
                    continue
            elif kind not in (_METHOD, _HEADER, _BODY, _HEARTBEAT):
                break
            if partials and channel in partials:
                partial = partials[channel]
                if not partial.take(kind, data[position + 7 : end]):
                    break
                if passed < position:
                    rest.append(data[passed:position])
                passed = end + 1
                if partial.complete:
                    deliveries.append(partials.pop(channel).delivery())
            position = end + 1
        if passed < position:
            rest.append(data[passed:position])
        if position < size:
            self._hold(data[position:], rest)
        return deliveries, rest[0] if len(rest) == 1 else b"".join(rest)

    def _hold(self, tail: bytes, rest: list[bytes]) -> None:
        """Keep the beginning of a frame until the rest of it is here; what can become no frame is passed on."""
        if len(tail) < 8:
            length = 0
            plausible = tail[0] in (_METHOD, _HEADER, _BODY, _HEARTBEAT)
        else:
            kind, _, length = _frame_head(tail)
            plausible = kind in (_METHOD, _HEADER, _BODY, _HEARTBEAT) and length <= FRAME_LIMIT
        if plausible and len(tail) < length + 8:
            self._held.append(tail)
            self._short = length + 8 - len(tail)
        else:
            self.broken = True
            rest.append(tail)

    def _remember(self, where: bytes) -> tuple[str, str] | None:
        """Decode the end of Basic.Deliver, two short strings; None when it is not that."""
        if len(where) < 2 or len(where) < where[0] + 2 or len(where) != where[0] + 2 + where[where[0] + 1]:
            return None
        if len(self._names) >= NAMES_KEPT:
            self._names.clear()
        cut = where[0] + 1
        # The standard says UTF-8 and no broker checks it: a stray byte must not cost the connection.
        names = where[1:cut].decode(errors="replace"), where[cut + 1 :].decode(errors="replace")
        self._names[where] = names
        return names


# Properties. A flag for each, then those present in their order (§4.2.6.1).

TABLE_DEPTH: Final = 32
"""How deep tables and arrays may lie in each other; what is deeper is unreadable."""

_MILLISECONDS_FROM = 2**32  # no message is from after 2106: such a number is milliseconds, as other clients send them

_NUMBERS: Final[dict[int, Struct]] = {
    ord(letter): Struct(">" + code) for letter, code in zip("tbBsuIilLfd", "?bBhHiIqqfd", strict=True)
}
_LONG_STRING: Final = ord("S")
_SIZES: Final = {kind: number.size for kind, number in _NUMBERS.items()} | {ord("T"): 8, ord("D"): 5, ord("V"): 0}
"""Bytes of a field's value by its type; the others have their length before them."""
_unsigned_32 = Struct(">I").unpack_from
_unsigned_64 = Struct(">Q").unpack_from
_decimal = Struct(">BI").unpack_from


def decode_properties(raw: bytes) -> Properties:
    """Decode the property flags and list of a content header (§4.2.6.1).

    Never raises: publishers are strangers, and RabbitMQ passes on what they sent. What stands before an unreadable
    property is kept; the rest counts as absent. A text that is not UTF-8 stays ``bytes`` in headers.
    """
    found: dict[str, Any] = {}
    try:
        _read_properties(raw, found)
    except (ValueError, IndexError, struct.error):
        pass
    return Properties(**found)


def text_header(raw: bytes, name: bytes) -> str | None:
    """Return a header that is a text, without decoding the others; None where it is absent, or anything else.

    Never raises. Says what `decode_properties` says, at a fraction of its cost, wherever that can read the headers.
    """
    if name not in raw:
        return None
    try:
        value = _find_header(raw, name)
        return value.decode() if value is not None else None
    except (ValueError, IndexError, struct.error):
        return None


def _find_header(raw: bytes, name: bytes) -> bytes | None:
    offset = 2
    for flag in (0x80, 0x40):  # the content type and encoding stand before the headers
        offset += 1 + raw[offset] if raw[0] & flag else 0
    offset, end = _extent(raw, offset, 0) if raw[0] & 0x20 else (0, 0)
    found = None
    while offset < end:
        begin, kind_at = offset + 1, offset + 1 + raw[offset]
        size = _SIZES.get(raw[kind_at])
        offset = kind_at + (1 + size if size is not None else 5 + _unsigned_32(raw, kind_at + 1)[0])
        if raw[begin:kind_at] == name:
            found = raw[kind_at + 5 : offset] if raw[kind_at] == _LONG_STRING else None
    return found


def _read_properties(raw: bytes, found: dict[str, Any]) -> None:
    if not raw:
        return
    flags, offset = int.from_bytes(raw[:2]), 2
    for bit, name, read in _PROPERTIES:
        if flags & bit:
            value, offset = read(raw, offset)
            if value is not None:
                found[name] = value


def _cut(raw: bytes, start: int, length: int) -> tuple[bytes, int]:
    if start + length > len(raw):
        raise ValueError("cut short")
    return raw[start : start + length], start + length


def _short_string(raw: bytes, offset: int) -> tuple[str, int]:
    value, offset = _cut(raw, offset + 1, raw[offset])
    return value.decode(errors="replace"), offset


def _octet(raw: bytes, offset: int) -> tuple[int, int]:
    return raw[offset], offset + 1


def _instant(raw: bytes, offset: int) -> tuple[datetime | None, int]:
    seconds: float = _unsigned_64(raw, offset)[0]
    if seconds >= _MILLISECONDS_FROM:
        seconds /= 1000
    try:
        return datetime.fromtimestamp(seconds, tz=UTC), offset + 8
    except (ValueError, OverflowError, OSError):
        return None, offset + 8


def _extent(raw: bytes, offset: int, depth: int) -> tuple[int, int]:
    """Where a table's or an array's inside begins and ends, its length in bytes standing at `offset`."""
    end = offset + 4 + _unsigned_32(raw, offset)[0]
    if end > len(raw) or depth > TABLE_DEPTH:
        raise ValueError("longer than its message, or too deep")
    return offset + 4, end


def _table(raw: bytes, offset: int, depth: int = 0) -> tuple[dict[str, FieldValue], int]:
    offset, end = _extent(raw, offset, depth)
    table: dict[str, FieldValue] = {}
    while offset < end:
        name, offset = _short_string(raw, offset)
        table[name], offset = _field(raw, offset, depth)
    return table, offset


def _array(raw: bytes, offset: int, depth: int) -> tuple[list[FieldValue], int]:
    offset, end = _extent(raw, offset, depth)
    array: list[FieldValue] = []
    while offset < end:
        value, offset = _field(raw, offset, depth)
        array.append(value)
    return array, offset


def _field(raw: bytes, offset: int, depth: int) -> tuple[FieldValue, int]:
    """One value of a table, its type letter first (§4.2.5.5; https://www.rabbitmq.com/amqp-0-9-1-errata)."""
    kind, offset = raw[offset], offset + 1
    if kind in _NUMBERS:
        number = _NUMBERS[kind]
        return number.unpack_from(raw, offset)[0], offset + number.size
    match chr(kind):
        case "S" | "x":
            value, offset = _cut(raw, offset + 4, _unsigned_32(raw, offset)[0])
            return (value if kind == ord("x") else _text(value)), offset
        case "F":
            return _table(raw, offset, depth + 1)
        case "A":
            return _array(raw, offset, depth + 1)
        case "T":
            return _instant(raw, offset)
        case "D":
            scale, digits = _decimal(raw, offset)
            return Decimal(digits).scaleb(-scale), offset + 5
        case "V":
            return None, offset
        case _:
            raise ValueError("an unknown type of field")


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


_PROPERTIES: Final[tuple[tuple[int, str, Callable[[bytes, int], tuple[Any, int]]], ...]] = (
    (1 << 15, "content_type", _short_string),
    (1 << 14, "content_encoding", _short_string),
    (1 << 13, "headers", _table),
    (1 << 12, "delivery_mode", _octet),
    (1 << 11, "priority", _octet),
    (1 << 10, "correlation_id", _short_string),
    (1 << 9, "reply_to", _short_string),
    (1 << 8, "expiration", _short_string),
    (1 << 7, "message_id", _short_string),
    (1 << 6, "timestamp", _instant),
    (1 << 5, "type", _short_string),
    (1 << 4, "user_id", _short_string),
    (1 << 3, "app_id", _short_string),
)
