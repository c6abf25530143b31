"""Requests that are not plain event streams get the status an HTTP client expects, and say what would be right."""

from __future__ import annotations

import re

import pytest
import trio

from tests.e2e.conftest import Client
from tests.lab import wire
from tests.lab.publisher import Publisher


async def test_head_gives_the_head_of_a_get(every_client: Client, name: str) -> None:
    got = await every_client.get(f"/plain/{name}")
    head = await every_client.get(f"/plain/{name}", method="HEAD")
    assert await head.until_end() == "clean"
    assert (head.status, bytes(head.body)) == (200, b"")
    for field in ("content-type", "cache-control", "x-accel-buffering"):
        assert head.header(field) == got.header(field)


@pytest.mark.parametrize(("path", "status"), [("/nowhere", 404), ("/plain/a.b", 400)])
async def test_head_of_an_error_has_no_body_either(every_client: Client, path: str, status: int) -> None:
    head = await every_client.get(path, method="HEAD")
    assert await head.until_end() == "clean"
    assert (head.status, bytes(head.body)) == (status, b"")


async def test_a_head_request_leaves_no_subscriber(client: Client, name: str) -> None:
    await (await client.get(f"/quick/{name}", method="HEAD")).until_end()
    client.service.sidecar.wait_metric("sidecar_subscribers", 0, route="/quick/{name}")


@pytest.mark.parametrize("path", ["/", "/nowhere", "/plain", "/plain/a/b", "/PLAIN/a", "/topic", "/plain/a/"])
async def test_no_route_is_404(every_client: Client, path: str) -> None:
    response = await every_client.get(path)
    assert response.status == 404
    assert await response.until_end() == "clean"
    assert response.body, "a person gets a word, and a browser keeps the origin"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_another_method_is_405_and_says_which_are_allowed(every_client: Client, method: str, name: str) -> None:
    headers = [("accept", "text/event-stream"), ("content-length", "0")]
    response = await every_client.get(f"/plain/{name}", method=method, headers=headers)
    assert response.status == 405
    allowed = {word.strip() for word in (response.header("allow") or "").split(",")}
    assert {"GET", "HEAD"} <= allowed
    assert method not in allowed


@pytest.mark.parametrize("accept", ["application/json", "text/html, image/*", "text/event-stream;q=0"])
async def test_a_client_that_cannot_take_an_event_stream_gets_406(every_client: Client, accept: str) -> None:
    assert (await every_client.get("/plain/a", headers=[("accept", accept)])).status == 406


@pytest.mark.parametrize("accept", ["*/*", "text/*", "text/html, text/event-stream;q=0.1", "TEXT/Event-Stream", None])
async def test_a_client_that_can_take_one_gets_it(client: Client, accept: str | None, name: str) -> None:
    headers = [] if accept is None else [("accept", accept)]
    assert (await client.listen(f"/plain/{name}", headers=headers)).status == 200


NOT_ONE_WORD = {
    "a dot": "a.b",
    "an encoded dot": "a%2Eb",
    "a star": "*",
    "an encoded star": "%2A",
    "a hash": "%23",
    "a hash among letters": "a%23b",
    "NUL": "a%00b",
    "CR LF": "a%0D%0Ab",
    "DEL": "a%7Fb",
    "a C1 control": "a%C2%85b",
    "invalid UTF-8": "%FF%FE",
    "a surrogate": "%ED%A0%80",
    "256 bytes": "x" * 256,
    "128 letters of two bytes": "%C3%BC" * 128,
}


@pytest.mark.parametrize("value", NOT_ONE_WORD.values(), ids=NOT_ONE_WORD.keys())
@pytest.mark.parametrize("path", ["/plain/{}", "/query?name={}"])
async def test_a_parameter_that_is_not_one_word_is_400(client: Client, path: str, value: str) -> None:
    response = await client.get(path.format(value))
    assert response.status == 400
    assert await response.until_end() == "clean"
    assert response.body


@pytest.mark.parametrize("path", ["/query", "/query?name=", "/query?other=a"])
async def test_an_absent_or_empty_parameter_is_400(every_client: Client, path: str) -> None:
    assert (await every_client.get(path)).status == 400


GOOD_WORDS = {
    "255 bytes": ("x" * 249, "x" * 249),  # with "plain." before it the routing key is as long as AMQP lets it be
    "a space": ("a%20b", "a b"),
    "letters of two bytes": ("%C3%BC", "ü"),
    "a slash that is no border": ("a%2Fb", "a/b"),
    "a plus": ("a%2Bb", "a+b"),
    "a percent": ("100%25", "100%"),
    "braces": ("%7Bname%7D", "{name}"),
}


@pytest.mark.parametrize(("quoted", "word"), GOOD_WORDS.values(), ids=GOOD_WORDS.keys())
@pytest.mark.parametrize("path", ["/plain/{}", "/query?name={}"])
async def test_any_other_word_is_taken_as_it_is(
    client: Client, publisher: Publisher, path: str, quoted: str, word: str
) -> None:
    stream = await client.listen(path.format(quoted))
    publisher.publish("e2e.topic", f"plain.{word}", "here", mandatory=True)
    await stream.until_events(1)
    assert stream.data == ["here"]


async def test_a_word_that_makes_the_key_too_long_for_amqp_is_400(client: Client) -> None:
    assert (await client.get(f"/plain/{'x' * 255}")).status == 400


async def test_an_event_stream_after_other_requests_on_the_same_connection(client: Client, name: str) -> None:
    stream = await wire.connect(client.service.http)
    async with stream:
        requests = [("GET", "/nowhere"), ("HEAD", "/nowhere"), ("HEAD", "/plain/a.b"), ("HEAD", f"/plain/{name}")]
        for method, path in (*requests, ("GET", f"/plain/{name}")):
            await stream.send_all(wire.request_bytes(method, path, "localhost", "1.1", []))
        received = bytearray()
        with trio.fail_after(wire.PATIENCE):
            while b"retry:" not in received:
                received += await stream.receive_some()
    assert re.findall(rb"HTTP/1\.1 (\d+)", received) == [b"404", b"404", b"400", b"200", b"200"]
    assert received.partition(b"retry:")[0].count(b"no route") == 1  # only the GET has a body
