"""The hub's port to the wire: what it needs of a connection to give it events.

Strategy: subscribers whose bytes are framed alike stand in one *lane*; the hub hands a lane the blocks of a batch
once, the lane frames them once and writes the same bytes to each of its outlets. What one subscriber cannot take now
goes to its own backlog; nobody else waits. Everything here is synchronous.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol


class Lane(Protocol):
    """The subscribers of one subscription whose framing is the same."""

    def write(self, blocks: Sequence[bytes]) -> int:
        """Write whole event blocks to every outlet of the lane. Returns how many outlets there are."""

    def add(self, outlet: Outlet) -> None:
        """Let this outlet hear what is written from now on."""

    def discard(self, outlet: Outlet) -> None:
        """Stop; does nothing for an outlet that is not in the lane."""

    def __len__(self) -> int: ...


class Outlet(Protocol):
    """One subscriber's way out: an HTTP/1.x connection, or one stream of an HTTP/2 connection."""

    @property
    def framing(self) -> Hashable:
        """Outlets with equal framing may share a lane."""

    def open_lane(self) -> Lane:
        """A new, empty lane for outlets with this framing."""

    def write(self, blocks: Sequence[bytes]) -> None:
        """Write whole blocks to this outlet alone (first bytes, a reset, a heartbeat, what is replayed)."""
