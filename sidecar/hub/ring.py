"""The last messages of a stream, in memory, so that a client back after seconds costs the broker nothing.

Strategy: two parallel lists in the order of the stream, searched by bisection; what falls off the old end is cut in
one piece now and then. The law of a ring: every message after `low`, up to `high`, is in it. Offsets may have holes.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_OVERHEAD = 200  # bytes of a message object beside its body, roughly
_DROPPED: Any = None


class Ring(Generic[T]):
    """Messages by offset, bounded by their number and their bytes."""

    def __init__(self, events: int, bytes: int, *, low: int = -1) -> None:  # noqa: A002 - the configuration's word
        """Hold at most ``events`` messages of together ``bytes``; nothing after offset ``low`` has been seen yet."""
        self.low = low
        self.high = low
        self._events = events
        self._bytes = bytes
        self._size = 0
        self._first = 0
        self._offsets: list[int] = []
        self._entries: list[tuple[T, int]] = []

    def __len__(self) -> int:
        return len(self._offsets) - self._first

    def __repr__(self) -> str:
        return f"<Ring ({self.low}, {self.high}] {len(self)} messages, {self._size} bytes>"

    @property
    def room(self) -> tuple[int, int]:
        """How many messages, and bytes, fit before something is dropped."""
        return max(0, self._events - len(self)), max(0, self._bytes - self._size)

    def append(self, offset: int, entry: T, size: int) -> None:
        """Add the stream's next message; the oldest go where the bounds ask for it."""
        self._offsets.append(offset)
        self._entries.append((entry, size + _OVERHEAD))
        self._size += size + _OVERHEAD
        self.high = offset
        while len(self) > self._events or (self._size > self._bytes and len(self) > 1):
            self.low = self._offsets[self._first]
            self._size -= self._entries[self._first][1]
            self._entries[self._first] = _DROPPED  # its place is closed up later, its memory is free now
            self._first += 1
        if self._first > 1024 and self._first * 2 > len(self._offsets):
            del self._offsets[: self._first], self._entries[: self._first]
            self._first = 0

    def extend_left(self, older: Iterable[tuple[int, T, int]], low: int) -> None:
        """Put what stands in the stream after ``low`` and up to the ring's own low in front of it."""
        entries = [entry for entry in older if entry[0] <= self.low]
        self._offsets[: self._first] = [offset for offset, _, _ in entries]
        self._entries[: self._first] = [(entry, size + _OVERHEAD) for _, entry, size in entries]
        self._first = 0
        self._size += sum(size + _OVERHEAD for _, _, size in entries)
        self.low = low

    def at(self, offset: int) -> T | None:
        """Return the message with exactly this offset; None where there is none."""
        index = bisect_left(self._offsets, offset, self._first)
        if index < len(self._offsets) and self._offsets[index] == offset:
            return self._entries[index][0]
        return None

    def after(self, offset: int, limit: int) -> Sequence[tuple[int, T]]:
        """Return at most ``limit`` messages that follow an offset (which must not be before `low`), in order."""
        begin = bisect_right(self._offsets, offset, self._first)
        end = begin + limit
        return [
            (own, entry) for own, (entry, _) in zip(self._offsets[begin:end], self._entries[begin:end], strict=True)
        ]
