"""Requests and answers as they cross the sidecar, for clients of HTTP/2."""

from __future__ import annotations

import h2.settings
import pytest
import trio
import trio.testing

from tests.proxy.client import client2
from tests.proxy.conftest import Beginning
from tests.proxy.origin import Conversation, Left, answering, ok


async def test_a_request_and_its_answer(beside: Beginning, nursery: trio.Nursery) -> None:
    answer = ok(b"hello\n", b"Connection: x-mine", b"X-Mine: 1", b"Keep-Alive: timeout=5", b"Server: app")
    sidecar = await beside(answering(answer))
    client = await client2(nursery, sidecar.address)
    for _ in range(2):
        stream = await client.ended(await client.request("GET", "/a?b", ("cookie", "a=1"), ("cookie", "b=2")))
        del stream.fields["date"]
        assert (stream.status, stream.fields) == (200, {"content-length": "6", "server": "app"})
        assert stream.body == b"hello\n"
    (conversation,) = sidecar.application.conversations
    head = bytes(conversation.raw).partition(b"\r\n\r\n")[0]
    assert head.startswith(b"GET /a?b HTTP/1.1\r\nhost: shop.example\r\n")
    assert b"\r\ncookie: a=1; b=2\r\n" in head
    assert b"transfer-encoding" not in head


async def test_many_at_once(beside: Beginning, nursery: trio.Nursery) -> None:
    async def script(conversation: Conversation) -> None:
        while True:
            asked = await conversation.head()
            await conversation.send(ok(asked.line.split(" ")[1].encode() * 3000))

    sidecar = await beside(script)
    client = await client2(nursery, sidecar.address)
    streams = [await client.request("GET", f"/{number}") for number in range(50)]
    for number, stream in enumerate(streams):
        assert (await client.ended(stream)).body == b"/%d" % number * 3000


@pytest.mark.parametrize("sized", [True, False])
async def test_an_upload_goes_on_as_the_application_takes_it(
    beside: Beginning, nursery: trio.Nursery, sized: bool
) -> None:
    body = bytes(range(256)) * 8000

    async def script(conversation: Conversation) -> None:
        asked = await conversation.head()
        if sized:
            received.append(await conversation.exactly(int(asked["content-length"])))
        else:
            received.append((await conversation.chunks())[0])
        await conversation.send(ok())

    received: list[bytes] = []
    sidecar = await beside(script)
    client = await client2(nursery, sidecar.address)
    fields = [("content-length", str(len(body)))] if sized else []
    stream = await client.request("POST", "/", *fields, last=False)
    await client.data(stream, body, last=True)
    assert (await client.ended(stream)).status == 200
    assert received == [body]


async def test_an_upload_nobody_takes_is_held_back_by_its_window(beside: Beginning, nursery: trio.Nursery) -> None:
    """And by its own only: the others of the connection go on."""

    async def script(conversation: Conversation) -> None:
        asked = await conversation.head()
        if asked.line.startswith("PUT"):
            await trio.sleep_forever()
        await conversation.send(ok(await conversation.exactly(int(asked["content-length"]))))

    sidecar = await beside(script)
    client = await client2(nursery, sidecar.address)
    stalled = await client.request("PUT", "/", last=False)
    sent = 0
    for _ in range(1000):
        room = min(client.h2.local_flow_control_window(stalled.id), 16384)
        if room <= 0:
            with trio.move_on_after(0.2) as scope:
                await client.until(lambda: client.h2.local_flow_control_window(stalled.id) > 0)
            if scope.cancelled_caught:
                break
            continue
        client.h2.send_data(stalled.id, b"x" * room)
        await client.flush()
        sent += room
    else:
        pytest.fail("the windows were opened without end")
    assert sent < 16_000_000, "the kernels' buffers, and one window"
    other = await client.request("POST", "/", ("content-length", "5"), last=False)
    await client.data(other, b"hello", last=True)
    assert (await client.ended(other)).body == b"hello"
    client.h2.reset_stream(stalled.id)
    await client.flush()
    again = await client.request("POST", "/", ("content-length", "500000"), last=False)
    await client.data(again, b"y" * 500_000, last=True)
    assert (await client.ended(again)).body == b"y" * 500_000, "the window of the cut upload came back"


