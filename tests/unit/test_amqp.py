"""The splitter and the decoder of properties, against pamqp, cut into chunks in every way."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pamqp import commands, frame, heartbeat
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from sidecar import amqp
from sidecar.amqp import Delivery, Properties, Splitter, decode_properties, text_header

OURS = ("sidecar.1", "sidecar.2", "ö")

# What a broker may send


def content(channel: int, method: Any, body: bytes, pieces: int = 1, **properties: Any) -> list[bytes]:
    """A method, its content header and its body in so many frames, encoded by pamqp."""
    header = ContentHeader(body_size=len(body), properties=Basic.Properties(**properties))
    step = max(1, -(-len(body) // pieces))
    bodies = [ContentBody(body[at : at + step]) for at in range(0, len(body), step)]
    return [frame.marshal(each, channel) for each in (method, header, *bodies)]


def deliver(tag: str, delivery_tag: int = 1, exchange: str = "e", key: str = "k", redelivered: bool = False) -> Any:
    return Basic.Deliver(tag, delivery_tag, redelivered, exchange, key)


short_texts = st.text(max_size=40).filter(lambda text: len(text.encode()) <= 255)
exchange_names = st.text("abcXYZ019-_.:", max_size=20)  # what pamqp lets pass
bodies = st.one_of(st.just(b""), st.binary(max_size=300), st.just(b"\xce" * 70_000))


@st.composite
def our_contents(draw: st.DrawFn, channel: int) -> list[bytes]:
    method = deliver(
        draw(st.sampled_from(OURS)),
        draw(st.integers(0, 2**64 // 2 - 1)),
        draw(exchange_names),
        draw(short_texts),
        draw(st.booleans()),
    )
    return content(channel, method, draw(bodies), draw(st.integers(1, 4)), **draw(plain_properties))


plain_properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": short_texts,
        "message_id": short_texts,
        "delivery_mode": st.integers(1, 2),
        "headers": st.dictionaries(short_texts, st.integers(-(2**31), 2**31 - 1) | short_texts, max_size=3),
    },
)


@st.composite
def other_frames(draw: st.DrawFn, channel: int) -> list[bytes]:
    others: list[list[bytes]] = [
        [frame.marshal(heartbeat.Heartbeat(), 0)],
        [frame.marshal(commands.Queue.DeclareOk("q", 0, 0), channel)],
        [frame.marshal(Basic.Ack(draw(st.integers(0, 99)), True), channel)],
        [frame.marshal(Basic.Cancel("sidecar.1", True), channel)],
        [frame.marshal(commands.Channel.Close(404, "NOT_FOUND", 50, 20), channel)],
        [frame.marshal(commands.Connection.Blocked("memory"), 0)],
        content(channel, deliver("somebody.else"), draw(bodies), draw(st.integers(1, 3))),
        content(channel, Basic.Return(312, "NO_ROUTE", "sidecar.1", "sidecar.1"), b"sidecar.1"),
        content(channel, Basic.GetOk(1, False, "e", "k", 0), b"<\x00<\x00"),
    ]
    return draw(st.sampled_from(others))


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Frames of three channels, each channel's in order, interleaved as they like."""
    channels: list[list[bytes]] = [
        [part for unit in draw(st.lists(our_contents(n) | other_frames(n), max_size=5)) for part in unit]
        for n in (1, 2, 700)
    ]
    merged: list[bytes] = []
    while any(channels):
        merged.append(draw(st.sampled_from([each for each in channels if each])).pop(0))
    return merged


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def split(chunks: Iterable[bytes], tags: Sequence[str] = OURS) -> tuple[list[Delivery], bytes, Splitter]:
    splitter = Splitter()
    for tag in tags:
        splitter.add(tag)
    fed = [splitter.feed(chunk) for chunk in chunks]
    return [delivery for some, _ in fed for delivery in some], b"".join(rest for _, rest in fed), splitter


# What pamqp makes of the same frames


def expect(frames: Sequence[bytes]) -> tuple[list[tuple[Any, ...]], bytes]:
    """The deliveries of our tags as tuples, in the order in which they end, and every other frame."""
    deliveries: list[tuple[Any, ...]] = []
    rest: list[bytes] = []
    open_contents: dict[int, list[Any]] = {}
    for raw in frames:
        _, channel, value = frame.unmarshal(raw)
        if isinstance(value, Basic.Deliver) and value.consumer_tag in OURS:
            open_contents[channel] = [value]
            continue
        if channel not in open_contents:
            rest.append(raw)
            continue
        open_contents[channel].append(value)
        method, header, *parts = open_contents[channel]
        body = b"".join(part.value for part in parts)
        if len(body) == header.body_size:
            del open_contents[channel]
            deliveries.append((as_tuple(method), header.properties, body))
    return deliveries, b"".join(rest)


