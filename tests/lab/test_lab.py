"""The lab's own instruments against servers that are scripted here: a ruler is measured before it measures."""

from __future__ import annotations

import functools
import http.client
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import h2.config
import h2.connection
import pytest
import trio
from h2.events import RequestReceived
from hypothesis import given
from hypothesis import strategies as st
from selenium import webdriver

from tests.lab import wire
from tests.lab.certificates import Certificates
from tests.lab.eventstream import Event, Parser
from tests.lab.nginx import nginx
from tests.lab.ports import BLOCK, free_port

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


async def test_an_answer_is_read_to_its_end_though_goaway_came_in_the_same_read(nursery: trio.Nursery) -> None:
    async def last_words(stream: trio.abc.Stream) -> None:
        peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        peer.initiate_connection()
        await stream.send_all(peer.data_to_send())
        while not any(isinstance(event, RequestReceived) for event in peer.receive_data(await stream.receive_some())):
            pass
        peer.send_headers(1, [(":status", "200"), ("content-type", "text/event-stream")])
        peer.send_data(1, b"data: a\n\n", end_stream=True)
        peer.close_connection()
        await stream.send_all(peer.data_to_send())

    connection = await wire.open_http2(nursery, await serve(nursery, last_words))
    response = (await connection.get("/")).response
    assert await response.until_end() == "clean"
    assert response.data == ["a"]


def test_no_port_is_given_out_by_two_processes_or_twice_in_a_row() -> None:
    asking = "from tests.lab.ports import free_port; print(free_port(), flush=True); input()"
    other = subprocess.Popen([sys.executable, "-c", asking], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        ours = [free_port() for _ in range(BLOCK)]
        other.communicate("\n")
    assert theirs not in ours
    assert free_port() in ours  # around: a block has no end, wherever in it one began
    assert len(set(ours)) > BLOCK / 2


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
