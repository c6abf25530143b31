"""The event stream as section 3 of the contract has it: head, first bytes, encoding, heartbeats, age."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from tests.e2e.conftest import Client
from tests.lab.publisher import Publisher


async def test_the_head_is_exact(every_client: Client, name: str) -> None:
    headers = [("accept", "text/event-stream"), ("accept-encoding", "gzip, br, deflate")]
    response = await every_client.get(f"/plain/{name}", headers=headers)
    assert response.status == 200
    assert response.header("content-type") == "text/event-stream; charset=utf-8"
    assert response.header("cache-control") == "no-cache, no-transform"
    assert response.header("x-accel-buffering") == "no"
    assert response.header("content-encoding") is None
    assert response.header("content-length") is None


async def test_the_first_bytes_come_at_once_and_hold_no_event(every_client: Client, name: str) -> None:
    stream = await every_client.listen(f"/plain/{name}")
    assert stream.stream.retry is not None
    assert 2000 <= stream.stream.retry <= 6000
    assert stream.stream.comments
    assert stream.events == []
    assert b"id:" not in stream.body
    assert stream.body.endswith(b"\n\n")


async def test_retry_is_drawn_anew_for_each_connection(client: Client, name: str) -> None:
    drawn = {(await client.listen(f"/plain/{name}")).stream.retry for _ in range(20)}
    assert len(drawn) > 1
    quick = await client.listen(f"/quick/{name}")
    assert quick.stream.retry is not None
    assert 100 <= quick.stream.retry <= 200


async def test_each_event_is_one_chunk_or_frame_written_whole(
    every_client: Client, publisher: Publisher, name: str
) -> None:
    stream = await every_client.listen(f"/plain/{name}")
    before = len(stream.arrivals)
    for number in range(5):
        publisher.publish("e2e.topic", f"plain.{name}", f"line {number}\nline")
        await stream.until_events(number + 1)
    assert [data for _, data in stream.arrivals[before:]] == [
        b"data: line %d\ndata: line\n\n" % number for number in range(5)
    ]


BODIES = [
    (b"plain", "plain"),
    (b"", ""),
    (b"a\r\nb\nc\rd", "a\nb\nc\nd"),
    (b"\n", "\n"),
    (b" leading space", " leading space"),
    (b'{"json": "\xc3\xbc"}', '{"json": "ü"}'),
    (b"\xef\xbb\xbfmark", "\ufeffmark"),
    (b"\xff\xfe", "data:image/png;base64,//4="),
]


@pytest.mark.parametrize(("body", "data"), BODIES, ids=[repr(body) for body, _ in BODIES])
async def test_bodies(client: Client, publisher: Publisher, name: str, body: bytes, data: str) -> None:
    stream = await client.listen(f"/plain/{name}")
    publisher.publish("e2e.topic", f"plain.{name}", body, content_type="image/png")
    (event,) = await stream.until_events(1)
    assert (event.type, event.data, event.id) == ("message", data, "")


async def test_a_binary_body_without_a_content_type(client: Client, publisher: Publisher, name: str) -> None:
    stream = await client.listen(f"/plain/{name}")
    publisher.publish("e2e.topic", f"plain.{name}", b"\x00\xff")
    (event,) = await stream.until_events(1)
    assert event.data == "data:application/octet-stream;base64,AP8="


async def test_the_event_template_knows_the_message_and_the_route(
    client: Client, publisher: Publisher, name: str
) -> None:
    stream = await client.listen(f"/named/{name}")
    key = f"plain.{name}"
    full: dict[str, Any] = {"type": "paid", "message_id": "m-1", "app_id": "shop", "headers": {"tenant": "acme"}}
    publisher.publish("e2e.topic", key, "full", **full)
    publisher.publish("e2e.topic", key, "bare")
    first, second = await stream.until_events(2)
    assert first.type == f"e2e.topic|{key}|paid|m-1|shop|acme|{name}"
    assert second.type == f"e2e.topic|{key}|||||{name}"


async def test_the_envelope_is_one_json_object(client: Client, publisher: Publisher, name: str) -> None:
    stream = await client.listen(f"/envelope/{name}")
    sent = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    publisher.publish(
        "e2e.topic",
        f"plain.{name}",
        "line\nline",
        headers={"tenant": "acme", "number": 7, "nested": {"list": [1, "two", None]}},
        content_type="text/plain",
        message_id="m-1",
        correlation_id="c-1",
        priority=3,
        delivery_mode=2,
        timestamp=int(sent.timestamp()),
    )
    (event,) = await stream.until_events(1)
    assert "\n" not in event.data
    message = json.loads(event.data)
    assert message["exchange"] == "e2e.topic"
    assert message["routing_key"] == f"plain.{name}"
    assert message["headers"] == {"tenant": "acme", "number": 7, "nested": {"list": [1, "two", None]}}
    expected = {"content_type": "text/plain", "message_id": "m-1", "correlation_id": "c-1", "priority": 3}
    assert expected.items() <= message["properties"].items()
    assert datetime.fromisoformat(message["timestamp"]) == sent
    assert message["body"] == "line\nline"


async def test_where_lets_through_what_is_equal_and_nothing_else(
    client: Client, publisher: Publisher, name: str
) -> None:
    stream = await client.listen(f"/where/acme/{name}")
    for number, headers in enumerate(
        ({"tenant": "acme"}, {"tenant": "acme2"}, {"tenant": "ACME"}, {}, {"tenant": "*"}, {"tenant": "acme"})
    ):
        publisher.publish("e2e.topic", f"plain.{name}", str(number), headers=headers)
    await stream.until_events(2)
    assert stream.data == ["0", "5"]


async def test_an_id_means_nothing_on_a_route_without_replay_and_the_stream_says_so(
    every_client: Client, publisher: Publisher, name: str
) -> None:
    stream = await every_client.listen(
        f"/plain/{name}", headers=[("accept", "text/event-stream"), ("last-event-id", "41")]
    )
    publisher.publish("e2e.topic", f"plain.{name}", "live")
    reset, live = await stream.until_events(2)
    assert (reset.type, json.loads(reset.data)) == ("sidecar.reset", {"reason": "unknown_id"})
    assert (live.data, reset.id, live.id) == ("live", "", "")


async def test_silence_is_filled_with_comments(every_client: Client, name: str) -> None:
    stream = await every_client.listen(f"/quick/{name}")
    opened = len(stream.body)
    await stream.until(lambda self: self.body.count(b"\n\n", opened) >= 3)
    assert set(bytes(stream.body[opened:]).split(b"\n\n")) == {b":", b""}


async def test_an_old_stream_ends_cleanly_between_80_and_100_percent(every_client: Client, name: str) -> None:
    expired = every_client.service.sidecar.metric("sidecar_streams_closed_total", reason="expired")
    started = trio.current_time()
    stream = await every_client.listen(f"/aged/{name}")
    assert await stream.until_end() == "clean"
    assert trio.current_time() - started >= 0.8
    every_client.service.sidecar.wait_metric("sidecar_streams_closed_total", expired + 1, reason="expired")