def as_tuple(method: Any) -> tuple[Any, ...]:
    return (method.consumer_tag, method.delivery_tag, method.redelivered, method.exchange, method.routing_key)


def seen(delivery: Delivery) -> tuple[Any, ...]:
    head = (delivery.consumer_tag, delivery.delivery_tag, delivery.redelivered)
    return (*head, delivery.exchange, delivery.routing_key)


@given(streams(), st.lists(st.integers(0, 2**20), max_size=8))
def test_splits_as_pamqp_reads(frames: list[bytes], places: list[int]) -> None:
    deliveries, rest, splitter = split(cut(b"".join(frames), places))
    expected, expected_rest = expect(frames)
    assert [(seen(each), each.body) for each in deliveries] == [(head, body) for head, _, body in expected]
    for delivery, (_, properties, _) in zip(deliveries, expected, strict=True):
        assert_same(delivery.properties, properties)
    assert rest == expected_rest
    assert not splitter.broken


@given(streams())
def test_byte_by_byte_is_the_same(frames: list[bytes]) -> None:
    data = b"".join(frames)
    assume(len(data) < 20_000)
    whole, rest, _ = split([data])
    parts, rest_of_parts, _ = split(data[at : at + 1] for at in range(len(data)))
    assert [(seen(each), each.body, each.raw_properties) for each in parts] == [
        (seen(each), each.body, each.raw_properties) for each in whole
    ]
    assert rest_of_parts == rest


def test_remaining_bytes_are_whole_frames() -> None:
    """So that a heartbeat can be put between them."""
    frames = [frame.marshal(commands.Queue.BindOk(), 1), *content(1, deliver("not ours"), b"body")]
    data = b"".join(frames)
    splitter = Splitter()
    ends = {sum(map(len, frames[:count])) for count in range(len(frames) + 1)}
    passed = 0
    for at in range(len(data)):
        passed += len(splitter.feed(data[at : at + 1])[1])
        assert passed in ends


def test_a_large_body_costs_no_more_than_its_bytes() -> None:
    body = bytes(10_000_000)
    data = b"".join(content(3, deliver("sidecar.1"), body, pieces=77))
    deliveries, rest, _ = split(data[at : at + 65_536] for at in range(0, len(data), 65_536))
    assert [each.body for each in deliveries] == [body]
    assert rest == b""


def test_a_tag_is_ours_while_it_is_added() -> None:
    splitter = Splitter()
    data = b"".join(content(1, deliver("sidecar.1"), b"x"))
    assert splitter.feed(data) == ([], data)
    splitter.add("sidecar.1")
    assert [each.body for each in splitter.feed(data)[0]] == [b"x"]
    splitter.discard("sidecar.1")
    assert splitter.feed(data) == ([], data)


def test_a_routing_key_that_is_not_utf8_costs_nothing_but_itself() -> None:
    raw = b"".join(content(1, deliver("sidecar.1", key="ab"), b"x")).replace(b"\x02ab", b"\x02a\xff")
    (delivery,), rest, splitter = split([raw])
    assert delivery.routing_key == "a�"
    assert rest == b""
    assert not splitter.broken


def test_names_kept_are_bounded() -> None:
    splitter = Splitter()
    splitter.add("sidecar.1")
    for n in range(amqp.NAMES_KEPT + 10):
        (delivery,), _ = splitter.feed(b"".join(content(1, deliver("sidecar.1", key=str(n)), b"")))
        assert delivery.routing_key == str(n)
    assert len(splitter._names) <= amqp.NAMES_KEPT


# Garbage

ACK = frame.marshal(Basic.Ack(7), 1)
GOOD = content(1, deliver("sidecar.1"), b"body")
GARBAGE = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n",
    "a protocol header": b"AMQP\x00\x00\x09\x01",
    "an unknown frame type": b"\x07" + ACK[1:],
    "a wrong frame end": ACK[:-1] + b"\xcd",
    "a frame larger than any": b"\x01\x00\x01\x7f\xff\xff\xff" + bytes(40),
    "a delivery whose strings do not fit": GOOD[0].replace(b"\x01e\x01k", b"\x01e\x09k"),
    "a delivery without names": frame._marshal(1, 1, b"\x00\x3c\x00\x3c\x09sidecar.1"),
    "a delivery inside a delivery": GOOD[0] + GOOD[0],
    "a method where a header belongs": GOOD[0] + ACK,
    "a body where a header belongs": GOOD[0] + GOOD[2],
    "a header cut short": GOOD[0] + frame._marshal(2, 1, bytes.fromhex("003c00000000")),
    "a header of another class": GOOD[0] + frame._marshal(2, 1, b"\x00\x3d" + bytes(12)),
    "a body larger than announced": GOOD[0] + GOOD[1] + frame._marshal(3, 1, b"too long"),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("step", [1, 5, 10_000])
