"""Requests and answers as they cross the sidecar, byte by byte, over HTTP/1.x."""

from __future__ import annotations

import pytest
import trio

from tests.proxy.conftest import Beginning
from tests.proxy.origin import Conversation, answering, ok

GET = b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"


@pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])
async def test_a_request_and_its_answer(beside: Beginning, unix: bool) -> None:
    sidecar = await beside(answering(ok(b"hello\n", b"Server: app", b"Date: then", b"X-A: 1", b"X-A: 2")), unix=unix)
    async with await sidecar.client() as client:
        await client.send(b"GET /a?b=%20 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: test\r\n\r\n")
        status, fields, body = await client.answer()
    assert (status, body) == (200, b"hello\n")
    assert fields == {"content-length": "6", "server": "app", "date": "then", "x-a": "1, 2"}
    assert bytes(sidecar.application.conversations[0].raw) == (
        b"GET /a?b=%20 HTTP/1.1\r\nhost: shop.example\r\nuser-agent: test\r\nx-forwarded-for: 127.0.0.1\r\n"
        b"x-forwarded-proto: http\r\nx-forwarded-host: shop.example\r\n"
        b'forwarded: for=127.0.0.1;host="shop.example";proto=http\r\n\r\n'
    )
    assert sidecar.codes == {200: 1}


@pytest.mark.parametrize(
    "method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH"]
)
async def test_every_method(beside: Beginning, method: str) -> None:
    async def script(conversation: Conversation) -> None:
        asked = await conversation.head()
        body = await conversation.exactly(int(asked["content-length"]))
        await conversation.send(ok(asked.line.encode() + b"|" + body))

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(f"{method} /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".encode())
        assert (await client.answer())[2] == f"{method} /x HTTP/1.1|abc".encode()


async def test_a_request_without_content_stays_without(beside: Beginning) -> None:
    sidecar = await beside(answering(ok()))
    async with await sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.answer()
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        await client.answer()
    first, second = bytes(sidecar.application.conversations[0].raw).split(b"\r\n\r\n")[:2]
    assert b"content-length" not in first
    assert b"content-length: 0" in second
    assert b"transfer-encoding" not in first + second


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(b"HTTP/1.1 204 No Content\r\nETag: x\r\n\r\n", (204, {"etag": "x"}), id="204"),
        pytest.param(
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", (304, {"content-length": "9"}), id="304"
        ),
        pytest.param(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", (204, {}), id="204 with a length"),
    ],
)
async def test_answers_without_content(beside: Beginning, answer: bytes, expected: tuple[int, dict[str, str]]) -> None:
    sidecar = await beside(answering(answer))
    async with await sidecar.client() as client:
        for _ in range(2):
            await client.send(GET)
            status, fields, _ = await client.answer()
            del fields["date"]
            assert (status, fields) == expected
    assert len(sidecar.application.conversations) == 1


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked", b"Content-Type: text/plain"]
)
async def test_head_has_no_body(beside: Beginning, framing: bytes) -> None:
    sidecar = await beside(answering(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"))
    async with await sidecar.client() as client:
        for _ in range(2):
            await client.send(GET.replace(b"GET", b"HEAD"))
            status, fields, _ = await client.answer(bodiless=True)
            assert status == 200
            assert fields.get("content-length", "1000") == "1000"
    assert len(sidecar.application.conversations) == 1


async def test_a_range_is_the_applications_business(beside: Beginning) -> None:
    part = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 2-3/10\r\nContent-Length: 2\r\n\r\ncd"
    sidecar = await beside(answering(part))
    async with await sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nRange: bytes=2-3\r\n\r\n")
        status, fields, body = await client.answer()
    assert (status, fields["content-range"], body) == (206, "bytes 2-3/10", b"cd")
    assert b"range: bytes=2-3" in sidecar.application.conversations[0].raw


async def test_chunks_both_ways_with_trailers(beside: Beginning) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def script(conversation: Conversation) -> None:
        asked = await conversation.head()
        assert asked["transfer-encoding"] == "chunked"
        seen.append(await conversation.chunks())
        await conversation.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            b"3\r\nabc\r\n0\r\nX-Sum: 6\r\nContent-Length: 3\r\n\r\n"
        )

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2;ext=1\r\nhe\r\n3\r\nllo\r\n0\r\nX-Digest: 1\r\nHost: evil\r\n\r\n"
        )
        status, fields = await client.head()
        assert (status, fields["trailer"], await client.chunks()) == (200, "X-Sum", (b"abc", b"x-sum: 6\r\n"))
    assert seen == [(b"hello", b"x-digest: 1\r\n")]


