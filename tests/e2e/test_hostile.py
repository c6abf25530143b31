"""Payloads, routing keys, types and headers made to break out of their own event: they change nothing else."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import trio

from tests.e2e.conftest import Client
from tests.lab.eventstream import Event
from tests.lab.publisher import Publisher

ESCAPE = "x\r\ndata: evil\r\n\r\nevent: evil\r\nid: 1\r\nretry: 1\r\n\r\n"

PAYLOADS = {
    "a whole event inside": (ESCAPE.encode(), ESCAPE.replace("\r\n", "\n")),
    "lone CRs": (b"a\rid: 1\r\revent: b\r", "a\nid: 1\n\nevent: b\n"),
    "only line ends": (b"\r\n\n\r", "\n\n\n"),
    "NUL": (b"a\0b\0", "a\0b\0"),
    "field names": (b"id: 1\nretry: 1\n:\nevent: x", "id: 1\nretry: 1\n:\nevent: x"),
    "wildcards": (b"#.*.{name}", "#.*.{name}"),
    "a chunk's end": (b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "0\n\nHTTP/1.1 200 OK\n\n"),
    "no UTF-8": (b"\xff\r\n\r\nid: 1\n\n", "data:application/octet-stream;base64,/w0KDQppZDogMQoK"),
    "half a letter": (b"\xc3", "data:application/octet-stream;base64,ww=="),
    "a surrogate": (b"\xed\xa0\x80", "data:application/octet-stream;base64,7aCA"),
}


@pytest.mark.parametrize(("body", "data"), PAYLOADS.values(), ids=PAYLOADS.keys())
async def test_payloads(every_client: Client, publisher: Publisher, name: str, body: bytes, data: str) -> None:
    stream = await every_client.listen(f"/plain/{name}")
    retry = stream.stream.retry
    publisher.publish("e2e.topic", f"plain.{name}", body)
    publisher.publish("e2e.topic", f"plain.{name}", "and on")
    events = await stream.until_events(2)
    assert [(event.type, event.data, event.id) for event in events] == [
        ("message", data, ""),
        ("message", "and on", ""),
    ]
    assert stream.stream.retry == retry


NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "CR LF": ({"type": ESCAPE}, ESCAPE.replace("\r\n", "")),
    "CR": ({"type": "a\rb\r\r"}, "ab"),
    "NUL": ({"type": "a\0b"}, "ab"),
    "only line ends": ({"type": "\r\n\n"}, "message"),
    "wildcards": ({"type": "#.*"}, "#.*"),
    "a placeholder": ({"type": "{name}"}, "{name}"),
    "a colon and a space": ({"type": " : x"}, " : x"),
}


@pytest.mark.parametrize(("properties", "type_"), NAMES.values(), ids=NAMES.keys())
async def test_types(client: Client, publisher: Publisher, name: str, properties: dict[str, Any], type_: str) -> None:
    stream = await client.listen(f"/typed/{name}")
    publisher.publish("e2e.topic", f"plain.{name}", "1", **properties)
    publisher.publish("e2e.topic", f"plain.{name}", "2", type="fine")
    events = await stream.until_events(2)
    assert events == [Event(type_, "1"), Event("fine", "2")]


HEADERS: dict[str, tuple[Any, str]] = {
    "CR LF": (ESCAPE, ESCAPE.replace("\r\n", "")),
    "a number": (7, "7"),
    "nothing": (None, "message"),
    "a table": ({"a": ["b\r\n"]}, '{"a":["b\\r\\n"]}'),
    "all that fits a frame": ("x" * 100_000, "x" * 100_000),  # a header is one frame (AMQP 0-9-1 §4.2.6.1)
}


@pytest.mark.parametrize(("value", "type_"), HEADERS.values(), ids=HEADERS.keys())
async def test_headers(client: Client, publisher: Publisher, name: str, value: Any, type_: str) -> None:
    stream = await client.listen(f"/tenant/{name}")
    publisher.publish("e2e.topic", f"plain.{name}", "1", headers={"tenant": value})
    publisher.publish("e2e.topic", f"plain.{name}", "2", headers={"tenant": "fine"})
    first, second = await stream.until_events(2)
    assert (first.type, first.data, second.type, second.data) == (type_, "1", "fine", "2")


ROUTING_KEYS: dict[str, bytes] = {
    "CR LF": ESCAPE.encode(),
    "NUL": b"a\0b",
    "wildcards": b"#.*.#",
    "empty words": b"...",
    "no UTF-8": b"\xff\xfe\x80",
    "letters of four bytes": "🙂".encode(),
    "as long as can be": b"y" * 200,
}


@pytest.mark.parametrize("tail", ROUTING_KEYS.values(), ids=ROUTING_KEYS.keys())
async def test_routing_keys(every_client: Client, publisher: Publisher, name: str, tail: bytes) -> None:
    stream = await every_client.listen(f"/two/{name}")
    envelope = await every_client.listen(f"/plain/{name}")
    publisher.publish("e2e.topic", b"also.%b." % name.encode() + tail, "hostile", mandatory=True)
    publisher.publish("e2e.topic", f"plain.{name}", "fine")
    await stream.until_events(2)
    await envelope.until_events(1)
    assert (stream.data, envelope.data) == (["hostile", "fine"], ["fine"])


async def test_a_hostile_routing_key_as_the_type_of_an_event(
    every_client: Client, publisher: Publisher, name: str
) -> None:
    stream = await every_client.listen("/fanout")
    publisher.publish("e2e.fanout", b"a\r\nid: 1\0\r\r\n\n\xff", name)
    publisher.publish("e2e.fanout", "fine", name)
    hostile, fine = await stream.until_events(2)
    assert hostile.type.startswith("aid: 1")
    assert (hostile.data, hostile.id, fine.type, fine.id) == (name, "", "fine", "")


async def test_ten_megabytes_are_one_event(every_client: Client, publisher: Publisher, name: str) -> None:
    stream = await every_client.listen(f"/plain/{name}")
    neighbour = await every_client.listen("/fanout")
    body = b"0123456789abcde\n" * 655_360
    await trio.to_thread.run_sync(publisher.publish, "e2e.topic", f"plain.{name}", body)
    publisher.publish("e2e.fanout", "", name)
    publisher.publish("e2e.topic", f"plain.{name}", "and on")
    first, second = await stream.until_events(2, timeout=30)
    assert first.data == body.decode()
    assert second.data == "and on"
    assert [event.data for event in await neighbour.until_events(1)] == [name]


async def test_ten_binary_megabytes_are_one_event(client: Client, publisher: Publisher, name: str) -> None:
    stream = await client.listen(f"/plain/{name}")
    body = bytes(range(256)) * 40_960
    await trio.to_thread.run_sync(publisher.publish, "e2e.topic", f"plain.{name}", body)
    (event,) = await stream.until_events(1, timeout=30)
    assert base64.b64decode(event.data.removeprefix("data:application/octet-stream;base64,")) == body


@pytest.mark.parametrize(
    "head",
    [
        b"GET /plain/a HTTP/1.1\r\n\r\n",  # no Host (RFC 9112 §3.2)
        b"GET /plain/a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /plain/a HTTP/1.1\r\nHost: a\r\nA\0B: c\r\n\r\n",
        b"GET /plain/a HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03",  # TLS where none is
        b"\xff" * 1000 + b"\r\n\r\n",
    ],
    ids=["no host", "a space in the path", "NUL in a field", "too many bytes", "TLS", "noise"],
)
async def test_what_is_no_request_ends_its_own_connection_only(
    client: Client, publisher: Publisher, name: str, head: bytes
) -> None:
    neighbour = await client.listen(f"/plain/{name}")
    hostile = await trio.open_tcp_stream(*client.service.http)
    async with hostile:
        answer = await _until_closed(hostile, head)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    publisher.publish("e2e.topic", f"plain.{name}", "still here")
    await neighbour.until_events(1)


async def _until_closed(stream: trio.SocketStream, head: bytes) -> bytes:
    answer = bytearray()
    with trio.fail_after(10):
        try:
            await stream.send_all(head)
            await stream.send_eof()
            while data := await stream.receive_some():
                answer += data
        except trio.BrokenResourceError:
            pass
    return bytes(answer)
