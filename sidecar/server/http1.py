"""Event streams over HTTP/1.0 and HTTP/1.1: the same bytes for everybody.

Strategy: HTTP/1.1 puts a chunk's header and tail around a batch (RFC 9112 §7.1), HTTP/1.0 nothing; h11 keeps no
state for either. So a lane frames a batch once and then calls each socket's ``send``, in one tight loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.server.outlet import BufferedOutlet, Header

if TYPE_CHECKING:
    from sidecar.hub.port import Lane, Outlet
    from sidecar.server.wire import Wire

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
        """Chunked or, for HTTP/1.0, raw."""
        return "http/1.1" if self.link.chunked else "http/1.0"

    @property
    def pending(self) -> int:
        """Bytes that wait for this subscriber."""
        return self.wire.pending + self.backlog.size

    def open_lane(self) -> Lane:
        """A lane for this framing."""
        return Http1Lane(chunked=self.link.chunked)

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

    __slots__ = ("_chunked", "_clear", "_lagging")

    def __init__(self, *, chunked: bool) -> None:
        self._chunked = chunked
        self._clear: dict[Http1Outlet, Callable[[bytes], int]] = {}
        self._lagging: dict[Http1Outlet, None] = {}

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
            self._clear[outlet] = outlet.wire.send

    def lag(self, outlet: Http1Outlet) -> None:
        """It is behind from now on."""
        if self._clear.pop(outlet, None) is not None:
            self._lagging[outlet] = None

    def discard(self, outlet: Outlet) -> None:
        """It hears no more."""
        assert isinstance(outlet, Http1Outlet)
        outlet.lane = None
        self._clear.pop(outlet, None)
        self._lagging.pop(outlet, None)

    def write(self, blocks: Sequence[bytes]) -> int:
        """Frame once; one system call for each outlet that has room."""
        data = _frame(b"".join(blocks), chunked=self._chunked)
        size = len(data)
        stuck: list[tuple[Http1Outlet, int]] = []
        lagging = tuple(self._lagging)
        for outlet, send in self._clear.items():
            try:
                taken = send(data)
            except BlockingIOError:
                taken = 0
            except OSError:
                taken = _BROKEN
            if taken != size:
                stuck.append((outlet, taken))
        for outlet, taken in stuck:
            outlet.stuck(data, taken)
        for outlet in lagging:
            outlet.write(blocks)
        return len(self._clear) + len(self._lagging)


def _frame(payload: bytes, *, chunked: bool) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload) if chunked else payload


def _nothing() -> None: ...
