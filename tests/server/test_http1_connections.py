"""What HTTP/1.x clients do to a connection: use it again, ask ahead, half-close, dawdle, talk nonsense, switch."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h2.connection
import h2.events
import pytest
import trio
from structlog.testing import capture_logs

from sidecar.observe.reasons import CloseReason
from sidecar.server import connection as module
from sidecar.server import listener
from sidecar.server.wire import Wire, prepare
from tests.lab.certificates import Certificates
from tests.lab.eventstream import Parser
from tests.lab.wire import Address, connect, open_http1, open_http2
from tests.server.serving import Raw, Serving, configuration, eventually, news, serving

SHORT = news(path="/short/{name}", max_age="100ms")
STREAM = "Accept: text/event-stream"


@asynccontextmanager
async def raw(address: Address) -> AsyncIterator[Raw]:
    stream = await connect(address)
    try:
        yield Raw(stream)
    finally:
        await trio.aclose_forcefully(stream)


async def first_bytes(client: Raw) -> bytes:
    return await client.until(b":\n\n\r\n")


# Using a connection again (RFC 9112 §9.3)


async def test_one_connection_many_answers_and_streams() -> None:
    async with serving(configuration([news(), SHORT])) as served, raw(served.address) as client:
        for _ in range(3):
            await client.get("/nothing/here")
            assert (await client.answer())[0] == 404
            await client.send("POST /events/a HTTP/1.1", "Host: x", "Content-Length: 0", "")
            assert (await client.answer())[0] == 405
            await client.send("HEAD /events/a HTTP/1.1", "Host: x", "")
            head = await client.until(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert head.endswith(b"\r\n\r\n")
            await client.get("/events/a", "Accept: text/html")
            assert (await client.answer())[0] == 406
            await client.get("/short/a", STREAM)
            await first_bytes(client)
            await served.publish("hello")
            stream = await client.until(b"0\r\n\r\n")
            assert b"data: hello\n\n" in stream
        await served.until_streams(0)


async def test_http_1_0_streams_end_with_their_connection() -> None:
    async with serving(configuration([SHORT])) as served, raw(served.address) as client:
        await client.get("/short/a", STREAM, version="1.0")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert b"chunked" not in head.lower()
        assert body.startswith(b"retry: ")
        assert body.endswith(b"\n\n")


async def test_connection_close_is_obeyed() -> None:
    async with serving(configuration([SHORT])) as served, raw(served.address) as client:
        await client.get("/short/a", STREAM, "Connection: close")
        answer = await client.rest()
        assert b"connection: close" in answer.lower()
        assert answer.endswith(b"0\r\n\r\n")


# Asking ahead (RFC 9112 §9.3.2)


async def test_pipelined_requests_are_answered_in_turn() -> None:
    async with serving(configuration([news(), SHORT])) as served, raw(served.address) as client:
        for path in ("/nothing", "/short/a", "/nothing", "/events/x%00", "/short/a", "/nothing"):
            await client.get(path, STREAM)
        statuses = []
        for _ in range(6):
            answer = await client.until(b"\r\n\r\n")
            while b"chunked" in answer and b"\n0\r\n\r\n" not in answer:
                answer += await client.until(b"\r\n")
            statuses += [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
            if len(statuses) == 6:
                break
        assert statuses == [404, 200, 404, 400, 200, 404]


async def test_a_client_that_asked_ahead_of_its_stream_and_left_leaves_nothing() -> None:
    """The reading task waits for the stream's end then; only writing finds out that nobody is there."""
    async with serving(configuration([news(heartbeat="50ms")])) as served:
        async with raw(served.address) as client:
            await client.get("/events/a", STREAM)
            await first_bytes(client)
            await client.get("/events/a", STREAM)
            await client.until(b":\n\n\r\n", 2)
        await served.until_streams(0)
        await eventually(lambda: connections(served) == 0)
        assert served.metrics.closes[CloseReason.CLIENT_LEFT] == 1


async def test_who_asks_and_never_reads_is_not_asked_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    wires = keep_wires(monkeypatch)
    async with serving() as served, raw(served.address) as client:
        request = b"GET /events/x%00 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with trio.move_on_after(1) as waited:
            for _ in range(2000):
                await client.stream.send_all(request * 200)
        assert waited.cancelled_caught, "all requests were taken"
        assert wires[0].pending < 3_000_000


# Half-closing, dawdling, talking nonsense


@pytest.mark.parametrize("path", ["/events/a", "/nothing"])
async def test_a_half_close_leaves_nothing(path: str) -> None:
    async with serving() as served, raw(served.address) as client:
        await client.get(path, STREAM)
        await client.until(b"\r\n\r\n")
        assert isinstance(client.stream, trio.SocketStream)
        await client.stream.send_eof()
        await client.rest()
        await served.until_streams(0)
        await eventually(lambda: connections(served) == 0)