async def test_trailers_both_ways(beside: Beginning, nursery: trio.Nursery) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        seen.append(await conversation.chunks())
        await conversation.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\nConnection: x\r\n\r\n"
        )

    seen: list[tuple[bytes, bytes]] = []
    sidecar = await beside(script)
    client = await client2(nursery, sidecar.address)
    stream = await client.request("POST", "/", ("te", "trailers"), last=False)
    await client.data(stream, b"hello")
    client.h2.send_headers(stream.id, [("x-digest", "1")], end_stream=True)
    await client.flush()
    await client.ended(stream)
    assert (bytes(stream.body), stream.trailers) == (b"abc", {"x-sum": "6"})
    assert seen == [(b"hello", b"x-digest: 1\r\n")]


async def test_interim_answers(beside: Beginning, nursery: trio.Nursery) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        await conversation.send(ok(await conversation.exactly(5)))

    sidecar = await beside(script)
    client = await client2(nursery, sidecar.address)
    expecting = (("content-length", "5"), ("expect", "100-continue"))
    stream = await client.request("POST", "/", *expecting, last=False)
    await client.until(lambda: len(stream.informed) == 2)
    assert sorted(fields[":status"] for fields in stream.informed) == ["100", "103"]
    assert {"link": "</a.css>", ":status": "103"} in stream.informed
    await client.data(stream, b"hello", last=True)
    assert (await client.ended(stream)).body == b"hello"


@pytest.mark.parametrize(
    ("method", "answer", "status"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 200),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: 1\r\n\r\n", 304),
        ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    ],
)
async def test_answers_without_content(
    beside: Beginning, nursery: trio.Nursery, method: str, answer: bytes, status: int
) -> None:
    sidecar = await beside(answering(answer))
    client = await client2(nursery, sidecar.address)
    for _ in range(2):
        stream = await client.ended(await client.request(method, "/"))
        assert (stream.status, stream.ended, bytes(stream.body)) == (status, True, b"")
    assert len(sidecar.application.conversations) == 1


async def test_a_download_keeps_to_the_clients_windows(beside: Beginning, nursery: trio.Nursery) -> None:
    sidecar = await beside(answering(ok(b"x" * 300_000)))
    client = await client2(nursery, sidecar.address)
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10_000})
    await client.flush()
    client.reading = False
    stream = await client.request("GET", "/")
    await client.until(lambda: stream.received == 10_000)
    client.reading = True
    client.h2.increment_flow_control_window(20_000, stream.id)
    client.h2.increment_flow_control_window(200_000)
    await client.flush()
    await client.ended(stream)
    assert stream.received == 300_000


async def test_an_answer_before_the_body_is_complete(beside: Beginning, nursery: trio.Nursery) -> None:
    """END_STREAM, then RST_STREAM with NO_ERROR (RFC 9113 §8.1); what comes still is no error of the connection."""
    early = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    sidecar = await beside(answering(early))
    client = await client2(nursery, sidecar.address)
    stream = await client.request("POST", "/", last=False)
    await client.data(stream, b"x" * 1000)
    await client.until(lambda: stream.reset is not None)
    assert (stream.status, stream.ended, stream.reset) == (413, True, 0)
    other = await client.ended(await client.request("GET", "/"))
    assert other.status == 413


@pytest.mark.parametrize("point", ["head", "body", "upload"])
async def test_a_reset_cancels_the_request(beside: Beginning, nursery: trio.Nursery, point: str) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        if point == "body":
            await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        there.set()
        try:
            while True:
                await conversation.some()
        except (Left, trio.BrokenResourceError):
            cancelled.set()

    there, cancelled = trio.Event(), trio.Event()
    sidecar = await beside(script)
    client = await client2(nursery, sidecar.address)
    stream = await client.request("POST" if point == "upload" else "GET", "/", last=point != "upload")
    with trio.fail_after(5):
        await there.wait()
        if point == "body":
            await client.until(lambda: stream.received == 4)
        client.h2.reset_stream(stream.id, 8)
        await client.flush()
        await cancelled.wait()


