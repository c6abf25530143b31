"""One connection: a nursery that owns all it has, from the handshake to the last byte.

Strategy: the task of `serve` reads the socket and hands what it reads to hypercorn's protocol; everything else a
connection does is a task in its nursery, and the nursery ends with the connection. Idle connections are ended by a
deadline, not by a task each.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Final

import structlog
import trio
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.h11 import H2ProtocolAssumedError
from hypercorn.trio.task_group import TaskGroup
from hypercorn.utils import parse_socket_addr

from sidecar.server.protocol import Ground, Http1, Http2
from sidecar.server.wire import Wire, prepare

if TYPE_CHECKING:
    from sidecar.server.listener import Server

HANDSHAKE_WITHIN: Final = 10.0
"""Seconds for the TLS handshake."""
IDLE_FOR: Final = 75.0
"""Seconds a connection may stand without a request (nginx's keepalive_timeout is the same)."""
LINGER_FOR: Final = 2.0
"""Seconds in which a client may read the last answer of a connection that we close."""

_log = structlog.get_logger("sidecar.server")


class Connection:
    """A client's connection to a listener."""

    def __init__(self, server: Server, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        self._server = server
        self._wire = Wire(sock, context)
        self._closing = False
        self._reading = trio.CancelScope()
        self._wire.on_closed = self._reading.cancel  # whatever the reading task waits for, it is over
        self._idle = server.deadlines.after(IDLE_FOR, self.close)
        self._protocol: Http1 | Http2 | None = None

    async def serve(self) -> None:
        """Serve until either side ends it."""
        self._server.connections[self] = None
        try:
            async with TaskGroup() as tasks:
                await self._speak(tasks)
                _nursery(tasks).cancel_scope.cancel()
        except Exception:  # a connection's mistake costs that connection
            _log.exception("a connection failed")
        finally:
            self._idle.cancel()
            self._wire.close()
            self._server.discard(self)

    async def _speak(self, tasks: TaskGroup) -> None:
        self._wire.spawn = tasks.spawn
        try:
            if self._wire.secure:
                with trio.fail_after(HANDSHAKE_WITHIN):
                    await self._wire.handshake()
            self._protocol = self._choose(self._ground(tasks))
        except (trio.TooSlowError, OSError):
            return
        try:
            with self._reading:
                await self._protocol.initiate()
                await self._read(self._protocol)
        finally:
            self._protocol.abandon()
        await self._protocol.handle(Closed())
        if self._closing:
            await self._wire.linger(LINGER_FOR)

    def _ground(self, tasks: TaskGroup) -> Ground:
        server, sock = self._server, self._wire.sock
        return Ground(
            app=server.app,
            config=server.config,
            context=server.context,
            dispatch=server.dispatch,
            task_group=tasks,
            wire=self._wire,
            client=parse_socket_addr(sock.family, sock.getpeername()),
            server=parse_socket_addr(sock.family, sock.getsockname()),
            send=self._send,
        )

    def _choose(self, ground: Ground) -> Http1 | Http2:
        return Http2(ground) if self._wire.alpn == "h2" else Http1(ground)

    async def _read(self, protocol: Http1 | Http2) -> None:
        while data := await self._receive():
            preface = await _heard(protocol, data)
            if preface:
                protocol = await self._switch(protocol.ground, preface)
            await self._wire.drain()  # who sends requests without reading the answers has to read first

    async def _receive(self) -> bytes:
        try:
            return await self._wire.receive()
        except OSError:
            return b""  # the client broke the connection: for us it has left

    async def _switch(self, ground: Ground, data: bytes) -> Http2:
        """The client speaks HTTP/2 after all, by prior knowledge."""
        self._protocol = protocol = Http2(ground)
        await protocol.initiate()
        await self._send(Updated(idle=protocol.idle))
        await protocol.handle(RawData(data))
        return protocol

    async def _send(self, event: Event) -> None:
        """What hypercorn wants done: bytes sent, the connection closed, or marked idle or busy."""
        if isinstance(event, RawData):
            self._wire.write(event.data)
            await self._wire.drain()
        elif isinstance(event, Closed):
            self._close()
        elif isinstance(event, Updated):
            self._idle.cancel()
            if event.idle:
                self._idle = self._server.deadlines.after(IDLE_FOR, self.close)

    def close(self) -> None:
        """End the connection, because it is idle or the process ends: say so where HTTP has a word for it."""
        if self._protocol is not None:
            self._protocol.say_goodbye()
        self._close()

    def _close(self) -> None:
        """We end the connection, in good order: what is written goes out first."""
        self._closing = True
        self._reading.cancel()


async def _heard(protocol: Http1 | Http2, data: bytes) -> bytes:
    """Give it what was read; returns what is HTTP/2's instead.

    Not in the midst of the exception: one that came of those bytes would show them in the log, with all they hold.
    """
    try:
        await protocol.handle(RawData(data))
    except H2ProtocolAssumedError as assumed:
        return assumed.data
    return b""


def _nursery(tasks: TaskGroup) -> trio.Nursery:
    nursery = tasks._nursery
    assert nursery is not None
    return nursery


async def serve_socket(server: Server, sock: socket.socket, context: ssl.SSLContext | None) -> None:
    """Serve one accepted socket."""
    try:
        prepare(sock)
        connection = Connection(server, sock, context)
    except OSError:
        sock.close()  # it was gone before we looked
        return
    await connection.serve()