@pytest.mark.parametrize(
    "beginning",
    [b"", b"GET /events/a HTT", b"GET /events/a HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"],
)
async def test_a_request_that_never_comes_ends_the_connection(
    beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_FOR", 0.2)
    async with serving() as served, raw(served.address) as client:
        await client.send(beginning)
        with trio.fail_after(3):
            while await client.stream.receive_some(1000):
                if beginning and not beginning.startswith(b"PRI"):
                    await client.send(b"x")  # byte by byte does not help
        await trio.aclose_forcefully(client.stream)
        await eventually(lambda: connections(served) == 0)


async def test_a_connection_kept_alive_ends_when_nobody_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_FOR", 0.2)
    async with serving() as served, raw(served.address) as client:
        for _ in range(3):
            await client.get("/nothing")
            assert (await client.answer())[0] == 404
            await trio.sleep(0.1)
        assert await client.rest() == b""


async def test_an_open_event_stream_is_never_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_FOR", 1.0)
    async with serving() as served:
        one = await open_http1(served.nursery, served.address, "/events/a")
        two = await (await open_http2(served.nursery, served.address)).get("/events/a")
        for response in (one.response, two.response):
            await response.until_open()
        await trio.sleep(1.5)
        await served.publish("still here")
        for response in (one.response, two.response):
            await response.until_events(1)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n",
        b"GET  /events/a HTTP/1.1\r\n\r\n",
        b"GET /events/a HTTP/1.1\r\nHost: x\r\n bad folding: x\r\nContent-Length: 1, 2\r\n\r\n",
        b"GET /events/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET /events/a HTTP/1.1\r\nHost: " + b"x" * 200_000 + b"\r\n\r\n",
        b"\r\n" * 100 + b"\0\r\n\r\n",
    ],
)
async def test_garbage_is_answered_with_an_error_and_the_end(garbage: bytes) -> None:
    async with serving() as served, raw(served.address) as client:
        await client.send(garbage)
        answer = await client.rest()
        assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 501")), answer
        assert not served.service._streams.open


