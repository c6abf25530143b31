"""The bytes between RabbitMQ and aiormq: a trio stream, with the deliveries taken out on the way.

Strategy: this is the one file that touches aiormq's insides (pyproject pins them, tests/broker/test_transport.py says
when they have moved). aiormq asks a `TransportFactory` for a reader and a writer. It gets an `asyncio.StreamReader`
that is fed what the splitter leaves, and a writer that is a bounded buffer. Two trio tasks move the bytes. A chunk is
read, split, and its deliveries are handed over, all in one step: nothing is scheduled between socket and hub.

What is read together is written together, to every subscriber. So where delivering has become work, the next chunk
is given a moment to grow (`sidecar.broker.pace`).

Two things bite. aiormq takes a connection for dead that shows it no frame for a while, but under steady traffic the
broker sends no heartbeats and the deliveries never reach aiormq: so it is fed one whenever anything was heard. And a
peer that fell silent must be noticed whoever waits for what: so silence is counted here, on the bytes themselves.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import pamqp.frame
import trio
from aiormq.connection import Connection, TransportFactory
from pamqp import commands
from yarl import URL

from sidecar.amqp import HEARTBEAT, Delivery, Splitter
from sidecar.broker.pace import Pace

READ_SIZE: Final = 96 * 1024
"""Bytes asked of the socket at once; under load it is what makes batches.

From 128 KiB on glibc maps new pages for each read and gives them back: 16 µs instead of 6.
"""

UNREAD_LIMIT: Final = 1024 * 1024
"""Bytes of ordinary frames that may wait for aiormq; at twice as many the socket is read no further."""

UNSENT_LIMIT: Final = 64 * 1024
"""Bytes that may wait for the socket before `drain` waits."""

_CLOSES = (b"\x00\x0a\x00\x32", b"\x00\x14\x00\x28")  # Connection.Close and Channel.Close: class and method


async def open_stream(host: str, port: int, context: ssl.SSLContext | None) -> trio.abc.Stream:
    """Open a TCP connection, and TLS over it where a context is given (SNI and verification by `host`).

    Raises OSError, or trio.BrokenResourceError caused by an ssl.SSLError. The caller holds the timeout.
    """
    stream = await trio.open_tcp_stream(host, port)
    if context is None:
        return stream
    secured = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(secured)
        raise
    return secured


async def connect(url: URL, transport: Transport, client_properties: dict[str, Any]) -> Connection:
    """Open an AMQP connection over the transport (asyncio). Raises aiormq's errors."""
    connection = Connection(url, transport_factory=transport, client_properties=client_properties)
    # Bounded, it keeps for ever whoever puts a frame in after the end; what may wait here is bounded anyway (`Writer`).
    connection.write_queue = asyncio.Queue()
    await connection.connect()
    return connection


