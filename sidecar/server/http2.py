"""Event streams over HTTP/2: nine bytes of a stream's own (RFC 9113 §4.1) around the payload all share.

Strategy: the DATA frames for all streams of one connection are *corked* and leave in one write at the end of the
hub's batch. The flow-control windows are counted down in h2's own objects, so h2 and we always agree on them; who has
no window left is behind, and goes on when the peer has opened it (RFC 9113 §6.9).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from sidecar.backlog import Backlog
from sidecar.server.outlet import BufferedOutlet, Header

if TYPE_CHECKING:
    from h2.connection import H2Connection
    from h2.stream import H2Stream

    from sidecar.hub.port import Lane, Outlet
    from sidecar.server.wire import Wire

CORK: Final = 262144
"""Bytes corked on one connection before they are written without waiting for the end of the batch."""
FRAME: Final = 16384
"""The payload every HTTP/2 peer accepts in one frame (RFC 9113 §4.2)."""


class Link2(Protocol):
    """What an HTTP/2 outlet asks of the protocol below it: the owner of one HTTP/2 connection."""

    wire: Wire
    connection: H2Connection
    cork: Cork

    def start(self, stream_id: int, status: int, headers: Sequence[Header]) -> None:
        """Write the head of a response."""

    def complete(self, stream_id: int) -> None:
        """END_STREAM."""

    def reset(self, stream_id: int) -> None:
        """RST_STREAM."""


class Cork:
    """The DATA frames of one HTTP/2 connection that wait for the end of the batch, and its outlets that are behind."""

    __slots__ = ("_frames", "_size", "connection", "lagging", "wire")

    corked: Final[dict[Cork, None]] = {}
    """The corks that hold frames now, of all connections of this thread; `flush_corks` empties them."""

    def __init__(self, wire: Wire, connection: H2Connection) -> None:
        self.wire = wire
        self.connection = connection
        self.lagging: dict[Http2Outlet, None] = {}
        self._frames: list[bytes | memoryview] = []
        self._size = 0

    def put(self, head: bytes, payload: bytes | memoryview) -> None:
        """Add one frame."""
        if not self._frames:
            self.corked[self] = None
        self._frames += (head, payload)
        self._size += len(head) + len(payload)
        if self._size > CORK:
            self.flush()

    def flush(self) -> None:
        """Write what is corked, in one piece."""
        if self._frames:
            data = b"".join(self._frames)
            self._frames.clear()
            self._size = 0
            del self.corked[self]
            self.wire.write(data)

    def refill(self) -> None:
        """Let those behind go on, in turn, as far as windows and socket allow."""
        progress = True
        while progress and self.lagging and not self.wire.pending:
            progress = False
            for outlet in tuple(self.lagging):
                progress |= outlet.advance()
            self.flush()


def flush_corks() -> None:
    """Write what the batch has left in the corks (the hub calls this after each batch)."""
    for cork in tuple(Cork.corked):
        cork.flush()


class Http2Outlet(BufferedOutlet):
    """The subscriber at the other end of one HTTP/2 stream."""

    __slots__ = ("_head_only", "_rest", "connection", "cork", "link", "stream", "stream_id", "tail")

    def __init__(self, link: Link2, stream_id: int, stream: H2Stream, *, head_only: bool = False) -> None:
        super().__init__()
        self.link = link
        self.cork = link.cork
        self.connection = link.connection
        self.stream = stream
        self.stream_id = stream_id
        self.tail = b"\x00\x00" + stream_id.to_bytes(4, "big")
        """The frame header after its length: type DATA, no flags, the stream."""
        self._rest: memoryview | None = None
        self._head_only = head_only

    @property
    def framing(self) -> str:
        """All HTTP/2 streams are framed alike."""
        return "http/2"

    @property
    def pending(self) -> int:
        """Bytes that wait for this subscriber."""
        return self.backlog.size + (len(self._rest) if self._rest is not None else 0)

    def open_lane(self) -> Lane:
        """A lane for HTTP/2 streams, of any connection."""
        return Http2Lane()

    def start(self, status: int, headers: Sequence[Header], first: bytes = b"") -> None:
        """Write the head at once, and with it the first bytes of the body."""
        self.cork.flush()
        self.link.start(self.stream_id, status, headers)
        if first:
            self.write([first])

    def reply(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Write a whole short answer, as far as the windows allow at once."""
        self.backlog = Backlog(1, 1, "drop_oldest")
        self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        if not self._head_only:
            self.write([body])
        self.finish()

    def write(self, blocks: Sequence[bytes]) -> None:
        """Write whole blocks, or keep them in the backlog while behind."""
        payload = b"".join(blocks)
        if self.fits(len(payload)):
            self.put(payload)
        else:
            self.hold(blocks)
        self.cork.flush()

    def fits(self, size: int) -> bool:
        """Whether so many bytes may go out as one frame now (RFC 9113 §6.9)."""
        return (
            not self.behind
            and size <= FRAME
            and size <= self.stream.outbound_flow_control_window
            and size <= self.connection.outbound_flow_control_window
            and not self.cork.wire.pending
        )

    def put(self, payload: bytes | memoryview) -> None:
        """Cork one DATA frame, counting both windows down."""
        size = len(payload)
        self.stream.outbound_flow_control_window -= size
        self.connection.outbound_flow_control_window -= size
        self.cork.put(size.to_bytes(3, "big") + self.tail, payload)

    def hold(self, blocks: Sequence[bytes]) -> None:
        """Take blocks that do not fit: a batch that can begin now goes whole, later ones wait in the backlog."""
        if self.behind:
            self._keep(blocks)
            return
        self._lag()
        self._rest = memoryview(b"".join(blocks))
        lagging = self.cork.lagging
        while self in lagging and self.advance():
            pass
        if self in lagging:
            self.on_behind()

    def _lag(self) -> None:
        self.behind = True
        self.cork.lagging[self] = None

    def settled(self) -> bool:
        """Whether the socket has taken everything; if not, ``on_clear`` will be called when it has."""
        if not self.behind and self.cork.wire.pending:
            self._lag()
        return not self.behind and not self.cork.wire.closed

    def advance(self) -> bool:
        """Write some of what waits. Returns whether anything was written or the outlet has caught up."""
        if self._rest is None:
            payload = self._take()
            if not payload:
                self._catch_up()
                return True
            self._rest = memoryview(payload)
        return self._advance_rest()

    def _advance_rest(self) -> bool:
        progress = False
        while self._rest is not None and not self.cork.wire.pending:
            room = min(self.stream.outbound_flow_control_window, self.connection.outbound_flow_control_window, FRAME)
            if room <= 0:
                break
            self.put(self._rest[:room])
            self._rest = self._rest[room:] if room < len(self._rest) else None
            progress = True
        return progress

    def _catch_up(self) -> None:
        self.behind = False
        self.cork.lagging.pop(self, None)
        self.on_clear()
        if self.finishing:
            self._complete()

    def _complete(self) -> None:
        self.cork.flush()
        self.link.complete(self.stream_id)

    def abort(self) -> None:
        """Reset this stream; the connection and its other streams live on."""
        self.forget()
        self.cork.flush()
        self.link.reset(self.stream_id)

    def forget(self) -> None:
        """Leave the connection's turn: the stream is over."""
        self.cork.lagging.pop(self, None)
        self._rest = None


class Http2Lane:
    """Subscribers on HTTP/2 streams: nine bytes of their own around the same payload."""

    __slots__ = ("_outlets",)

    def __init__(self) -> None:
        self._outlets: dict[Http2Outlet, None] = {}

    def __len__(self) -> int:
        return len(self._outlets)

    def add(self, outlet: Outlet) -> None:
        """Let it hear."""
        assert isinstance(outlet, Http2Outlet)
        self._outlets[outlet] = None

    def discard(self, outlet: Outlet) -> None:
        """It hears no more."""
        assert isinstance(outlet, Http2Outlet)
        self._outlets.pop(outlet, None)

    def write(self, blocks: Sequence[bytes]) -> int:
        """Cork one frame for each outlet that has room; `flush_corks` writes them."""
        payload = b"".join(blocks)
        size = len(payload)
        if size > FRAME and len(blocks) > 1:
            middle = len(blocks) // 2
            self.write(blocks[:middle])
            return self.write(blocks[middle:])
        held: list[Http2Outlet] = []
        for outlet in self._outlets:
            if outlet.fits(size):
                outlet.put(payload)
            else:
                held.append(outlet)
        for outlet in held:
            outlet.hold(blocks)
        return len(self._outlets)