async def test_garbage_behind_an_open_stream_ends_it() -> None:
    async with serving() as served, raw(served.address) as client:
        await client.send("POST /nothing HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "", "zz", "")
        await client.rest()
    async with serving() as served, raw(served.address) as client:
        await client.send("GET /events/a HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", "")
        await first_bytes(client)
        await client.send("not a chunk", "")
        await client.rest()
        await served.until_streams(0)


async def test_a_client_gone_before_it_was_looked_at() -> None:
    async with serving() as served:
        assert isinstance(served.address, tuple)
        for _ in range(20):
            with socket.create_connection(served.address) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client = await open_http1(served.nursery, served.address, "/events/a")
        await client.response.until_open()


# HTTP/2 on the same port


async def test_prior_knowledge_in_single_bytes() -> None:
    async with serving() as served, raw(served.address) as client:
        state = h2.connection.H2Connection()
        state.initiate_connection()
        state.send_headers(1, _head("/events/a"), end_stream=True)
        for byte in state.data_to_send():
            await client.stream.send_all(bytes([byte]))
            await trio.sleep(0.0005)
        events = await _events_until(client, state, h2.events.DataReceived)
        assert any(isinstance(event, h2.events.ResponseReceived) for event in events)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize("path", ["/events/a", "/nothing/here"])
@pytest.mark.parametrize(
    ("version", "lengths"),
    [
        ("1.1", ("Content-Length: 5", "Transfer-Encoding: chunked")),
        ("1.1", ("Transfer-Encoding: chunked", "Content-Length: 5")),
        ("1.1", ("Content-Length: 5", "Content-Length: 6")),
        ("1.1", ("Content-Length: 5, 6",)),
        ("1.1", ("Transfer-Encoding : chunked",)),
        ("1.0", ("Connection: keep-alive", "Transfer-Encoding: chunked")),
    ],
    ids=["CL.TE", "TE.CL", "two lengths", "a list of lengths", "a space before the colon", "TE in HTTP/1.0"],
)
async def test_a_request_with_two_lengths_is_the_last(
    method: str, path: str, version: str, lengths: tuple[str, ...]
) -> None:
    """What stands behind it might be another's, told to a proxy in front (RFC 9112 §6.1): it is never served."""
    async with serving() as served, raw(served.address) as client:
        await client.send(f"{method} {path} HTTP/{version}", "Host: x", *lengths, "", "0", "")
        await client.get("/smuggled")
        answers = await client.rest()
        assert answers.startswith(b"HTTP/1.1 400 ")
        assert answers.count(b"HTTP/1.1 ") == 1
        await served.until_streams(0)


@pytest.mark.parametrize(
    "fields",
    [
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"),
        ("Upgrade: h2c",),
        ("Connection: Upgrade, HTTP2-Settings", "Upgrade: H2C", "HTTP2-Settings:"),
    ],
    ids=["as RFC 7540 had it", "without Connection", "in capitals"],
)
@pytest.mark.parametrize("path", ["/events/a", "/nothing/here"])
async def test_no_upgrade_to_http_2(path: str, fields: tuple[str, ...]) -> None:
    """It would lead past the rules of a proxy in front that passes upgrades on; RFC 9110 §7.8 lets us ignore it."""
    async with serving() as served, raw(served.address) as client:
        await client.get(path, STREAM, *fields)
        head = await client.until(b"\r\n\r\n")
        assert head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 404 "))
        assert b"upgrade" not in head.lower()


async def test_no_prior_knowledge_after_a_request() -> None:
    """The preface comes first (RFC 9113 §3.4); behind a request a proxy in front may have let it through."""
    async with serving() as served, raw(served.address) as client:
        await client.get("/nothing/here")
        assert (await client.answer())[0] == 404
        state = h2.connection.H2Connection()
        state.initiate_connection()
        await client.stream.send_all(state.data_to_send())
        assert (await client.until(b"\r\n")).startswith(b"HTTP/1.1 4")


def _head(path: str) -> list[tuple[str, str]]:
    return [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", path)]


async def _events_until(client: Raw, state: Any, kind: type) -> list[Any]:
    events: list[Any] = state.receive_data(bytes(client.received)) if client.received else []
    client.received.clear()
    with trio.fail_after(5):
        while not any(isinstance(event, kind) for event in events):
            events += state.receive_data(await client.stream.receive_some(65536))
    return events


# TLS, unix sockets, shortage


async def test_tls_serves_both_versions_by_alpn(certificates: Certificates) -> None:
    async with serving(configuration(tls=certificates)) as served:
        assert isinstance(served.address, tuple)
        one = await open_http1(served.nursery, served.address, "/events/a", tls=certificates.client("http/1.1"))
        none = await open_http1(served.nursery, served.address, "/events/a", tls=certificates.client())
        two = await open_http2(served.nursery, served.address, tls=certificates.client("h2", "http/1.1"))
        responses = [one.response, none.response, (await two.get("/events/a")).response]
        for response in responses:
            await response.until_open()
        await served.publish("hello", "x" * 300_000)
        for response in responses:
            await response.until_events(2)
            assert response.data == ["hello", "x" * 300_000]
        served.service.stop()
        for response in responses:
            assert await response.until_end() == "clean"


async def test_a_tls_handshake_that_never_comes_ends_the_connection(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANDSHAKE_WITHIN", 0.2)
    async with serving(configuration(tls=certificates)) as served:
        for beginning in (b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"):
            async with raw(served.address) as client:
                await client.send(beginning)
                with trio.fail_after(3):
                    try:
                        await client.rest()
                    except trio.BrokenResourceError:
                        pass
        await eventually(lambda: connections(served) == 0)


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "sidecar.sock"
    async with serving(configuration(bind=f"unix:{path}")) as served:
        one = await open_http1(served.nursery, path, "/events/a")
        two = await (await open_http2(served.nursery, path)).get("/events/a")
        for response in (one.response, two.response):
            await response.until_open()
        await served.publish("hello")
        for response in (one.response, two.response):
            await response.until_events(1)
    assert not path.exists()


async def test_a_shortage_of_descriptors_is_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ECONNABORTED, "gone"), *[None] * 9]
    accept = socket.socket.accept

    def scarce(sock: socket.socket) -> Any:
        problem = failures.pop(0) if failures else None
        if problem is not None:
            raise problem
        return accept(sock)

    monkeypatch.setattr(socket.socket, "accept", scarce)
    with capture_logs() as logs:
        async with serving() as served:
            client = await open_http1(served.nursery, served.address, "/events/a")
            await client.response.until_open()
    refused = [line for line in logs if line["event"] == "cannot accept a connection"]
    assert [line["problem"] for line in refused] == ["Too many open files"]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_ten_megabytes_arrive_whole(version: str) -> None:
    async with serving() as served:
        client = await open_http1(served.nursery, served.address, "/events/a", version=version)
        await client.response.until_open()
        await served.publish("x" * 10_000_000, "after")
        await client.response.until_events(2)
        assert [len(data) for data in client.response.data] == [10_000_000, 5]


# A reader that stops and goes on


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Server sockets that hold little, so that a slow reader is soon noticed."""

    def small(sock: socket.socket) -> None:
        prepare(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)

    monkeypatch.setattr(module, "prepare", small)


async def slow_reader(served: Serving, version: str = "1.1") -> Raw:
    assert isinstance(served.address, tuple)
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    await sock.connect(served.address)
    client = Raw(trio.SocketStream(sock))
    await client.get("/events/a", STREAM, version=version)
    await eventually(lambda: served.metrics.subscribers == 1)
    return client


def events_of(answer: bytes) -> Parser:
    """The events of an HTTP/1.0 body, or of the chunks of an HTTP/1.1 body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    parser = Parser()
    if b"chunked" not in head.lower():
        parser.feed(body)
    while body and b"chunked" in head.lower():
        size, _, body = body.partition(b"\r\n")
        assert body[int(size, 16) :][:2] == b"\r\n", "a torn chunk"
        parser.feed(body[: int(size, 16)])
        body = body[int(size, 16) + 2 :]
    return parser


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_full_backlog_ends_cleanly_once_it_is_read(version: str, small_buffers: None) -> None:
    async with serving(configuration([news(backlog={"events": 10, "bytes": "1MB"})])) as served:
        slow = await slow_reader(served, version)
        for index in range(400):
            await served.publish(f"{index}:" + "x" * 1000)
        assert served.metrics.closes[CloseReason.SLOW] == 1
        assert len(served.service._streams.open) == 1  # its end is not written yet
        if version == "1.1":
            answer = await slow.until(b"\r\n0\r\n\r\n")
        else:
            answer = await slow.rest()
        numbers = [int(event.data.partition(":")[0]) for event in events_of(answer).events]
        assert numbers == list(range(len(numbers)))
        assert 5 < len(numbers) < 380
        await trio.aclose_forcefully(slow.stream)


async def test_a_full_backlog_that_is_never_read_is_cut(monkeypatch: pytest.MonkeyPatch, small_buffers: None) -> None:
    from sidecar.http import stream as http_stream

    monkeypatch.setattr(http_stream, "FINISH_WITHIN", 0.1)
    async with serving(configuration([news(backlog={"events": 10, "bytes": "1MB"})])) as served:
        slow = await slow_reader(served)
        await served.publish("0:" + "x" * 1_000_000)
        for index in range(1, 20):
            await served.publish(f"{index}:x")
        assert served.metrics.closes[CloseReason.SLOW] == 1
        await served.until_streams(0)
        with pytest.raises(trio.BrokenResourceError):
            await slow.rest()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_drop_oldest_says_so_exactly_where_events_are_missing(version: str, small_buffers: None) -> None:
    limits = {"events": 10, "bytes": "1MB", "when_full": "drop_oldest"}
    async with serving(configuration([news(backlog=limits)], drain={"within": 3})) as served:
        slow = await slow_reader(served, version)
        answer = b""
        for number in range(3):  # it stops and goes on, three times
            for index in range(400):
                await served.publish(f"{400 * number + index}:" + "x" * 1000)
            answer += await slow.until(b"%d:" % (400 * number + 399))
        served.service.stop()
        answer += await slow.rest()
        expected, resets = 0, 0
        for event in events_of(answer).events:
            if event.type == "sidecar.reset":
                assert event.data == '{"reason": "slow"}'
                resets, expected = resets + 1, -1
                continue
            number = int(event.data.partition(":")[0])
            assert number == expected or expected == -1, "events are missing, and nobody said so"
            expected = number + 1
        assert expected == 1200
        assert resets >= 3


async def test_a_slow_reader_among_many_costs_them_nothing(small_buffers: None) -> None:
    async with serving(configuration([news(backlog={"events": 5, "bytes": "10KB"})])) as served:
        slow = await slow_reader(served)
        others = [await open_http1(served.nursery, served.address, "/events/a") for _ in range(20)]
        for other in others:
            await other.response.until_open()
        for index in range(200):
            await served.publish(f"{index}:" + "x" * 1000)
            await others[0].response.until_events(index + 1)
        for other in others:
            await other.response.until_events(200)
            assert [int(data.partition(":")[0]) for data in other.response.data] == list(range(200))
        assert served.metrics.closes[CloseReason.SLOW] == 1
        await trio.aclose_forcefully(slow.stream)


def connections(served: Serving) -> int:
    """How many connections this process serves on any listener."""
    return sum("serve_socket" in task.name for task in tasks_below(trio.lowlevel.current_root_task()))


def tasks_below(task: trio.lowlevel.Task | None) -> list[trio.lowlevel.Task]:
    assert task is not None
    below = [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return [*below, *(further for child in below for further in tasks_below(child))]


def keep_wires(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []

    class Kept(Wire):
        __slots__ = ()

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(module, "Wire", Kept)
    return made


assert listener.AT_ONCE > 9  # test_a_shortage_of_descriptors_is_a_pause counts on it
