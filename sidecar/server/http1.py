"""Event streams over HTTP/1.0 and HTTP/1.1: the same bytes for everybody.

Strategy: HTTP/1.1 puts a chunk's header and tail around a batch (RFC 9112 §7.1), HTTP/1.0 nothing; h11 keeps no
state for either. So a lane frames a batch once, and the interpreter's own C code calls one ``send`` after the other:
beside a thousand system calls even a line of Python for each is felt.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, Protocol

from sidecar.server.outlet import BufferedOutlet, Header

if TYPE_CHECKING:
    from sidecar.hub.port import Lane, Outlet
    from sidecar.server.wire import Wire

SEALED: Final = 64
"""TLS connections whose bytes are encrypted before they are sent."""
SEALED_BYTES: Final = 262144
"""Bytes that are, where they are many for each."""
_BROKEN: Final = -2


class Link1(Protocol):
    """What an HTTP/1.x outlet asks of the protocol below it."""

    wire: Wire
    chunked: bool

    def start(self, status: int, headers: Sequence[Header], first: bytes) -> None:
        """Write the head, and in the same piece the first bytes that follow it."""

    def reply(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Write a whole answer."""

    def complete(self) -> None:
        """End the message; the connection may be used again."""


class Http1Outlet(BufferedOutlet):
    """The subscriber at the other end of an HTTP/1.x connection."""

    __slots__ = ("lane", "link", "wire")

    def __init__(self, link: Link1) -> None:
        super().__init__()
        self.lane: Http1Lane | None = None
        self.link = link
        self.wire = link.wire

    @property
    def framing(self) -> str:
        """Chunked or, for HTTP/1.0, raw; TLS wires are sent to in another way."""
        return ("https" if self.wire.secure else "http") + ("/1.1" if self.link.chunked else "/1.0")

    @property
    def pending(self) -> int:
        """Bytes that wait for this subscriber."""
        return self.wire.pending + self.backlog.size

    def open_lane(self) -> Lane:
        """A lane for this framing."""
        return Http1Lane(chunked=self.link.chunked, secure=self.wire.secure)

    def start(self, status: int, headers: Sequence[Header], first: bytes = b"") -> None:
        """Write the head at once, and with it the first bytes of the body."""
        self.wire.on_room = self._refill
        self.link.start(status, headers, _frame(first, chunked=self.link.chunked) if first else b"")
        self.behind = bool(self.wire.pending)

    def write(self, blocks: Sequence[bytes]) -> None:
        """Write whole blocks, or keep them in the backlog while behind."""
        if self.behind:
            self._keep(blocks)
            return
        self.wire.write(_frame(b"".join(blocks), chunked=self.link.chunked))
        if self.wire.pending:
            self._fall_behind()

    def reply(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Write a whole short answer."""
        self.link.reply(status, headers, body)
        self._complete()

    def abort(self) -> None:
        """Reset the connection."""
        self.wire.abort()

    def forget(self) -> None:
        """The response is over; the wire may carry others."""
        self.wire.on_room = _nothing

    def stuck(self, data: bytes, taken: int) -> None:
        """The lane's `Wire.send` took only part of ``data``; −2: the connection is broken."""
        if taken == _BROKEN:
            self.wire.abort()
            return
        self.wire.rest(data, taken)
        self._fall_behind()

    def _fall_behind(self) -> None:
        self.behind = True
        if self.lane is not None:
            self.lane.lag(self)
        self.on_behind()

    def settled(self) -> bool:
        """Whether the socket has taken everything; if not, ``on_clear`` will be called when it has."""
        return not self.behind and not self.wire.closed

    def _refill(self) -> None:
        while self.behind and not self.wire.pending:
            payload = self._take()
            if payload:
                self.wire.write(_frame(payload, chunked=self.link.chunked))
            else:
                self._catch_up()

    def _catch_up(self) -> None:
        self.behind = False
        if self.lane is not None:
            self.lane.add(self)
        self.on_clear()
        if self.finishing:
            self._complete()

    def _complete(self) -> None:
        self.wire.on_room = _nothing
        self.link.complete()


class Http1Lane:
    """Subscribers that get the same bytes: those with room in one tight loop, those behind into their backlogs."""

    __slots__ = ("_chunked", "_clear", "_lagging", "_secure")

    def __init__(self, *, chunked: bool, secure: bool = False) -> None:
        """``secure``: all of the lane speak TLS; else none does."""
        self._chunked = chunked
        self._secure = secure
        self._clear: dict[Any, Http1Outlet] = {}
        """By socket; by wire where TLS is spoken."""
        self._lagging: dict[Http1Outlet, None] = {}

    def _way(self, outlet: Http1Outlet) -> Any:
        return outlet.wire if self._secure else outlet.wire.sock

    def __len__(self) -> int:
        return len(self._clear) + len(self._lagging)

    def add(self, outlet: Outlet) -> None:
        """Let it hear; an outlet that was behind and has caught up is added again."""
        assert isinstance(outlet, Http1Outlet)
        outlet.lane = self
        self._lagging.pop(outlet, None)
        if outlet.behind:
            self._lagging[outlet] = None
        else:
            self._clear[self._way(outlet)] = outlet

    def lag(self, outlet: Http1Outlet) -> None:
        """It is behind from now on."""
        if self._clear.pop(self._way(outlet), None) is not None:
            self._lagging[outlet] = None

    def discard(self, outlet: Outlet) -> None:
        """It hears no more."""
        assert isinstance(outlet, Http1Outlet)
        outlet.lane = None
        self._clear.pop(self._way(outlet), None)
        self._lagging.pop(outlet, None)

    def write(self, blocks: Sequence[bytes]) -> int:
        """Frame once; one system call for each outlet that has room."""
        data = _frame(b"".join(blocks), chunked=self._chunked)
        lagging = tuple(self._lagging)
        taken = self._send_to_all(data)
        if sum(taken) != len(data) * len(taken):  # nobody takes more than there is
            outlets = zip(tuple(self._clear.values()), taken, strict=True)
            for outlet, count in outlets:
                if count != len(data):
                    outlet.stuck(data, count)
        for outlet in lagging:
            outlet.write(blocks)
        return len(self._clear) + len(self._lagging)

    def _send_to_all(self, data: bytes) -> list[int]:
        """How many bytes each of those with room has taken, in their order; −1 and `_BROKEN` as for `Wire.send`."""
        return self._send_sealed(data) if self._secure else _send_each(self._clear, repeat(data))

    def _send_sealed(self, data: bytes) -> list[int]:
        """The same over TLS: first some are encrypted, then these are sent.

        By turns each would find the processor's caches full of the other's code, which is a fifth of the cost.
        """
        taken: list[int] = []
        wires: tuple[Wire, ...] = tuple(self._clear)
        step = max(1, min(SEALED, SEALED_BYTES // len(data)))
        for begin in range(0, len(wires), step):
            some = wires[begin : begin + step]
            sealed = [wire.seal(data) for wire in some]
            counts = _send_each([wire.sock for wire in some], sealed)
            for wire, ciphertext, count in zip(some, sealed, counts, strict=True):
                if count != _BROKEN:
                    count = len(data) if wire.sealed_taken(ciphertext, count) else -1
                taken.append(count)
        return taken


def _send_each(socks: Iterable[socket.socket], parts: Iterable[bytes]) -> list[int]:
    """Call `send` of each socket with its part: how much each has taken, 0 if it is full, `_BROKEN` if it is gone."""
    taken: list[int] = []
    calls = map(socket.socket.send, socks, parts)
    while True:
        try:
            taken.extend(calls)
        except BlockingIOError:  # what came before it stands in the list, and the next call is the one behind it
            taken.append(0)
        except OSError:
            taken.append(_BROKEN)
        else:
            return taken


def _frame(payload: bytes, *, chunked: bool) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload) if chunked else payload


def _nothing() -> None: ...
