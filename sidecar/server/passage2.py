"""The client's side of a proxied exchange over HTTP/2, WebSockets of RFC 8441 among them.

Strategy: HEADERS are h2's to write. DATA frames go out as the event streams' do, by the connection's cork, both windows
counted down in h2's own objects; an exchange that finds no room waits in the connection's parking lot, where it is
woken when the peer has opened a window or the socket has taken what lay before it.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import trio
from hypercorn.protocol.events import EndBody, EndData, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.utils import filter_pseudo_headers

from sidecar.http.passing import Fields, Head
from sidecar.http.upstream import UpstreamError
from sidecar.server.http2 import FRAME, Cork
from sidecar.server.intake import Intake
from sidecar.server.passage import TEXT, Link, Passage
from sidecar.server.wire import HIGH_WATER

if TYPE_CHECKING:
    from h2.connection import H2Connection
    from h2.stream import H2Stream

    from sidecar.http.dispatch import Spawn, Taken
    from sidecar.http.outlet import StreamOutlet

FINISH_WITHIN: Final = 5.0
"""Seconds a peer may take to open its window for a short answer of ours."""
NO_ERROR: Final = 0x0
INTERNAL_ERROR: Final = 0x2

_PROOF: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


class Link2(Link, Protocol):
    """An HTTP/2 connection."""

    connection: H2Connection
    cork: Cork
    room: trio.lowlevel.ParkingLot

    def headers(self, stream_id: int, fields: Sequence[tuple[bytes, bytes]], *, last: bool = False) -> None:
        """Write a HEADERS frame."""

    def end_stream(self, stream_id: int) -> None:
        """END_STREAM."""

    def rst(self, stream_id: int, code: int) -> None:
        """RST_STREAM."""

    def acknowledge(self, octets: int, stream_id: int) -> None:
        """Open the windows again by so much."""

    def give(self, stream_id: int, take: Callable[[StreamOutlet, Spawn], Taken]) -> None:
        """Put a taker in the passage's place."""

    async def recycle(self, stream_id: int) -> None:
        """The exchange is over."""