def test_after_garbage_everything_passes(garbage: bytes, step: int) -> None:
    data = b"".join(GOOD) + ACK + garbage + b"".join(GOOD)
    deliveries, rest, splitter = split(data[at : at + step] for at in range(0, len(data), step))
    assert splitter.broken
    assert [each.body for each in deliveries] == [b"body"]
    assert rest.startswith(ACK)
    assert rest.endswith(b"".join(GOOD))
    assert splitter.feed(b"more") == ([], b"more")


@given(st.binary(), st.lists(st.integers(0, 2**20), max_size=4))
def test_any_bytes_at_all(data: bytes, places: list[int]) -> None:
    _, rest, splitter = split(cut(data, places))
    assert data.startswith(rest)
    assert rest == data or not splitter.broken


# Properties


def assert_same(ours: Properties, theirs: Basic.Properties) -> None:
    for name in Properties.__dataclass_fields__:
        expected = getattr(theirs, {"type": "message_type"}.get(name, name))
        assert getattr(ours, name) == (expected or ({} if name == "headers" else expected)), name


def encoded(**properties: Any) -> bytes:
    header = frame.marshal(ContentHeader(properties=Basic.Properties(**properties)), 1)
    return header[19:-1]


def table(*fields: bytes) -> bytes:
    """Property flags with headers alone, and a table of fields that are encoded already, named a, b, c…"""
    named = b"".join(b"\x01" + bytes([ord("a") + n]) + each for n, each in enumerate(fields))
    return b"\x20\x00" + len(named).to_bytes(4) + named


def pamqp_reads(raw: bytes) -> Basic.Properties:
    header = ContentHeader()
    header.unmarshal(b"\x00\x3c" + bytes(10) + raw)
    return header.properties


FIELDS = {
    "boolean": (b"t\x01", True),
    "signed 8": (b"b\xff", -1),
    "unsigned 8": (b"B\xff", 255),
    "signed 16": (b"s\xff\xfe", -2),
    "unsigned 16": (b"u\xff\xfe", 65_534),
    "signed 32": (b"I\xff\xff\xff\xfd", -3),
    "unsigned 32": (b"i\xff\xff\xff\xfd", 2**32 - 3),
    "signed 64": (b"l" + b"\xff" * 8, -1),
    "signed 64 by its other letter": (b"L" + b"\xff" * 8, -1),
    "float": (b"f\x3f\xc0\x00\x00", 1.5),
    "double": (b"d\x3f\xf8\x00\x00\x00\x00\x00\x00", 1.5),
    "decimal": (b"D\x02\x00\x00\x30\x39", Decimal("123.45")),
    "long string": (b"S\x00\x00\x00\x03\xc3\xb6!", "ö!"),
    "long string that is not UTF-8": (b"S\x00\x00\x00\x02\xff\xfe", b"\xff\xfe"),
    "byte array": (b"x\x00\x00\x00\x02ab", b"ab"),
    "timestamp": (b"T\x00\x00\x00\x00\x65\x53\xf1\x00", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
    "timestamp in milliseconds": (
        b"T" + (1_700_000_000_500).to_bytes(8),
        datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC),
    ),
    "void": (b"V", None),
    "array": (b"A\x00\x00\x00\x09t\x00S\x00\x00\x00\x02hi", [False, "hi"]),
    "table": (b"F\x00\x00\x00\x05\x01zu\x00\x07", {"z": 7}),
    "empty table": (b"F\x00\x00\x00\x00", {}),
    "empty array": (b"A\x00\x00\x00\x00", []),
}


@pytest.mark.parametrize(("raw", "value"), FIELDS.values(), ids=FIELDS.keys())
def test_every_field_type(raw: bytes, value: object) -> None:
    headers = decode_properties(table(raw, b"t\x01")).headers
    assert headers == {"a": value, "b": True}
    assert type(headers["a"]) is type(value)
    assert pamqp_reads(table(raw, b"t\x01")).headers == headers


