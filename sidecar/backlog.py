"""A backlog: the event blocks that wait for one reader who is slower than the messages come.

Strategy: two bounds, blocks and bytes, and one of two answers when they are reached. Blocks go in and out whole, so
whatever is dropped, no event is ever torn. What a gap means to the reader is for the caller to say.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, TypeAlias

WhenFull: TypeAlias = Literal["disconnect", "drop_oldest"]


class Backlog:
    """A bounded queue of blocks. One block larger than the bound of bytes may wait alone: it could never go else."""

    __slots__ = ("_blocks", "_drop", "dropped", "gap", "max_bytes", "max_events", "size")

    _blocks: deque[bytes]

    def __init__(self, events: int, bytes: int, when_full: WhenFull) -> None:  # noqa: A002 - the configuration's word
        """Hold at most ``events`` blocks (at least 1) of together at most ``bytes`` bytes."""
        self.max_events = events
        self.max_bytes = bytes
        self.size = 0
        """Bytes that wait now."""
        self.dropped = 0
        """Blocks dropped so far."""
        self.gap = False
        """Whether blocks were dropped since the reader was last told."""
        self._blocks = deque()
        self._drop = when_full == "drop_oldest"

    def __len__(self) -> int:
        return len(self._blocks)

    def __repr__(self) -> str:
        full = f"{len(self)}/{self.max_events} blocks, {self.size}/{self.max_bytes} bytes"
        return f"<Backlog {full}, {self.dropped} dropped>"

    def push(self, block: bytes) -> bool:
        """Keep a block. False: it is full, nothing was kept, and the caller ends the stream."""
        size = len(block)
        if self._full(size):
            if not self._drop:
                return False
            self._make_room(size)
        self._blocks.append(block)
        self.size += size
        return True

    def take(self, max_bytes: int) -> list[bytes]:
        """Remove and return the oldest blocks, together at most ``max_bytes`` bytes, but at least one if any waits."""
        taken: list[bytes] = []
        room = max_bytes
        while self._blocks and (len(self._blocks[0]) <= room or not taken):
            block = self._blocks.popleft()
            room -= len(block)
            taken.append(block)
        self.size -= max_bytes - room
        return taken

    def take_gap(self) -> bool:
        """Return whether blocks were dropped before those that `take` gives next, and forget it."""
        gap, self.gap = self.gap, False
        return gap

    def clear(self) -> None:
        """Forget what waits; it does not count as dropped."""
        self._blocks.clear()
        self.size = 0
        self.gap = False

    def _full(self, size: int) -> bool:
        return bool(self._blocks) and (len(self._blocks) >= self.max_events or self.size + size > self.max_bytes)

    def _make_room(self, size: int) -> None:
        while self._full(size):
            self.size -= len(self._blocks.popleft())
            self.dropped += 1
        self.gap = True
