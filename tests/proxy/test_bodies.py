"""Bodies larger than memory ought to hold: they pass through, in constant memory, at the reader's pace."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from sidecar.server.connection import LINGER_FOR
from tests.proxy.client import Client1, Client2, Stream2, client2
from tests.proxy.conftest import Beginning
from tests.proxy.origin import Conversation, ok

LARGE = 200_000_000
PART = b"x" * 250_000
ROOM = 24_000_000
"""Bytes by which memory may grow while `LARGE` pass: both ends of both connections are in this process."""


class Peak:
    """The most memory this process has held since `begin` (proc(5))."""

    def begin(self) -> None:
        """Forget the peak until now."""
        Path("/proc/self/clear_refs").write_text("5")
        self._before = self._read("VmRSS")

    def grown(self) -> int:
        """Bytes by which the peak since then is above what was held then."""
        return self._read("VmHWM") - self._before

    @staticmethod
    def _read(name: str) -> int:
        (line,) = (text for text in Path("/proc/self/status").read_text().splitlines() if text.startswith(name))
        return int(line.split()[1]) * 1024


async def drain1(client: Client1, count: int) -> None:
    """Read so many bytes and keep none."""
    count -= len(client._take(len(client.buffer)))
    while count > 0:
        with trio.fail_after(10):
            data = await client.stream.receive_some(262_144)
        assert data
        count -= len(data)
    assert count == 0


async def pour(conversation: Conversation) -> None:
    await conversation.head()
    await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
    for _ in range(LARGE // len(PART)):
        await conversation.stream.send_all(PART)


async def swallow(conversation: Conversation) -> None:
    asked = await conversation.head()
    count = -len(conversation.take(len(conversation.buffer))) + LARGE
    if "content-length" in asked:
        while count > 0:
            count -= len(await conversation.some())
    else:
        await conversation.chunks()
    await conversation.send(ok(b"%d" % count))


async def test_a_large_download(beside: Beginning) -> None:
    sidecar = await beside(pour)
    async with await sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await client.head()
        peak = Peak()
        peak.begin()
        await drain1(client, LARGE)
        assert peak.grown() < ROOM


async def test_a_large_upload(beside: Beginning) -> None:
    sidecar = await beside(swallow)
    async with await sidecar.client() as client:
        await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE)
        peak = Peak()
        peak.begin()
        for _ in range(LARGE // len(PART)):
            await client.send(PART)
        assert (await client.answer())[2] == b"0"
        assert peak.grown() < ROOM


async def test_a_large_download_over_http2(beside: Beginning, nursery: trio.Nursery) -> None:
    sidecar = await beside(pour)
    client = await client2(nursery, sidecar.address)
    client.keep = False
    stream = await client.request("GET", "/")
    peak = Peak()
    peak.begin()
    with trio.fail_after(30):
        while not stream.ended:
            await client.until(lambda before=stream.received: stream.received > before or stream.ended)
    assert stream.received == LARGE
    assert peak.grown() < ROOM


async def blocked(send: trio.abc.SendStream, part: bytes) -> int:
    """Write until the other side takes no more; how many bytes went."""
    sent = 0
    while True:
        with trio.move_on_after(0.3) as scope:
            await send.send_all(part)
            sent += len(part)
        if scope.cancelled_caught:
            return sent


IN_FLIGHT = 40_000_000
"""Bytes that kernels hold for four sockets at their largest, and a little of ours."""


@pytest.mark.parametrize("version", ["1.1", "2"])
async def test_a_reader_that_stops_stops_the_application(
    beside: Beginning, nursery: trio.Nursery, version: str
) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        sent.append(await blocked(conversation.stream, PART))
        stopped.set()
        await trio.sleep_forever()

    sent: list[int] = []
    stopped = trio.Event()
    sidecar = await beside(script)
    held: Client1 | Client2 | Stream2
    if version == "2":
        two = await client2(nursery, sidecar.address)
        two.reading = False
        held = await two.request("GET", "/")
    else:
        held = await sidecar.client()
        await held.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    peak = Peak()
    peak.begin()
    with trio.fail_after(20):
        await stopped.wait()
    assert sent[0] < IN_FLIGHT
    assert peak.grown() < ROOM
    if isinstance(held, Client1):
        await held.stream.aclose()
    else:
        await two.stream.aclose()


async def test_an_application_that_stops_stops_the_writer(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await trio.sleep_forever()

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE)
        peak = Peak()
        peak.begin()
        assert await blocked(client.stream, PART) < IN_FLIGHT
        assert peak.grown() < ROOM


@pytest.mark.parametrize("head", [b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close", b"GET / HTTP/1.0\r\nHost: a"])
async def test_a_client_that_pauses_near_the_end_gets_all_of_it(beside: Beginning, head: bytes) -> None:
    """The exchange is over for us when the last bytes lie in our own memory; the client takes them when it can."""
    size = 6_000_000

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.stream.send_all(ok(b"x" * size))

    sidecar = await beside(script, idle=60)
    client = trio.socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    await client.connect(sidecar.address)
    await client.send(head + b"\r\n\r\n")
    received = bytearray()
    with trio.fail_after(60):
        while not sidecar.codes:
            received += await client.recv(65536)
            await trio.sleep(0.001)
        await trio.sleep(LINGER_FOR + 0.5)
        while data := await client.recv(65536):
            received += data
    assert len(received.partition(b"\r\n\r\n")[2]) == size
    client.close()
