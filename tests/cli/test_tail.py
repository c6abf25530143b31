"""`sidecar tail` against a server that is told what to answer: the rules of EventSource, and what people see."""

from __future__ import annotations

import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio import serve

from sidecar import sse
from sidecar.cli.event_source import RETRY, EventSource, EventSourceError
from sidecar.cli.tail import Terminal, compact, lag, printable
from sidecar.sse import Event
from tests.lab.certificates import Certificates
from tests.lab.ports import free_port
from tests.lab.scripted import Scripted, scripted

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"
QUICK = b"retry: 100\n\n"
SPEAKS_NO_TLS = "what answers there speaks no TLS (http:// instead of https://?)"
GONE = b"HTTP/1.1 204 No Content\r\n\r\n"


async def read(source: EventSource, count: int | None = None) -> list[Event]:
    events = []
    with trio.fail_after(10):
        async with source:
            async for event in source:
                events.append(event)
                if len(events) == count:
                    break
    return events


def told(server: Scripted, name: str) -> list[str | None]:
    return [asked.fields.get(name) for asked in server.asked]


# The reader


async def test_a_clean_end_is_followed_by_another_request_with_the_last_id() -> None:
    first = OK + QUICK + sse.encode(b"a", id="7~ü") + b"id: torn\ndata: never seen\n"
    async with scripted(first, OK + sse.encode(b"b"), GONE) as server:
        events = await read(EventSource(server.url))
    assert events == [Event("message", "a", "7~ü"), Event("message", "b", "7~ü")]
    assert [asked.fields.get("last-event-id") for asked in server.asked] == [None, "7~ü", "7~ü"]
    assert told(server, "accept") == ["text/event-stream"] * 3
    assert told(server, "cache-control") == ["no-store"] * 3


@pytest.mark.parametrize(
    "broken", [None, OK.replace(b"\r\n\r\n", b"\r\nContent-Length: 99\r\n\r\n") + b"data: torn", b"\0 no HTTP\r\n\r\n"]
)
async def test_a_network_error_is_followed_by_another_request(broken: bytes | None) -> None:
    async with scripted(OK + QUICK, broken, OK + sse.encode(b"b")) as server:
        assert await read(EventSource(server.url), 1) == [Event("message", "b", "")]


async def test_nobody_listening_is_tried_again() -> None:
    states: list[str] = []
    source = EventSource(f"http://127.0.0.1:{free_port()}", told=states.append)
    source.retry = 0.1
    with trio.move_on_after(0.5):
        async with source:
            await anext(source)
    assert len([state for state in states if state.endswith("connecting again in 0.1 s")]) > 1


async def test_the_wait_is_what_the_server_asks_for() -> None:
    async with scripted(OK + b"retry: 400\n\n", GONE) as server:
        source = EventSource(server.url)
        assert source.retry == RETRY
        assert await read(source) == []
        assert source.retry == 0.4
    first, second = (asked.at for asked in server.asked)
    assert 0.4 <= second - first < 1.4


async def test_an_id_sent_empty_is_not_sent_again() -> None:
    async with scripted(OK + QUICK + sse.id_block(""), GONE) as server:
        await read(EventSource(server.url, last_event_id="5"))
    assert told(server, "last-event-id") == ["5", None]


async def test_an_event_ended_by_a_lone_cr_arrives_while_the_stream_stays_open() -> None:
    async with scripted(OK + b"data: now\r\rHOLD") as server:
        assert await read(EventSource(server.url), 1) == [Event("message", "now", "")]


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "503 Busy", "201 Created", "206 Partial Content"])
async def test_any_other_status_is_the_end(status: str) -> None:
    answer = OK.replace(b"200 OK", status.encode())
    async with scripted(answer) as server:
        with pytest.raises(EventSourceError, match=f"the answer is {status}"):
            await read(EventSource(server.url))
        assert len(server.asked) == 1


