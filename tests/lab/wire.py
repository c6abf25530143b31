"""Raw HTTP clients that keep every byte and the moment it came: HTTP/1.0 and 1.1 by hand, HTTP/2 on h2.

Strategy: a reader task of the test's nursery feeds a `Response`; the test waits on conditions of it. Nothing is made
convenient that a test may want to see: requests are written as given, chunks are kept apart, an end is ``clean`` only
where the protocol says so (the last chunk, END_STREAM, or a close where the length is the connection's).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import trio

from tests.lab.eventstream import Event, Parser

Address = tuple[str, int] | Path
Headers = Iterable[tuple[str, str]]

PATIENCE = 30.0
CHUNK = 65536


@dataclass
class Response:
    """What a server has answered until now."""

    status: int = 0
    version: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    arrivals: list[tuple[float, bytes]] = field(default_factory=list)
    event_times: list[float] = field(default_factory=list)
    end: str | None = None  # clean, or what broke it
    stream: Parser = field(default_factory=Parser)
    keep_body: bool = True
    _changed: trio.Event = field(default_factory=trio.Event)

    def header(self, name: str) -> str | None:
        """The values of a header field joined by a comma (RFC 9110 §5.3); None where it is absent."""
        found = [value for key, value in self.headers if key.lower() == name]
        return ", ".join(found) if found else None

    @property
    def events(self) -> list[Event]:
        """The events so far."""
        return self.stream.events

    @property
    def data(self) -> list[str]:
        """The data of the events so far."""
        return [event.data for event in self.stream.events]

    async def until(self, condition: Callable[[Response], object], timeout: float = PATIENCE) -> Response:
        """Wait until a condition holds of this response; AssertionError with all that is known otherwise."""
        with trio.move_on_after(timeout):
            while not condition(self):
                if self.end is not None:
                    break
                await self._changed.wait()
        assert condition(self), f"not within {timeout} s: {self}"
        return self

    async def until_head(self, timeout: float = PATIENCE) -> Response:
        """Wait for the status line and header fields."""
        return await self.until(lambda self: self.status, timeout)

    async def until_events(self, number: int, timeout: float = PATIENCE) -> list[Event]:
        """Wait for that many events in all; returns all there are."""
        return (await self.until(lambda self: len(self.events) >= number, timeout)).events

    async def until_end(self, timeout: float = PATIENCE) -> str:
        """Wait for the end; returns ``clean`` or what broke it."""
        return (await self.until(lambda self: self.end is not None, timeout)).end or ""

    async def until_open(self, timeout: float = PATIENCE) -> Response:
        """Wait for the first bytes of an event stream: from here on no message is missed (SPEC §3)."""
        return await self.until(lambda self: b"\n\n" in self.body or self.stream.retry is not None, timeout)

    def feed_head(self, status: int, version: str, headers: Headers) -> None:
        """The reader task's way in."""
        self.status, self.version, self.headers = status, version, list(headers)
        self._wake()

    def feed(self, data: bytes) -> None:
        """The reader task's way in: one chunk, one DATA frame, or one read of the socket."""
        if self.keep_body:
            self.body += data
            self.arrivals.append((trio.current_time(), data))
        before = len(self.events)
        self.stream.feed(data)
        self.event_times += [trio.current_time()] * (len(self.events) - before)
        self._wake()

    def finish(self, end: str) -> None:
        """The reader task's way in; only the first word counts."""
        self.end = self.end or end
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def __str__(self) -> str:
        tail = bytes(self.body[-300:])
        return (
            f"{self.version} {self.status} {self.headers}, {len(self.events)} events, end: {self.end}, tail: {tail!r}"
        )


async def connect(address: Address, tls: ssl.SSLContext | None = None) -> trio.abc.Stream:
    """A byte stream to a server, by TCP or a Unix socket, TLS where a context is given."""
    with trio.fail_after(PATIENCE):
        if isinstance(address, Path):
            return await trio.open_unix_socket(address)
        stream: trio.abc.Stream = await trio.open_tcp_stream(*address)
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_hostname=address[0], https_compatible=True)
            await stream.do_handshake()
        return stream


# HTTP/1.0 and HTTP/1.1


