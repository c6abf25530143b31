"""The lab's own instruments against servers that are scripted here: a ruler is measured before it measures."""

from __future__ import annotations

import functools
import http.client
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from selenium import webdriver

from tests.lab import wire
from tests.lab.certificates import Certificates
from tests.lab.eventstream import Event, Parser
from tests.lab.nginx import nginx

Handler = Callable[[trio.abc.Stream], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


async def serve(nursery: trio.Nursery, handler: Handler) -> tuple[str, int]:
    """A server of one behaviour; gives its address."""
    listeners = await nursery.start(functools.partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
    name: tuple[str, int] = listeners[0].socket.getsockname()
    return name


def answering(*pieces: bytes) -> Handler:
    """Read one request, write these pieces, close."""

    async def handler(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        for piece in pieces:
            await stream.send_all(piece)
        await stream.aclose()

    return handler


@given(st.binary(max_size=60), st.integers(1, 7))
def test_the_parser_reads_the_same_whole_and_in_pieces(noise: bytes, size: int) -> None:
    text = noise + b"\n\nevent: a\r\ndata: 1\r\rid: x\rdata\r\ndata:2\n\n"
    whole, pieces = Parser(), Parser()
    whole.feed(text)
    for start in range(0, len(text), size):
        pieces.feed(text[start : start + size])
    assert pieces.events == whole.events
    assert whole.events[-2:] == [Event("a", "1", whole.events[-2].id), Event("message", "\n2", "x")]


def test_the_parser_knows_comments_and_retry() -> None:
    parser = Parser()
    parser.feed(b": hello\nretry: 2000\nretry: soon\n\nid: a\0b\ndata: x\n\n")
    assert (parser.comments, parser.retry, parser.events) == ([" hello"], 2000, [Event("message", "x")])


async def test_chunks_keep_their_borders(nursery: trio.Nursery) -> None:
    body = b"8\r\ndata: a\n\r\n1\r\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n"
    address = await serve(nursery, answering(HEAD + b"transfer-encoding: chunked\r\n\r\n", body))
    response = (await wire.open_http1(nursery, address, "/")).response
    assert await response.until_end() == "clean"
    assert [data for _, data in response.arrivals] == [b"data: a\n", b"\n", b"data: b\n\n"]
    assert response.data == ["a", "b"]


async def test_a_chunked_body_without_its_last_chunk_is_not_a_clean_end(nursery: trio.Nursery) -> None:
    address = await serve(nursery, answering(HEAD + b"transfer-encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n"))
    response = (await wire.open_http1(nursery, address, "/")).response
    assert (await response.until_end()).startswith("aborted")
    assert response.data == ["a"]


async def test_http_1_0_ends_with_the_connection(nursery: trio.Nursery) -> None:
    address = await serve(nursery, answering(HEAD + b"\r\n", b"data: a\n", b"\ndata: b\n\n"))
    response = (await wire.open_http1(nursery, address, "/", version="1.0")).response
    assert await response.until_end() == "clean"
    assert response.data == ["a", "b"]


async def test_waiting_has_an_end_and_says_what_it_saw(nursery: trio.Nursery) -> None:
    address = await serve(nursery, answering(HEAD + b"content-length: 9\r\n\r\ndata: a\n\n"))
    response = (await wire.open_http1(nursery, address, "/")).response
    with pytest.raises(AssertionError, match="1 events, end: clean"):
        await response.until_events(2)


def test_nginx_serves_from_its_own_directory(tmp_path: Path) -> None:
    with nginx(tmp_path, 'return 200 "here";') as address:
        connection = http.client.HTTPConnection(*address, timeout=5)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"here"


async def test_chromium_opens_a_page_of_ours(nursery: trio.Nursery, chromium: webdriver.Chrome) -> None:
    page = b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 22\r\n\r\n<title>here we</title>"
    host, port = await serve(nursery, answering(page))
    with trio.fail_after(20):
        await trio.to_thread.run_sync(chromium.get, f"http://{host}:{port}/")
        assert await trio.to_thread.run_sync(lambda: chromium.title) == "here we"


async def test_certificates_are_trusted_by_their_own_clients(nursery: trio.Nursery, certificates: Certificates) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    handler = answering(HEAD + b"content-length: 9\r\n\r\ndata: a\n\n")
    listeners = await nursery.start(
        functools.partial(trio.serve_ssl_over_tcp, handler, 0, context, host="127.0.0.1", https_compatible=True)
    )
    port = listeners[0].transport_listener.socket.getsockname()[1]
    response = (await wire.open_http1(nursery, ("localhost", port), "/", tls=certificates.client("http/1.1"))).response
    await response.until_events(1)