@pytest.mark.parametrize("content_type", ["text/html", "text/event-streams", "", "application/json; text/event-stream"])
async def test_another_content_type_is_the_end(content_type: str) -> None:
    answer = OK.replace(b"text/event-stream; charset=utf-8", content_type.encode())
    async with scripted(answer) as server:
        with pytest.raises(EventSourceError, match="not text/event-stream"):
            await read(EventSource(server.url))


@pytest.mark.parametrize("content_type", ["TEXT/Event-Stream", "text/event-stream;charset=latin-1"])
async def test_a_content_type_is_its_essence(content_type: str) -> None:
    answer = OK.replace(b"text/event-stream; charset=utf-8", content_type.encode())
    async with scripted(answer + sse.encode(b"x")) as server:
        assert len(await read(EventSource(server.url), 1)) == 1


async def test_redirects_are_followed_with_the_fields() -> None:
    moved = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"
    async with scripted(moved, OK + sse.encode(b"x")) as server:
        await read(EventSource(server.url, headers=[("X-Token", "é"), ("accept", "*/*")]), 1)
        assert [asked.target for asked in server.asked] == ["/", "/there"]
        assert told(server, "x-token") == ["é", "é"]
        assert told(server, "accept") == ["*/*", "*/*"]


async def test_a_redirect_to_something_else_than_http_is_the_end() -> None:
    async with scripted(b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1/\r\nContent-Length: 0\r\n\r\n") as server:
        with pytest.raises(EventSourceError, match="ftp"):
            await read(EventSource(server.url))


async def counting(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI application that tells the protocol it was asked by, once a connection."""
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return
    fields = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    body = QUICK + sse.encode(scope["http_version"].encode(), id="1")
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def why(url: str) -> str:
    """What is told of the first connection, which fails."""
    reasons: list[str] = []

    def told(text: str) -> None:
        reason, again, _ = text.partition("; connecting again")
        if again:
            reasons.append(reason)
            scope.cancel()

    with trio.move_on_after(10) as scope:
        async with EventSource(url, told=told) as source:
            await anext(source)
    return reasons[0]


async def _speaks_plainly(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await stream.receive_some()


async def _shakes_hands(stream: trio.SSLStream[trio.SocketStream]) -> None:
    with suppress(trio.BrokenResourceError):
        await stream.do_handshake()


async def test_why_there_is_no_connection_is_said_in_words(certificates: Certificates) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    async with trio.open_nursery() as nursery:
        [plain] = await nursery.start(partial(trio.serve_tcp, _speaks_plainly, 0, host="127.0.0.1"))
        [tls] = await nursery.start(partial(trio.serve_ssl_over_tcp, _shakes_hands, 0, context, host="127.0.0.1"))
        plain, tls = (each.socket.getsockname()[1] for each in (plain, tls.transport_listener))
        assert await why(f"https://127.0.0.1:{plain}") == SPEAKS_NO_TLS
        assert (await why(f"https://127.0.0.1:{tls}")).startswith("TLS: unable to get local issuer certificate")
        nursery.cancel_scope.cancel()
    unknown = await why("http://nowhere.invalid/")
    assert unknown
    assert "Errno" not in unknown


@asynccontextmanager
async def hypercorn() -> AsyncIterator[str]:
    config = HypercornConfig()
    config.bind = [f"127.0.0.1:{free_port()}"]
    config.errorlog = None
    async with trio.open_nursery() as nursery:
        url = (await nursery.start(serve, counting, config))[0]
        yield url
        nursery.cancel_scope.cancel()


async def test_http_2_by_prior_knowledge() -> None:
    async with hypercorn() as url:
        assert [event.data for event in await read(EventSource(url, http2=True), 3)] == ["2", "2", "2"]
        assert [event.data for event in await read(EventSource(url), 1)] == ["1.1"]


# The command


async def tail(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(20):
        return await trio.run_process(
            [sys.executable, "-m", "sidecar", "tail", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, **environment},
        )


async def test_a_pipe_gets_one_object_a_line() -> None:
    body = sse.encode('{"total": 1}\n"ü"'.encode(), event="order.paid", id="9") + sse.encode(b"")
    async with scripted(OK + body + b"HOLD") as server:
        result = await tail(f"{server.url}/events?a=b", "-n", "2", "-H", "Authorization: Bearer x", "--last-event-id=8")
    assert (result.returncode, result.stderr) == (0, b"")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [datetime.fromisoformat(event.pop("time")).tzinfo for event in events] == [UTC, UTC]
    assert events == [
        {"id": "9", "type": "order.paid", "data": '{"total": 1}\n"ü"'},
        {"id": "9", "type": "message", "data": ""},
    ]
    assert server.asked[0].target == "/events?a=b"
    assert told(server, "authorization") == ["Bearer x"]
    assert told(server, "last-event-id") == ["8"]


async def test_what_fails_for_good_exits_with_1_and_says_why() -> None:
    async with scripted(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") as server:
        result = await tail(server.url)
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.decode().strip() == (
        f"{server.url}: the answer is 403 Forbidden; tried no more, as a browser would not"
    )


async def test_the_reason_of_a_refusal_is_told() -> None:
    body = b"order must be one word\r\nand more"
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
    async with scripted(head % len(body) + body) as server:
        result = await tail(server.url)
    assert result.returncode == 1
    assert "the answer is 400 Bad Request: order must be one word; tried no more" in result.stderr.decode()


async def test_a_page_of_html_is_no_reason_and_a_body_that_does_not_come_is_not_waited_for() -> None:
    for kind, body in ((b"text/html", b"<h1>no</h1>"), (b"text/plain", b"")):
        head = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: " + kind + b"\r\nContent-Length: 11\r\n\r\n"
        async with scripted(head + body + b"HOLD") as server:
            with trio.fail_after(5), pytest.raises(EventSourceError, match=r"the answer is 502 Bad Gateway$"):
                await read(EventSource(server.url))


async def test_a_polite_stop_exits_with_0_after_telling_of_the_reconnect() -> None:
    async with scripted(OK + QUICK + sse.encode(b"x"), GONE) as server:
        result = await tail(server.url, "--json")
    assert (result.returncode, result.stdout.count(b"\n")) == (0, 1)
    assert result.stderr == b"sidecar tail: the server ended the stream; connecting again in 0.1 s\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["localhost:8080/events"], "has no http:// or https:// in front"),
        (["http://localhost/", "-H", "Authorization"], "write 'Name: value'"),
        (["http://localhost/", "-n", "0"], "-n"),
    ],
)
async def test_a_bad_command_line_exits_with_2(arguments: Sequence[str], said: str) -> None:
    result = await tail(*arguments, COLUMNS="200", NO_COLOR="1")
    assert (result.returncode, result.stdout) == (2, b"")
    assert said in result.stderr.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_quietly(number: signal.Signals) -> None:
    async with scripted(OK + sse.encode(b"x") + b"HOLD") as server, trio.open_nursery() as nursery:
        with trio.fail_after(20):
            run = partial(trio.run_process, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            process: trio.Process = await nursery.start(run, [sys.executable, "-m", "sidecar", "tail", server.url])
            assert process.stdout is not None
            assert process.stderr is not None
            assert json.loads(await process.stdout.receive_some())["data"] == "x"
            process.send_signal(number)
            assert await process.wait() == 0
            assert await process.stdout.receive_some() + await process.stderr.receive_some() == b""


async def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    async with scripted(OK + sse.encode(b"x" * 1000) * 1000 + b"HOLD") as server:
        with trio.fail_after(20):
            command = f"{sys.executable} -m sidecar tail {server.url} | head -n 1"
            result = await trio.run_process(
                ["bash", "-o", "pipefail", "-c", command], capture_stdout=True, capture_stderr=True, check=False
            )
    assert (result.returncode, result.stdout.count(b"\n"), result.stderr) == (0, 1, b"")


async def on_a_terminal(url: str, count: int, **environment: str) -> str:
    leader, follower = os.openpty()
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "sidecar", "tail", url, "-n", str(count)],
        stdout=follower,
        stderr=follower,
        env={**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm", "TZ": "UTC", **environment},
    )
    os.close(follower)
    seen = b""
    with trio.fail_after(20):
        while True:
            try:
                seen += await trio.to_thread.run_sync(os.read, leader, 65536, abandon_on_cancel=True)
            except OSError:  # how Linux says that nobody has the terminal open any more
                break
        assert await process.wait() == 0
    os.close(leader)
    return seen.decode()


EVENTS = sse.encode(b'{\n  "total": 1\n}', event="order.paid", id="9") + sse.encode(b"\x1b[2J\a") + sse.reset("slow")


async def test_a_terminal_gets_colours_and_a_status_line() -> None:
    async with scripted(OK + EVENTS + b"HOLD") as server:
        seen = await on_a_terminal(server.url, 3, COLUMNS="100")
    assert '\x1b[36m\x1b[1morder.paid\x1b[0m \x1b[33m9\x1b[0m {"total": 1}\r\n' in seen
    assert "\x1b[31m\x1b[1msidecar.reset\x1b[0m" in seen
    assert "�[2J�" in seen
    assert "3 events · 3.0/s · connected by HTTP/1.1" in seen
    assert seen.endswith("\r\x1b[K")


async def test_no_color_means_no_colour() -> None:
    async with scripted(OK + EVENTS + b"HOLD") as server:
        seen = await on_a_terminal(server.url, 3, NO_COLOR="1")
    assert re.search(r'\d\d:\d\d:\d\d\.\d{3} order\.paid 9 {"total": 1}\r\n', seen)
    assert not re.search(r"\x1b\[[0-9;]*m", seen)


# What it shows


def test_json_is_one_line_and_other_text_keeps_its_lines() -> None:
    assert compact('{"a":  1}') == '{"a":  1}'
    assert compact('[\n1,\n"ü"]') == '[1, "ü"]'
    assert compact("a\n\x1bb") == "a\n    �b"
    assert printable("tab\tü\u202e\x9b") == "tab\tü��"


def test_lag_is_told_by_envelopes_alone() -> None:
    now = datetime(2026, 1, 1, 12, 0, 5, tzinfo=UTC)
    assert lag('{"timestamp":"2026-01-01T12:00:03+00:00"}', now) == 2
    assert lag('{"timestamp":"2026-01-01T12:00:30+00:00"}', now) == 0
    texts = ['{"timestamp":"2026-01-01T12:00:03"}', '{"timestamp":null}', '["timestamp"]', '"timestamp"', "1", "{"]
    assert [lag(text, now) for text in texts] == [None] * 6


async def test_the_rate_is_an_average_of_the_last_seconds(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    terminal.told("connected")
    for _ in range(20):
        terminal.show(Event("message", '{"timestamp":"2000-01-01T00:00:00+00:00"}', ""))
        await trio.sleep(0.5)
    assert re.fullmatch(r"20 events · 2\.0/s · lag \d+\.\d s · connected", terminal.status(trio.current_time()))
    await trio.sleep(6)
    assert " · 0.0/s · " in terminal.status(trio.current_time())
    assert capsys.readouterr().out.count("message") == 20


async def test_the_rate_begins_with_the_command(autojump_clock: trio.testing.MockClock) -> None:
    terminal = Terminal()
    terminal.refresh()
    await trio.sleep(2)
    for _ in range(20):
        terminal.show(Event("message", "x", ""))
    assert " · 10.0/s · " in terminal.status(trio.current_time())
