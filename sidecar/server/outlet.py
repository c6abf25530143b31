"""What the outlets of HTTP/1.x and HTTP/2 share: the hub's port to one subscriber, with its backlog.

Strategy: an outlet that the kernel or a window holds up is *behind*: its blocks go to its backlog until there is
room. What was begun (half a chunk, half an event) is always finished first, so no event is ever torn. How blocks
become bytes is the business of `sidecar.server.http1` and `sidecar.server.http2`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from sidecar.backlog import Backlog

REFILL: Final = 65536
"""Bytes taken from a backlog at a time: enough for a full send buffer, little enough to be fair."""

Header = tuple[bytes, bytes]


class BufferedOutlet:
    """What both kinds of outlet share: the backlog and being behind."""

    __slots__ = ("backlog", "behind", "finishing", "on_behind", "on_clear", "on_full", "on_gap")

    def __init__(self) -> None:
        self.behind = False
        self.finishing = False
        self.backlog: Backlog = _NO_BACKLOG
        self.on_full: Callable[[], None] = _nothing
        """Called when the backlog is full and nothing may be dropped."""
        self.on_behind: Callable[[], None] = _nothing
        """Called when the outlet falls behind, after it has accepted everything written so far."""
        self.on_clear: Callable[[], None] = _nothing
        """Called when everything kept has been taken."""
        self.on_gap: Callable[[], bytes] = _no_bytes
        """Gives the block that tells of dropped events, when the reader reads again."""

    def _keep(self, blocks: Sequence[bytes]) -> None:
        if self.finishing:
            return
        for block in blocks:
            if not self.backlog.push(block):
                self.on_full()
                return

    def _take(self) -> bytes:
        """Take the next blocks of the backlog, after a reset where some were dropped before them."""
        reset = self.on_gap() if self.backlog.take_gap() else b""
        return reset + b"".join(self.backlog.take(REFILL))

    def write(self, blocks: Sequence[bytes]) -> None:
        """Write whole blocks, or keep them in the backlog while behind."""
        raise NotImplementedError

    def _complete(self) -> None:
        """Everything is written: end the response."""
        raise NotImplementedError

    def heartbeat(self, block: bytes) -> None:
        """Write this sign of life, unless bytes wait already."""
        if not self.behind:
            self.write([block])

    def finish(self) -> None:
        """End the response once everything kept has been written."""
        self.finishing = True
        if not self.behind:
            self._complete()

    def drop(self) -> None:
        """Forget the backlog: what follows is the end."""
        self.backlog.clear()


_NO_BACKLOG: Final = Backlog(1, 1, "disconnect")


def _nothing() -> None: ...


def _no_bytes() -> bytes:
    return b""
