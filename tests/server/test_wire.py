"""The ordered writer over socket pairs: whatever the kernel takes at a time, and with TLS, bytes stay in order."""

from __future__ import annotations

import ctypes
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from sidecar.config.model import ServerTls
from sidecar.server.listener import tls_context
from sidecar.server.wire import HIGH_WATER, Wire, prepare
from tests.lab.certificates import Certificates

Open = Callable[..., Any]


def pair() -> tuple[socket.socket, trio.SocketStream]:
    """A TCP connection with the smallest buffers the kernel allows: our end, and the client's."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    prepare(ours)
    return ours, trio.SocketStream(trio.socket.from_stdlib_socket(theirs))


@asynccontextmanager
async def plain() -> AsyncIterator[tuple[Wire, trio.abc.Stream]]:
    ours, theirs = pair()
    wire = Wire(ours)
    async with trio.open_nursery() as nursery:
        wire.spawn = nursery.start_soon
        yield wire, theirs
        wire.close()
    await trio.aclose_forcefully(theirs)


@asynccontextmanager
async def encrypted(
    certificates: Certificates, version: ssl.TLSVersion
) -> AsyncIterator[tuple[Wire, trio.SSLStream[trio.SocketStream]]]:
    ours, theirs = pair()
    wire = Wire(ours, tls_context(ServerTls(certificate=certificates.certificate, key=certificates.key)))
    context = certificates.client("http/1.1")
    context.minimum_version = context.maximum_version = version
    client = trio.SSLStream(theirs, context, server_hostname="localhost", https_compatible=True)
    async with trio.open_nursery() as nursery:
        wire.spawn = nursery.start_soon
        async with trio.open_nursery() as both:
            both.start_soon(wire.handshake)
            both.start_soon(client.do_handshake)
        yield wire, client
        wire.close()
    await trio.aclose_forcefully(client)


@pytest.fixture(params=["plain", "TLS 1.2", "TLS 1.3"])
def opened(request: pytest.FixtureRequest, certificates: Certificates) -> Open:
    if request.param == "plain":
        return plain
    version = ssl.TLSVersion.TLSv1_2 if request.param == "TLS 1.2" else ssl.TLSVersion.TLSv1_3
    return lambda: encrypted(certificates, version)


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    received = bytearray()
    with trio.fail_after(10):
        while len(received) < size:
            data = await stream.receive_some(65536)
            assert data, f"ended after {len(received)} of {size} bytes"
            received += data
    assert len(received) == size
    return bytes(received)


async def nobody_writes(wire: Wire) -> None:
    with trio.fail_after(10):
        while wire.pending:
            await wire.flushed()


async def test_order_holds_whoever_writes_and_however_much(opened: Open) -> None:
    async with opened() as (wire, client):
        sent = bytearray()
        for number in range(300):
            data = b"%d." % number * (1 + number * 7 % 2000)
            wire.write(data)
            sent += data
            if number % 50 == 0:
                await trio.lowlevel.checkpoint()
        assert wire.pending > 0, "the buffers are not small enough for this test"
        assert await receive_exactly(client, len(sent)) == sent
        await nobody_writes(wire)


async def test_one_write_larger_than_every_buffer(opened: Open) -> None:
    async with opened() as (wire, client):
        data = bytes(range(256)) * 40_000
        wire.write(data)
        assert await receive_exactly(client, len(data)) == data


async def test_the_quick_way_says_what_was_taken_and_rest_queues_what_was_not(opened: Open) -> None:
    async with opened() as (wire, client):
        data, sent = b"x" * 3000, 0
        taken = len(data)
        while taken == len(data):
            taken = wire.send(data)
            sent += len(data)
        wire.rest(data, taken)
        assert wire.pending > 0
        wire.write(b"the end")
        assert (await receive_exactly(client, sent + 7)).endswith(b"xthe end")


async def test_what_stands_in_the_queue_is_never_overtaken(opened: Open) -> None:
    async with opened() as (wire, client):
        wire.write(b"a" * 500_000)
        assert wire.pending
        if wire.secure:  # a plain wire's quick way is the socket itself, and is asked only while nothing is pending
            assert wire.send(b"b" * 10) == -1
        else:
            wire.write(b"b" * 10)
        wire.write(b"c")
        assert (await receive_exactly(client, 500_011)).endswith(b"a" + b"b" * 10 + b"c")


async def test_room_is_told_when_the_queue_has_run_empty_and_may_be_used_at_once(opened: Open) -> None:
    async with opened() as (wire, client):
        more = [b"second" * 50_000, b"third"]

        def room() -> None:
            assert not wire.pending
            if more:
                wire.write(more.pop(0))

        wire.on_room = room
        wire.write(b"first" * 100_000)
        received = await receive_exactly(client, 500_000 + 300_000 + 5)
        assert received.endswith(b"secondthird")
        await nobody_writes(wire)
        assert not more


async def test_drain_waits_above_the_mark_only(opened: Open) -> None:
    async with opened() as (wire, client):
        with trio.fail_after(1):
            await wire.drain()
        wire.write(b"x" * (HIGH_WATER - 30_000))
        with trio.fail_after(1):
            await wire.drain()
        wire.write(b"x" * 400_000)
        with trio.move_on_after(0.05) as waited:
            await wire.drain()
        assert waited.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_exactly, client, HIGH_WATER - 30_000 + 400_000)
            with trio.fail_after(5):
                await wire.drain()
                await wire.flushed()


async def test_abort_ends_every_wait_and_later_writes_do_nothing(opened: Open) -> None:
    async with opened() as (wire, client):
        closed: list[bool] = []
        wire.on_closed = lambda: closed.append(wire.closed)
        wire.write(b"x" * 2_000_000)
        ended: list[str] = []

        async def waits(name: str, wait: Callable[[], Any]) -> None:
            assert await wait() in (None, b"")
            ended.append(name)

        with trio.fail_after(2):
            async with trio.open_nursery() as nursery:
                for wait in (wire.drain, wire.flushed, wire.receive):
                    nursery.start_soon(waits, wait.__name__, wait)
                await trio.testing.wait_all_tasks_blocked(0.01)
                wire.abort()
        assert sorted(ended) == ["drain", "flushed", "receive"]
        assert (closed, wire.pending) == ([True], 0)
        wire.write(b"y")
        wire.abort()
        wire.close()
        assert (closed, wire.pending, await wire.receive()) == ([True], 0, b"")
        with pytest.raises((trio.BrokenResourceError, ssl.SSLError)):  # a reset, not a good end
            await receive_exactly(client, 2_000_000)


async def test_a_peer_that_resets_ends_the_wire_in_mid_write(opened: Open) -> None:
    async with opened() as (wire, client):
        gone = trio.Event()
        wire.on_closed = gone.set
        wire.write(b"x" * 2_000_000)
        raw = client.transport_stream if isinstance(client, trio.SSLStream) else client
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        raw.socket.close()
        with trio.fail_after(5):
            await gone.wait()
            await wire.drain()
        assert wire.closed


async def test_linger_delivers_what_was_written_says_goodbye_and_reads_the_rest_away(opened: Open) -> None:
    async with opened() as (wire, client):
        data = b"the last answer" * 40_000
        wire.write(data)

        async def lingers() -> None:
            with trio.fail_after(5):
                await wire.linger(4)
            wire.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lingers)
            await client.send_all(b"a request that nobody reads any more" * 10)
            assert await receive_exactly(client, len(data)) == data
            assert await client.receive_some(10) == b""  # over TLS: close_notify was there
            await trio.aclose_forcefully(client)


async def test_linger_is_bounded_where_the_peer_does_not_read(opened: Open) -> None:
    async with opened() as (wire, _):
        wire.write(b"x" * 2_000_000)
        with trio.fail_after(2):
            await wire.linger(0.05, stalled=0.05)


async def test_linger_is_bounded_where_the_peer_does_not_close(opened: Open) -> None:
    async with opened() as (wire, _):
        wire.write(b"x")
        with trio.fail_after(2):
            await wire.linger(0.05)


async def test_what_the_client_says_arrives_and_its_end_is_no_error(opened: Open) -> None:
    async with opened() as (wire, client):
        await client.send_all(b"hello")
        assert await wire.receive() == b"hello"
        if isinstance(client, trio.SSLStream):
            with pytest.raises(ssl.SSLWantReadError):
                client._ssl_object.unwrap()
            await client.transport_stream.send_all(client._outgoing.read())
            assert await wire.receive() == b""
        else:
            await client.send_eof()
            assert await wire.receive() == b""
            wire.write(b"still heard")  # half-closed
            assert await receive_exactly(client, 11) == b"still heard"


async def test_a_client_that_cuts_tls_short_has_left(certificates: Certificates) -> None:
    async with encrypted(certificates, ssl.TLSVersion.TLSv1_3) as (wire, client):
        await client.transport_stream.aclose()
        with pytest.raises(OSError, match=r"EOF|reset"):
            await wire.receive()


async def test_a_failed_handshake_is_explained_by_an_alert(certificates: Certificates) -> None:
    ours, theirs = pair()
    wire = Wire(ours, tls_context(ServerTls(certificate=certificates.certificate, key=certificates.key)))
    context = certificates.client("http/1.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")  # no forward secrecy: not among ours
    client = trio.SSLStream(theirs, context, server_hostname="localhost")
    async with trio.open_nursery() as nursery:
        wire.spawn = nursery.start_soon

        async def refuse() -> None:
            with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
                await wire.handshake()

        nursery.start_soon(refuse)
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError) as caught:
            await client.do_handshake()
        assert "HANDSHAKE_FAILURE" in str(caught.value.__cause__)
        wire.close()
    await trio.aclose_forcefully(theirs)


async def test_a_key_update_in_mid_stream(certificates: Certificates) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", "-brief", "-CAfile"]
        async with trio.open_nursery() as nursery:
            process = await nursery.start(_client, [*command, str(certificates.authority)])
            ours = await trio.to_thread.run_sync(lambda: listener.accept()[0])
            prepare(ours)
            files = ServerTls(certificate=certificates.certificate, key=certificates.key)
            wire = Wire(ours, tls_context(files))
            wire.spawn = nursery.start_soon
            await wire.handshake()
            received, said = bytearray(), bytearray()
            nursery.start_soon(_echo, wire)
            for number in range(3):
                await process.stdin.send_all(b"before %d\n" % number)
                await _read_until(process.stdout, received, b"before %d\n" % number)
                await process.stdin.send_all(b"K\n")  # "update my keys, and you yours" (RFC 8446 §4.6.3)
                await _read_until(process.stderr, said, b"KEYUPDATE", number + 1)  # it takes commands read by read
                await process.stdin.send_all(b"after %d\n" % number)
                await _read_until(process.stdout, received, b"after %d\n" % number)
            assert b"K" not in received
            wire.close()
            process.kill()


async def _client(command: list[str], task_status: Any) -> None:
    process = await trio.lowlevel.open_process(command, stdin=-1, stdout=-1, stderr=-1)
    task_status.started(process)
    await process.wait()


async def _echo(wire: Wire) -> None:
    while data := await wire.receive():
        wire.write(data)


async def _read_until(stream: trio.abc.ReceiveStream, received: bytearray, marker: bytes, times: int = 1) -> None:
    with trio.fail_after(10):
        while received.count(marker) < times:
            received += await stream.receive_some(65536)


def asking_for_keys(client: trio.SSLStream[trio.SocketStream]) -> Callable[[], None]:
    """What makes a client want our next key (RFC 8446 §4.6.3), which only OpenSSL itself offers."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    openssl = ctypes.CDLL(next(line.split()[-1] for line in maps if "libssl" in line))
    connection = ctypes.c_void_p.from_address(id(client._ssl_object._sslobj) + 24)  # type: ignore[attr-defined]

    def ask() -> None:
        assert openssl.SSL_key_update(connection, 1) == 1
        openssl.SSL_do_handshake(connection)

    return ask


async def test_who_asks_for_keys_has_to_read_them(certificates: Certificates, nursery: trio.Nursery) -> None:
    async with encrypted(certificates, ssl.TLSVersion.TLSv1_3) as (wire, client):

        async def serve() -> None:
            while await wire.receive():
                pass

        nursery.start_soon(serve)
        ask = asking_for_keys(client)
        with trio.move_on_after(3):  # we stop reading, and so its writing
            for _ in range(60):
                for _ in range(1000):
                    ask()
                await client.transport_stream.send_all(client._outgoing.read())
        assert wire.pending < 2 * HIGH_WATER
        nursery.cancel_scope.cancel()
