"""The connections to the application: opened when needed, kept a while, bounded in number.

Strategy: h11 keeps the rules of HTTP/1.1, a plain non-blocking socket moves the bytes, and trio is asked only to wait
for it. A higher client (httpx) would pass neither trailers nor 1xx nor an upgrade on, and costs several times the CPU.
What the application did wrong becomes an `UpstreamError` at this door, with the status that the client gets for it.

A kept connection may have been closed by the application meanwhile. One look at the socket before it is used again
tells, but for the moment in which the request is under way: then nothing comes back, and `StaleError` says that the
request may be tried again where that is safe (RFC 9110 §9.2.2).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

import h11
import trio

from sidecar.config.model import UpstreamSettings
from sidecar.deadlines import Deadline, Deadlines

KEPT: Final = 64
"""Idle connections that are kept."""
KEPT_FOR: Final = 60.0
"""Seconds an idle connection is kept (nginx's keepalive_timeout of upstreams is the same)."""
RECEIVE: Final = 65536
LONGEST_HEAD: Final = 65536
"""Bytes of an answer's status line and fields."""


class UpstreamError(Exception):
    """The application gave no whole answer: the status and words that the client gets, and a detail for the log."""

    def __init__(self, status: int, fact: str, detail: str = "") -> None:
        super().__init__(fact)
        self.status = status
        self.fact = fact
        self.detail = detail


class StaleError(UpstreamError):
    """A kept connection turned out closed before a byte of the answer came."""

    def __init__(self) -> None:
        super().__init__(502, "the application closed the connection without an answer")


class Link:
    """One connection to the application; one exchange uses it at a time."""

    __slots__ = ("_heard", "http", "kept", "sock", "used")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=LONGEST_HEAD)
        self.used = False
        """Whether it has served before."""
        self.kept: Deadline | None = None
        """When it is closed, while it is idle."""
        self._heard = False

    async def send(self, data: bytes) -> None:
        """Write all. Raises `OSError`."""
        rest: bytes | memoryview = data
        while rest:
            try:
                rest = memoryview(rest)[self.sock.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.sock)

    async def receive(self) -> bytes:
        """Return the next bytes, ``b""`` at the end. Raises `OSError`."""
        while True:
            await trio.lowlevel.wait_readable(self.sock)
            try:
                return self.sock.recv(RECEIVE)
            except BlockingIOError:
                continue

    async def read(self) -> None:
        """Give the parser more to read. Raises `UpstreamError`."""
        try:
            data = await self.receive()
        except OSError as error:
            data, detail = b"", str(error)
        else:
            detail = ""
        if not data and not self._heard:
            raise StaleError if self.used else UpstreamError(502, _NO_ANSWER, detail)
        self._heard = True
        self.http.receive_data(data)

    def event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Take the next event out of what was read. Raises `UpstreamError`."""
        try:
            return self.http.next_event()
        except h11.RemoteProtocolError as error:
            raise UpstreamError(502, "the application's answer is broken", without_values(error)) from error

    def shut(self) -> None:
        """Say that no more will be sent."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has ended at the other side already

    def silent(self) -> bool:
        """Whether the application has said nothing on it since the last answer: neither an end nor a word too many."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def again(self) -> bool:
        """Make ready for another exchange; whether that is possible."""
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE or self.http.trailing_data[0]:
            return False
        self.http.start_next_cycle()
        self.used, self._heard = True, False
        return True


_NO_ANSWER: Final = "the application closed the connection without an answer"


class Upstream:
    """The application, and the connections to it."""

    def __init__(self, settings: UpstreamSettings, deadlines: Deadlines) -> None:
        """Connects to nothing yet."""
        self.settings = settings
        self.open = 0
        """Connections there are, idle ones included."""
        self._idle: list[Link] = []
        self._deadlines = deadlines
        self._closed = False
        self._unix, self._host, self._port = _address(settings.url)
        self.authority = _authority(settings.url)
        """What ``Host`` says where the client has named none."""

    def __repr__(self) -> str:
        return f"<Upstream {self.settings.url}, {self.open} connections, {len(self._idle)} idle>"

    async def acquire(self, *, fresh: bool = False) -> Link:
        """A kept connection where there is a good one, else (or where ``fresh`` is asked for) a new one.

        The caller gives it back by `release` or `discard`. Raises `UpstreamError`.
        """
        while self._idle and not fresh:
            link = self._idle.pop()
            if link.kept is not None:
                link.kept.cancel()
            if link.silent():
                return link
            self.discard(link)
        return await self._connect()

    def release(self, link: Link) -> None:
        """Keep it for another exchange, if both sides have ended this one in good order."""
        if self._closed or len(self._idle) >= KEPT or not link.again():
            self.discard(link)
            return
        self._idle.append(link)
        link.kept = self._deadlines.after(KEPT_FOR, lambda: self._expire(link))

    def discard(self, link: Link) -> None:
        """Close it; what the application still does for it is cancelled by that."""
        self.open -= 1
        link.sock.close()

    def close(self) -> None:
        """Keep no connection any more."""
        self._closed = True
        for link in tuple(self._idle):
            self._expire(link)

    def _expire(self, link: Link) -> None:
        self._idle.remove(link)
        if link.kept is not None:
            link.kept.cancel()
        self.discard(link)

    async def _connect(self) -> Link:
        if self.open >= self.settings.connections and self._idle:
            self._expire(self._idle[0])
        if self.open >= self.settings.connections:
            raise UpstreamError(503, "too many requests at once; try again later")
        self.open += 1
        try:
            return Link(await self._open())
        except BaseException:
            self.open -= 1
            raise

    async def _open(self) -> socket.socket:
        try:
            with trio.fail_after(self.settings.connect):
                stream = await self._stream()
        except trio.TooSlowError:
            raise UpstreamError(504, "the application does not accept the connection", self.settings.url) from None
        except OSError as error:
            raise UpstreamError(502, "the application cannot be reached", str(error)) from error
        # trio's own socket yields to other tasks after every call; this one is asked without waiting.
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        return sock

    async def _stream(self) -> trio.SocketStream:
        if self._unix:
            return await trio.open_unix_socket(self._unix)
        return await trio.open_tcp_stream(self._host, self._port)


def _address(url: str) -> tuple[str, str, int]:
    if url.startswith("unix:"):
        return url[5:], "", 0
    parts = urlsplit(url)
    return "", parts.hostname or "", parts.port or 80


def _authority(url: str) -> bytes:
    return b"localhost" if url.startswith("unix:") else urlsplit(url).netloc.encode("ascii")


def without_values(error: h11.ProtocolError) -> str:
    """What h11 has to say, without the bytes it quotes: they may be a secret's, and this is for the log."""
    return str(error).partition(": ")[0].partition(" b'")[0].partition(' b"')[0]


def encode(http: h11.Connection, *events: h11.Event) -> bytes:
    """Return what is to be sent for these events. Raises `h11.LocalProtocolError`."""
    return b"".join(_encoded(http, events))


def _encoded(http: h11.Connection, events: Iterable[h11.Event]) -> Iterable[bytes]:
    for event in events:
        yield http.send(event) or b""