class Passage2(Passage):
    """One exchange on an HTTP/2 stream."""

    def __init__(self, link: Link2, stream_id: int, head: Head, *, key: bytes = b"") -> None:
        """``key`` is the one sent to the application for a WebSocket of RFC 8441."""
        super().__init__(Intake(lambda octets: link.acknowledge(octets, stream_id)))
        self._link = link
        self._id = stream_id
        self._stream: H2Stream = link.connection.streams[stream_id]
        self._tail = b"\x00\x00" + stream_id.to_bytes(4, "big")
        self._head = head
        self._key = key
        self._expects = any(name == b"expect" for name, _ in head.fields)
        self._held: list[bytes] = []
        self._ended = False
        self._last: Fields = []
        if not head.body and not key:
            self.intake.end()

    async def handle(self, event: StreamEvent) -> None:
        """What hypercorn has to say of this request; its body comes by `Intake.feed`."""
        if isinstance(event, EndBody | EndData):
            self.intake.end()
        elif isinstance(event, StreamClosed):
            self.gone()

    # ------------------------------------------------------------------ Client

    @property
    def held(self) -> bool:
        """Whether something is to be sent."""
        return bool(self._held)

    async def receive(self) -> bytes:
        """Take what has come, and open the windows by as much."""
        if self._expects and not self.started:
            self.inform(100, [])
        self._expects = False
        return await self.intake.take()

    def inform(self, status: int, fields: Fields) -> None:
        """Write an interim answer (RFC 9113 §8.1)."""
        self._link.headers(self._id, [(b":status", b"%d" % status), *fields])

    def start(self, status: int, reason: bytes, fields: Fields, *, last: bool) -> None:
        """Write the head."""
        self.started = True
        self._link.headers(self._id, [(b":status", b"%d" % status), *self._link.dated(fields)])

    def switch(self, fields: Fields) -> None:
        """A WebSocket is open: 200 (RFC 8441 §5), if the application has proved that it means this one.

        Raises `UpstreamError`.
        """
        accepted = base64.b64encode(hashlib.sha1(self._key + _PROOF, usedforsecurity=False).digest())
        own = {b"sec-websocket-accept", b"connection", b"upgrade"}
        if (b"sec-websocket-accept", accepted) not in fields:
            raise UpstreamError(502, "the application did not accept the WebSocket")
        self.start(200, b"", [field for field in fields if field[0] not in own], last=False)

    def write(self, data: bytes) -> None:
        """Hold a part of the body."""
        if data and not self._ended:
            self._held.append(data)

    def end(self, trailers: Fields) -> None:
        """END_STREAM comes with `drain`, behind what is held."""
        self._ended, self._last = True, trailers

    def reply(self, status: int, text: str, *, last: bool) -> None:
        """Write a whole short answer."""
        body = f"{text}\n".encode()
        self.start(status, b"", [TEXT, (b"content-length", b"%d" % len(body))], last=False)
        if self._head.method != b"HEAD":
            self._held.append(body)
        self.end([])

    def become(self, take: Callable[[StreamOutlet, Spawn], Taken]) -> None:
        """Give the request to a taker, unless the client has left."""
        if not self.over:
            self._hand_over()
            self._link.give(self._id, take)

    async def drain(self) -> None:
        """Write what is held as DATA frames, as the peer's windows and the socket have room."""
        rest = memoryview(b"".join(self._held))
        self._held.clear()
        while rest and not self.over:
            room = self._room()
            if room <= 0:
                self._link.cork.flush()
                await self._link.room.park()
                continue
            self._put(rest[:room])
            rest = rest[room:]
        self._link.cork.flush()
        self._finish_stream()

    def _room(self) -> int:
        if self._link.wire.pending > HIGH_WATER:
            return 0
        return min(self._stream.outbound_flow_control_window, self._link.connection.outbound_flow_control_window, FRAME)

    def _put(self, payload: memoryview) -> None:
        """One DATA frame, both windows counted down in h2's own objects (as `sidecar.server.http2` does)."""
        size = len(payload)
        self._stream.outbound_flow_control_window -= size
        self._link.connection.outbound_flow_control_window -= size
        self._link.cork.put(size.to_bytes(3, "big") + self._tail, payload)

    def _finish_stream(self) -> None:
        if self._ended and not self.over:
            if self._last:
                self._link.headers(self._id, self._last, last=True)
            else:
                self._link.end_stream(self._id)
            self._ended, self._last = False, []
            if not self.intake.ended:
                self._link.rst(self._id, NO_ERROR)  # the rest of the body is not wanted (RFC 9113 §8.1)

    async def finish(self, *, broken: bool) -> None:
        """The stream is over, or another's."""
        if self.given:
            return
        if not self.over:
            with trio.move_on_after(0 if broken else FINISH_WITHIN):
                await self.drain()
            if broken or self._held or self._ended:
                self._link.rst(self._id, INTERNAL_ERROR)
            self.over = True
            self.intake.close()
        await self._link.recycle(self._id)


def head2(fields: Sequence[tuple[bytes, bytes]], scheme: str, peer: tuple[str, int] | None, *, body: bool) -> Head:
    """The head of an HTTP/2 request (RFC 9113 §8.3.1)."""
    pseudo = {name: value for name, value in fields if name.startswith(b":")}
    plain = filter_pseudo_headers(list(fields))
    return Head(pseudo.get(b":method", b""), pseudo.get(b":path", b""), plain, "2", scheme, peer, body)


def websocket_head(head: Head) -> tuple[Head, bytes]:
    """An extended CONNECT (RFC 8441 §5) as the upgrade an HTTP/1.1 application knows, and the key it must prove."""
    key = base64.b64encode(secrets.token_bytes(16))
    added = [(b"connection", b"upgrade"), (b"upgrade", b"websocket"), (b"sec-websocket-key", key)]
    fields = [field for field in head.fields if field[0] != b"sec-websocket-key"] + added
    return Head(b"GET", head.target, fields, "1.1", head.scheme, head.peer, body=False), key
