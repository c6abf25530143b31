"""What an event stream asks of the server below it: the way out of one request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from sidecar.backlog import Backlog
from sidecar.hub.port import Outlet

Header = tuple[bytes, bytes]


class StreamOutlet(Outlet, Protocol):
    """The hub's port, and what the rest of a stream's life needs beyond it."""

    backlog: Backlog
    behind: bool
    on_full: Callable[[], None]
    on_behind: Callable[[], None]
    on_clear: Callable[[], None]
    on_gap: Callable[[], bytes]

    @property
    def pending(self) -> int:
        """Bytes that wait for this subscriber."""

    def start(self, status: int, headers: Sequence[Header], first: bytes = b"") -> None:
        """Write the head at once, and with it the first bytes of the body."""

    def reply(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Write a whole short answer."""

    def heartbeat(self, block: bytes) -> None:
        """Write this sign of life, unless bytes wait already."""

    def finish(self) -> None:
        """End the response once everything kept has been written."""

    def settled(self) -> bool:
        """Whether the socket has taken everything; if not, ``on_clear`` will be called when it has."""

    def drop(self) -> None:
        """Forget the backlog."""

    def abort(self) -> None:
        """Cut the response now."""

    def forget(self) -> None:
        """The response is over."""