class Transport(TransportFactory):
    """One connection's bytes, in both directions, from `run` until either side ends them."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        loop: asyncio.AbstractEventLoop,
        splitter: Splitter,
        deliver: Callable[[Sequence[Delivery]], None],
        pace: Pace,
    ) -> None:
        self.farewell: commands.Connection.Close | None = None
        self.ended: str | None = None
        self._stream = stream
        self._splitter = splitter
        self._deliver = deliver
        self._pace = pace
        self._reader = asyncio.StreamReader(limit=UNREAD_LIMIT, loop=loop)
        self._gate = _Gate()
        self._reader.set_transport(cast("asyncio.Transport", self._gate))
        self._writer = Writer(loop)
        self._scope = trio.CancelScope(shield=True)  # a cancelled owner says goodbye over it, then aborts it
        self._heard = False

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """What aiormq asks for (asyncio): the reader and the writer of a stream that is open already."""
        return self._reader, cast("asyncio.StreamWriter", self._writer)

    async def run(self) -> None:
        """Move bytes until the connection ends or is aborted, whoever is cancelled; `ended` then says why."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, nursery.cancel_scope)
                    self._end(await self._receive())
                    nursery.cancel_scope.cancel()
        finally:
            self._end("the connection was given up")
            await trio.aclose_forcefully(self._stream)

    async def watch(self, heartbeat: float) -> None:
        """Keep aiormq believing while bytes come, and abort once none came for twice `heartbeat` seconds.

        Begin it when the connection is open: during the handshake a heartbeat would be taken for an answer.
        """
        silent = 0
        while True:
            await trio.sleep(heartbeat / 2)
            if self.ended is not None:
                return  # the reader has heard the end, and must hear nothing after it
            silent = 0 if self._heard else silent + 1
            if silent >= 4:
                self.abort(f"nothing was heard of the broker for {2 * heartbeat:g} s")
            elif self._heard and not self._splitter.broken:
                self._reader.feed_data(HEARTBEAT)
            self._heard = False

    def abort(self, reason: str) -> None:
        """End the connection now, whatever waits to be sent."""
        self._end(reason)
        self._scope.cancel()

    async def _receive(self) -> str:
        """Read, split and hand over until the end. Returns why it ended."""
        while not self._splitter.broken:
            if self._gate.closed:
                await self._gate.opened()
            try:
                data = await self._stream.receive_some(READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                return f"the connection broke: {_words(error.__cause__ or error)}"
            if not data:
                return "the broker closed the connection"
            self._heard = True
            began = trio.current_time()
            count = self._take(bytes(data))
            pause = self._pace.pause(began, trio.current_time(), count) if count else 0.0
            if pause and len(data) < READ_SIZE:  # where it was full, more is here already
                await trio.sleep(pause)
        return "the broker sent bytes that are not AMQP 0-9-1"

    def _take(self, data: bytes) -> int:
        """Split and hand over; returns how many messages became whole."""
        deliveries, rest = self._splitter.feed(data)
        if deliveries:
            self._deliver(deliveries)
        if rest and self.ended is None:
            if any(close in rest for close in _CLOSES):
                rest = legible(rest)
                self.farewell = _farewell(rest) or self.farewell
            self._reader.feed_data(rest)
        return len(deliveries)

    async def _send(self, ended: trio.CancelScope) -> None:
        while True:
            data = await self._writer.take()
            if data is None:
                ended.cancel()
                return
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return  # the reading side learns why
            self._writer.sent()

    def _end(self, reason: str) -> None:
        if self.ended is None:
            self.ended = reason
            self._reader.feed_eof()
            self._writer.end(reason)


def _words(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _farewell(frames: bytes) -> commands.Connection.Close | None:
    """The broker's Connection.Close (AMQP 0-9-1 §1.4.2.9) among whole frames; its words explain every refusal."""
    try:
        while frames:
            length, _, frame = pamqp.frame.unmarshal(frames)
            if isinstance(frame, commands.Connection.Close):
                return frame
            frames = frames[length:]
    except (pamqp.exceptions.PAMQPException, ValueError):  # aiormq meets it too, and ends the connection
        pass
    return None


def legible(frames: bytes) -> bytes:
    """The same whole frames, with question marks where the text of a Close is not UTF-8.

    RabbitMQ cuts it after 252 bytes, and so through a letter; to aiormq that is the end of the connection.
    """
    mended, start = bytearray(frames), 0
    while start + 14 <= len(frames):
        if frames[start] == 1 and frames[start + 7 : start + 11] in _CLOSES:
            text = slice(start + 14, start + 14 + frames[start + 13])
            mended[text] = _with_question_marks(mended[text])
        start += 8 + int.from_bytes(frames[start + 3 : start + 7])
    return bytes(mended)


def _with_question_marks(text: bytearray) -> bytearray:
    while True:
        try:
            text.decode()
        except UnicodeDecodeError as error:
            text[error.start : error.end] = b"?" * (error.end - error.start)
        else:
            return text


class _Gate:
    """What asyncio.StreamReader calls when it holds too much, and when it has room again (asyncio.ReadTransport)."""

    def __init__(self) -> None:
        self._open = trio.Event()
        self._open.set()

    @property
    def closed(self) -> bool:
        return not self._open.is_set()

    def pause_reading(self) -> None:
        self._open = trio.Event()

    def resume_reading(self) -> None:
        self._open.set()

    async def opened(self) -> None:
        await self._open.wait()


class Writer:
    """What aiormq uses of an asyncio.StreamWriter. Its methods are asyncio's, but for `take`, which trio calls.

    Unsent bytes are bounded by aiormq itself: it sends no further call on a channel before the answer to the last one,
    waits in `drain` after each message it publishes, and counts its heartbeats.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.transport = self
        self._loop = loop
        self._unsent: list[bytes] = []
        self._size = 0
        self._wake = trio.Event()
        self._closing = False
        self._ended: str | None = None
        self._drained: list[asyncio.Future[None]] = []
        self._closed: list[asyncio.Future[None]] = []

    def write(self, data: bytes) -> None:
        """Buffer bytes for the socket; dropped when it is closed."""
        if not self._closing:
            self._unsent.append(data)
            self._size += len(data)
            self._wake.set()

    async def drain(self) -> None:
        """Wait until no more than `UNSENT_LIMIT` waits for the socket. Raises ConnectionResetError at its end."""
        if self._ended is None and self._size > UNSENT_LIMIT:
            await self._wait_among(self._drained)
        if self._ended is not None:
            raise ConnectionResetError(self._ended)

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self._closing = True
        self._wake.set()

    def abort(self) -> None:
        """Close it now."""
        self._unsent.clear()
        self.close()

    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._closing

    async def wait_closed(self) -> None:
        """Wait for the end of the connection."""
        if self._ended is None:
            await self._wait_among(self._closed)

    def can_write_eof(self) -> bool:
        """No: a half-closed AMQP connection has no use."""
        return False

    def write_eof(self) -> None:
        """Not possible, see `can_write_eof`."""
        raise NotImplementedError

    async def take(self) -> bytes | None:
        """Wait for bytes to send (trio); None when there will be none."""
        while not self._unsent:
            if self._closing:
                return None
            self._wake = trio.Event()
            await self._wake.wait()
        data = b"".join(self._unsent)
        self._unsent.clear()
        return data

    def sent(self) -> None:
        """What was taken is in the socket."""
        self._size = sum(map(len, self._unsent))
        if self._size <= UNSENT_LIMIT:
            _release(self._drained)

    def end(self, reason: str) -> None:
        """The connection is no more."""
        self._ended = reason
        self._closing = True
        self._unsent.clear()
        self._wake.set()
        _release(self._drained)
        _release(self._closed)

    async def _wait_among(self, waiting: list[asyncio.Future[None]]) -> None:
        future = self._loop.create_future()
        waiting.append(future)
        await future


def _release(waiting: list[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
    waiting.clear()