class _Reader:
    """Lines and counted bytes out of a byte stream."""

    def __init__(self, stream: trio.abc.ReceiveStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def some(self) -> bytes:
        data = bytes(self._buffer) or bytes(await self._stream.receive_some(CHUNK))
        self._buffer.clear()
        return data

    async def line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            await self._fill()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    async def exactly(self, number: int) -> bytes:
        while len(self._buffer) < number:
            await self._fill()
        data = bytes(self._buffer[:number])
        del self._buffer[:number]
        return data

    async def _fill(self) -> None:
        data = await self._stream.receive_some(CHUNK)
        if not data:
            raise EOFError("the connection ended in the middle")
        self._buffer += data


@dataclass
class Http1:
    """One HTTP/1.x connection and the response to its one request."""

    stream: trio.abc.Stream
    response: Response

    async def aclose(self) -> None:
        """Leave, as a browser does when its tab closes."""
        await self.stream.aclose()


def request_bytes(method: str, path: str, host: str, version: str, headers: Headers) -> bytes:
    """A request as it stands on the wire; nothing is checked or encoded but Latin-1 (surrogates are bytes)."""
    lines = [f"{method} {path} HTTP/{version}", f"Host: {host}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "surrogateescape")


async def open_http1(
    nursery: trio.Nursery,
    address: Address,
    path: str,
    *,
    method: str = "GET",
    version: str = "1.1",
    headers: Headers = (("Accept", "text/event-stream"),),
    tls: ssl.SSLContext | None = None,
    keep_body: bool = True,
) -> Http1:
    """Send one request on a connection of its own; the response fills by itself in the nursery."""
    stream = await connect(address, tls)
    host = "localhost" if isinstance(address, Path) else "{}:{}".format(*address)
    connection = Http1(stream, Response(keep_body=keep_body))
    await stream.send_all(request_bytes(method, path, host, version, headers))
    nursery.start_soon(_read_http1, stream, connection.response, method)
    return connection


async def _read_http1(stream: trio.abc.Stream, response: Response, method: str) -> None:
    reader = _Reader(stream)
    try:
        await _read_head(reader, response)
        await _read_body(reader, response, method)
    except (EOFError, trio.BrokenResourceError) as broken:
        response.finish(f"aborted: {broken.__cause__ or broken!r}")
    except trio.ClosedResourceError:
        response.finish("left")
    else:
        response.finish("clean")


async def _read_head(reader: _Reader, response: Response) -> None:
    version, status, *_ = (await reader.line()).decode("latin-1").split(" ", 2)
    headers = []
    while line := (await reader.line()).decode("latin-1"):
        name, _, value = line.partition(":")
        headers.append((name, value.strip()))
    response.feed_head(int(status), version, headers)


async def _read_body(reader: _Reader, response: Response, method: str) -> None:
    """RFC 9112 §6.3, the cases a client of ours meets."""
    if method == "HEAD" or response.status in (204, 304):
        return
    if response.header("transfer-encoding") == "chunked":
        while size := int((await reader.line()).split(b";")[0], 16):
            response.feed(await reader.exactly(size))
            assert await reader.exactly(2) == b"\r\n", "a chunk longer than it said"
        await reader.line()
    elif length := response.header("content-length"):
        response.feed(await reader.exactly(int(length)))
    else:
        while data := await reader.some():
            response.feed(data)


async def never_read(address: tuple[str, int], path: str, buffer: int = 4096) -> trio.SocketStream:
    """Ask for an event stream and never read a byte of it; the socket's own buffer is as small as the kernel lets."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    await sock.connect(address)
    stream = trio.SocketStream(sock)
    await stream.send_all(request_bytes("GET", path, "localhost", "1.1", [("Accept", "text/event-stream")]))
    return stream


# HTTP/2


@dataclass
class Http2Stream:
    """One stream of a connection (RFC 9113 §5)."""

    connection: Http2
    id: int
    response: Response
    reading: bool = True  # False: give no window back for this stream

    async def reset(self) -> None:
        """Leave, as a browser does when an EventSource is closed: RST_STREAM with CANCEL."""
        await self.connection.reset(self.id)


class Http2:
    """One HTTP/2 connection with any number of streams; `open_http2` makes one."""

    def __init__(self, stream: trio.abc.Stream, initial_window: int | None) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._streams: dict[int, Http2Stream] = {}
        self.goaway = False
        self.returning_window = True  # False: give no window back for the connection
        self.broken: str | None = None
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        if initial_window is not None:
            window = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: initial_window}
            self.state.local_settings = h2.settings.Settings(client=True, initial_values=window)
        self.settled = trio.Event()

    async def get(
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Headers = (("accept", "text/event-stream"),),
        reading: bool = True,
        keep_body: bool = True,
        end: bool = True,
        flush: bool = True,
    ) -> Http2Stream:
        """Open a stream; its response fills by itself. Without ``end`` a body may follow, by `send`."""
        pseudo = ((":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", path))
        stream = self.ask((*pseudo, *headers), reading=reading, keep_body=keep_body, end=end)
        if flush:
            await self.flush()
        return stream

    def ask(self, fields: Headers, *, reading: bool = True, keep_body: bool = True, end: bool = True) -> Http2Stream:
        """Open a stream with these fields and pseudo fields, whatever they are; `flush` sends it."""
        assert self.broken is None, self.broken
        stream = Http2Stream(self, self.state.get_next_available_stream_id(), Response(keep_body=keep_body), reading)
        self._streams[stream.id] = stream
        self.state.send_headers(stream.id, fields, end_stream=end)
        return stream

    async def send(self, stream_id: int, data: bytes, *, end: bool = True) -> None:
        """Send a part of a request's body."""
        self.state.send_data(stream_id, data, end_stream=end)
        await self.flush()

    async def reset(self, stream_id: int) -> None:
        """Send RST_STREAM (CANCEL), unless the stream has ended already."""
        try:
            self.state.reset_stream(stream_id, 0x8)
        except h2.exceptions.ProtocolError:
            return
        self._streams.pop(stream_id).response.finish("left")
        await self.flush()

    async def widen(self, octets: int, stream_id: int | None = None) -> None:
        """Give window back by hand (RFC 9113 §5.2), to the connection or to one stream."""
        self.state.increment_flow_control_window(octets, stream_id)
        await self.flush()

    async def flush(self) -> None:
        """Write what h2 wants written."""
        async with self._sending:
            await self._stream.send_all(self.state.data_to_send())

    async def aclose(self) -> None:
        """Close the connection without a word."""
        await self._stream.aclose()

    async def _run(self) -> None:
        end = "aborted: the connection ended"
        try:
            while data := await self._stream.receive_some(CHUNK):
                for event in self.state.receive_data(data):
                    self._handle(event)
                await self.flush()
        except (trio.BrokenResourceError, h2.exceptions.ProtocolError) as broken:
            end = f"aborted: {broken.__cause__ or broken!r}"
        except trio.ClosedResourceError:
            end = "left"
        self.broken = end
        for stream in self._streams.values():
            stream.response.finish(end)

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self.settled.set()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = True
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, h2.events.DataReceived):
            self._received(event, stream)
        elif stream is not None:
            self._advance(event, stream)

    def _received(self, event: h2.events.DataReceived, stream: Http2Stream | None) -> None:
        # h2 takes no more frames after a GOAWAY, which may have come later in the same read
        over = self.state.state_machine.state is h2.connection.ConnectionState.CLOSED
        octets = 0 if over else event.flow_controlled_length
        if octets and self.returning_window:
            self.state.increment_flow_control_window(octets)
        if stream is None:
            return
        if octets and stream.reading:
            with contextlib.suppress(h2.exceptions.StreamClosedError):  # it may have ended later in the same read
                self.state.increment_flow_control_window(octets, event.stream_id)
        stream.response.feed(event.data)

    def _advance(self, event: h2.events.Event, stream: Http2Stream) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            fields = [(_text(name), _text(value)) for name, value in event.headers or ()]
            plain = [pair for pair in fields if not pair[0].startswith(":")]
            stream.response.feed_head(int(dict(fields)[":status"]), "HTTP/2", plain)
        elif isinstance(event, h2.events.StreamEnded):
            self._streams.pop(stream.id).response.finish("clean")
        elif isinstance(event, h2.events.StreamReset):
            self._streams.pop(stream.id).response.finish(f"aborted: RST_STREAM {event.error_code}")


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


async def open_http2(
    nursery: trio.Nursery,
    address: Address,
    *,
    tls: ssl.SSLContext | None = None,
    initial_window: int | None = None,
) -> Http2:
    """A connection by prior knowledge, or by ALPN where a context is given; returns when the peer's SETTINGS came."""
    stream = await connect(address, tls)
    if isinstance(stream, trio.SSLStream):
        assert stream.selected_alpn_protocol() == "h2", stream.selected_alpn_protocol()
    connection = Http2(stream, initial_window)
    connection.state.initiate_connection()
    await connection.flush()
    nursery.start_soon(connection._run)
    with trio.fail_after(PATIENCE):
        await connection.settled.wait()
    return connection