field_values: st.SearchStrategy[Any] = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, width=32)
    | st.text(max_size=20)
    | st.binary(max_size=20).map(bytearray)
    | st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.replace(microsecond=0, tzinfo=UTC))
    | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short_texts, inner, max_size=3),
    max_leaves=8,
)
short = short_texts.filter(bool)
all_properties = st.fixed_dictionaries(
    {},
    optional={
        "content_type": short,
        "content_encoding": short,
        "headers": st.dictionaries(short_texts, field_values, min_size=1, max_size=4),
        "delivery_mode": st.integers(1, 2),
        "priority": st.integers(0, 255),
        "correlation_id": short,
        "reply_to": short,
        "expiration": short,
        "message_id": short,
        "timestamp": st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1)).map(
            lambda at: at.replace(microsecond=0, tzinfo=UTC)
        ),
        "message_type": short,
        "user_id": short,
        "app_id": short,
    },
)


@given(all_properties)
def test_properties_as_pamqp_reads_them(properties: dict[str, Any]) -> None:
    raw = encoded(**properties)
    assert_same(decode_properties(raw), pamqp_reads(raw))


@given(all_properties, st.text(max_size=5), st.dictionaries(short_texts, field_values, max_size=3))
def test_a_text_header_is_found_among_others(properties: dict[str, Any], value: str, more: dict[str, Any]) -> None:
    headers = properties.get("headers", {}) | {"wanted": value} | more
    raw = encoded(**(properties | {"headers": headers}))
    for name in (*headers, "none"):
        found = headers.get(name)
        assert text_header(raw, name.encode()) == (found if isinstance(found, str) else None)


def test_a_text_header_is_not_found_inside_another() -> None:
    hidden = table(b"S\x00\x00\x00\x01!")[6:]  # the entry a: "!", as bytes of another header's value
    headers = {"b": hidden.decode(), "c": {"a": "!"}}
    assert text_header(encoded(headers=headers), b"a") is None
    assert text_header(encoded(headers={**headers, "a": "?"}), b"a") == "?"


@given(all_properties, st.integers(0, 2**20), st.binary(max_size=3))
def test_a_damaged_list_never_raises(properties: dict[str, Any], place: int, noise: bytes) -> None:
    raw = encoded(**properties)
    place %= len(raw) + 1
    for damaged in (raw[:place] + noise, raw[:place] + noise + raw[place + 1 :]):
        decode_properties(damaged)
        for name in properties.get("headers", {}):
            text_header(damaged, name.encode())


def test_what_stands_before_the_damage_is_kept() -> None:
    damaged = encoded(content_type="text/plain", message_id="1")[:-1]
    assert decode_properties(damaged) == Properties(content_type="text/plain")


@pytest.mark.parametrize(
    "raw",
    [
        table(b"?"),
        table(b"S\x7f\xff\xff\xff"),
        table(b"A\x7f\xff\xff\xff"),
        table(b"F\x7f\xff\xff\xff"),
        table(b"A\x00\x00\x00\x02t"),
        b"\x20\x00\x00\x00",
        b"\x80",
    ],
)
def test_unreadable_headers_are_absent(raw: bytes) -> None:
    assert decode_properties(raw) == Properties()


def test_tables_nested_too_deep_are_absent() -> None:
    nested = b"A\x00\x00\x00\x00"
    for _ in range(5000):
        nested = b"A" + len(nested).to_bytes(4) + nested
    assert decode_properties(table(nested)) == Properties()


@pytest.mark.parametrize("when", [0, 2**63, 2**64 - 1])
def test_times_that_are_none(when: int) -> None:
    expected = Properties(timestamp=datetime(1970, 1, 1, tzinfo=UTC) if when == 0 else None, app_id="a")
    raw = b"\x00\x48" + when.to_bytes(8) + b"\x01a"
    assert decode_properties(raw) == expected


def test_properties_are_parsed_once_and_can_be_given() -> None:
    parsed = Delivery("t", 1, False, "e", "k", b"", encoded(app_id="a"))
    assert parsed.properties.app_id == "a"
    assert parsed.properties is parsed.properties
    given_ones = Properties(app_id="b")
    assert Delivery("t", 1, False, "e", "k", b"", properties=given_ones).properties is given_ones


def test_a_delivery_says_what_it_is() -> None:
    assert repr(Delivery("t", 1, False, "orders", "a.b", b"xyz")) == "<Delivery 1 'orders' 'a.b' 3 bytes>"