async def test_half_an_answer_is_reset(beside: Beginning, nursery: trio.Nursery) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    sidecar = await beside(script)
    client = await client2(nursery, sidecar.address)
    stream = await client.ended(await client.request("GET", "/"))
    assert (bytes(stream.body), stream.ended, stream.reset) == (b"half", False, 2)


async def test_no_application(beside: Beginning, nursery: trio.Nursery) -> None:
    sidecar = await beside(answering(ok()), away=True)
    client = await client2(nursery, sidecar.address)
    stream = await client.ended(await client.request("GET", "/"))
    assert (stream.status, bytes(stream.body)) == (502, b"the application cannot be reached\n")
    assert stream.fields["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("method", "path", "fields", "status"),
    [
        ("GET", "/a b", (), 400),
        ("GET", "/a#b", (), 400),
        ("GET", "*", (), 400),
        ("GET", "a", (), 400),
        ("G T", "/", (), 501),
        ("GET /x HTTP/1.1", "/", (), 501),
        ("GET", "/", (("expect", "more"),), 417),
        ("GET", "/ HTTP/1.1", (), 400),
    ],
)
async def test_what_http2_lets_pass_and_http1_must_not_see(
    beside: Beginning, nursery: trio.Nursery, method: str, path: str, fields: tuple[tuple[str, str], ...], status: int
) -> None:
    sidecar = await beside(answering(ok()))
    client = await client2(nursery, sidecar.address)
    stream = await client.ended(await client.request(method, path, *fields))
    assert stream.status == status
    assert not sidecar.application.conversations


@pytest.mark.parametrize(
    "field",
    [
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("x", "a\r\nb: c"),
        ("x\r\ny", "z"),
        ("upgrade", "websocket"),
        ("content-length", "7"),
    ],
)
async def test_what_breaks_http2_reaches_nobody(
    beside: Beginning, nursery: trio.Nursery, field: tuple[str, str]
) -> None:
    sidecar = await beside(answering(ok()))
    client = await client2(nursery, sidecar.address)
    stream = await client.request("GET", "/", field)
    await client.until(lambda: stream.reset is not None or client.end is not None or stream.status == 400)
    assert not sidecar.application.conversations


async def test_an_upgrade_to_http2_ends_here(beside: Beginning) -> None:
    """Neither followed nor passed on: the answer is one of HTTP/1.1, and the application was not asked to switch."""
    sidecar = await beside(answering(ok(b"hello\n")))
    async with await sidecar.client() as client:
        await client.send(
            b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"
            b"Upgrade: h2c\r\nHTTP2-Settings: \r\n\r\n"
        )
        status, _, body = await client.answer()
        assert (status, body) == (200, b"hello\n")
    raw = sidecar.application.conversations[0].raw
    assert raw.startswith(b"GET /x HTTP/1.1\r\nhost: a\r\n")
    for name in (b"upgrade", b"http2-settings", b"connection", b"transfer-encoding"):
        assert name not in raw.lower()


async def test_no_flood_of_tasks_outlives_its_connection(beside: Beginning, nursery: trio.Nursery) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.gone()

    sidecar = await beside(script)
    client = await client2(nursery, sidecar.address)
    for number in range(20):
        await client.request("GET", f"/{number}")
    proxy = sidecar.service._proxy
    assert proxy is not None
    with trio.fail_after(5):
        while len(proxy.open) < 20 or proxy.upstream.open < 20:
            await trio.lowlevel.checkpoint()
        await client.stream.aclose()
        while proxy.open or proxy.upstream.open:
            await trio.lowlevel.checkpoint()