async def test_what_ends_with_the_applications_connection_ends_with_a_last_chunk(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nto the end")

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        for _ in range(2):
            await client.send(GET)
            assert (await client.answer())[2] == b"to the end"
    assert len(sidecar.application.conversations) == 2


async def test_a_client_of_http_1_0_gets_the_plain_bytes(beside: Beginning) -> None:
    sidecar = await beside(
        answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n")
    )
    answer = await sidecar.ask(b"GET / HTTP/1.0\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"abc"
    assert b"transfer-encoding" not in head.lower()
    assert f"host: {sidecar.application.url[7:]}".encode() in sidecar.application.conversations[0].raw


async def test_interim_answers_pass_but_100(beside: Beginning) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
    sidecar = await beside(answering(interim + ok()))
    async with await sidecar.client() as client:
        await client.send(GET)
        assert await client.head() == (103, {"link": "</a.css>"})
        assert (await client.answer())[0] == 200
    assert b" 103 " not in await sidecar.ask(GET.replace(b"1.1", b"1.0"))


async def test_100_continue_comes_when_the_body_is_wanted(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        asked = await conversation.head()
        assert "expect" not in asked
        await conversation.send(ok(await conversation.exactly(5)))

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert await client.head() == (100, {})
        await client.send(b"hello")
        assert (await client.answer())[2] == b"hello"


async def test_100_continue_is_not_said_when_nobody_will_take_the_body(beside: Beginning) -> None:
    sidecar = await beside(answering(ok()), away=True)
    async with await sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        status, fields, body = await client.answer()
    assert (status, fields["connection"]) == (502, "close")
    assert body == b"the application cannot be reached\n"


async def test_an_event_stream_of_the_application_passes_at_once(beside: Beginning) -> None:
    go_on = trio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await go_on.wait()
        await conversation.send(b"9\r\ndata: a\n\n\r\n")
        assert await conversation.gone()
        left.set()

    left = trio.Event()
    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(GET)
        assert (await client.head())[1]["content-type"] == "text/event-stream"
        go_on.set()
        assert await client.until(b"data: a\n\n\r\n") == b"9\r\ndata: a\n\n\r\n"
    with trio.fail_after(5):
        await left.wait()


async def test_an_answer_while_the_body_is_still_coming(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(3):
            part = await conversation.exactly(1)
            await conversation.send(b"1\r\n" + part + b"\r\n")
        await conversation.send(b"0\r\n\r\n")

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n")
        assert (await client.head())[0] == 200
        for letter in (b"a", b"b", b"c"):
            await client.send(letter)
            assert await client.until(letter + b"\r\n") == b"1\r\n" + letter + b"\r\n"
        assert await client.until(b"0\r\n\r\n")


async def test_pipelined_requests_are_answered_in_turn(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        while True:
            asked = await conversation.head()
            await conversation.send(ok(asked.line.split(" ")[1].encode()))

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(b"".join(GET.replace(b"GET /", b"GET /%d" % number) for number in range(5)))
        assert [(await client.answer())[2] for _ in range(5)] == [b"/%d" % number for number in range(5)]


async def test_a_route_is_not_the_applications(beside: Beginning) -> None:
    sidecar = await beside(answering(ok()))
    async with await sidecar.client() as client:
        await client.send(b"GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
        assert (await client.head())[1]["content-type"].startswith("text/event-stream")
    assert not sidecar.application.conversations


async def test_a_trusted_proxy_in_front(beside: Beginning) -> None:
    sidecar = await beside(answering(ok()), trusted=["127.0.0.1"])
    async with await sidecar.client() as client:
        await client.send(GET.replace(b"Host", b"X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\nHost"))
        await client.answer()
    raw = sidecar.application.conversations[0].raw
    assert b"x-forwarded-for: 198.51.100.1, 127.0.0.1\r\nx-forwarded-proto: https\r\n" in raw
