"""A stream of the embedded broker: an append-only log in segments, and those who read it.

Strategy: as RabbitMQ does it. Messages are numbered and go into the newest segment; when that is full another is begun,
and only then retention looks, and drops whole segments at the old end. A reader is a position and a credit; whatever
gives it something to do (a message, a credit) pumps it at once, in the caller's task. A sink may give credit while it
is being called: the pump that is running goes on with it. A filter works as RabbitMQ's does: what is handed over in one
piece comes whole if one message of it has one of the values, else none of it does, and nobody is told.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

import trio

from sidecar.broker.memory_message import Message, Shelf
from sidecar.broker.port import FILTER_VALUE, BrokerError, Offset, ReadSink

SEGMENT_BYTES: Final = 1024 * 1024
"""Bytes of a segment where nothing else is said; RabbitMQ's are 500 MB, more than is kept here at all."""

READ_AT_ONCE: Final = 128
"""Messages that are handed to a reader in one piece at most."""

FILTERED_AT_ONCE: Final = 8
"""The same for a reader with a filter."""


class Segment:
    """Some messages in a row; all but the newest segment are never written again."""

    __slots__ = ("base", "bytes", "messages", "times")

    def __init__(self, base: int) -> None:
        """``base`` is the offset of the first message."""
        self.base = base
        self.bytes = 0
        self.messages: list[Message] = []
        self.times: list[float] = []


class Log:
    """Messages by offset, with retention (seconds, bytes) by whole segments."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        max_age: float | None = None,
        max_bytes: int | None = None,
        segment_bytes: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._shelf = shelf
        self._max_age = max_age
        self._max_bytes = max_bytes
        self._segment_bytes = segment_bytes or SEGMENT_BYTES
        self._now = now
        self._segments = [Segment(0)]
        self.bytes = 0

    def __len__(self) -> int:
        return sum(len(segment.messages) for segment in self._segments)

    @property
    def first(self) -> int:
        """The oldest message's offset; `next` where there is none."""
        return self._segments[0].base

    @property
    def next(self) -> int:
        """The offset that the next message will have."""
        newest = self._segments[-1]
        return newest.base + len(newest.messages)

    def append(self, message: Message) -> None:
        """Add a message at the end, numbered in its header ``x-stream-offset``."""
        newest = self._segments[-1]
        if newest.bytes >= self._segment_bytes:
            newest = Segment(self.next)
            self._segments.append(newest)
            self._retain()
        newest.messages.append(message.with_header("x-stream-offset", self.next))
        newest.times.append(self._now())
        newest.bytes += message.size
        self._count(message.size)

    def shed(self) -> None:
        """Drop the oldest segment, even if it is the newest too."""
        oldest = self._segments.pop(0)
        if not self._segments:
            self._segments.append(Segment(oldest.base + len(oldest.messages)))
        self._count(-oldest.bytes)

    def clear(self) -> None:
        """Drop everything: the stream was deleted."""
        self._count(-self.bytes)
        self._segments = [Segment(self.next)]

    def read(self, offset: int, limit: int) -> tuple[int, list[Message]]:
        """Return at most ``limit`` messages from an offset on, and the offset after them."""
        offset = max(offset, self.first)
        segment = self._segments[bisect_right(self._segments, offset, key=lambda each: each.base) - 1]
        begin = offset - segment.base
        found = segment.messages[begin : begin + limit]
        return offset + len(found), found

    def locate(self, wanted: Offset) -> int:
        """Where reading begins: an offset that has gone is clamped, a later one waited for; a time is whole seconds."""
        match wanted:
            case "first":
                return self.first
            case "last":
                return max(self.first, self.next - 1)
            case "next":
                return self.next
            case datetime():
                return self._since(int(wanted.timestamp()))
        return max(wanted, self.first)

    def _since(self, seconds: int) -> int:
        for segment in self._segments:
            if segment.times and segment.times[-1] >= seconds:
                return segment.base + bisect_left(segment.times, seconds)
        return self.next

    def _retain(self) -> None:
        while len(self._segments) > 1 and (self._is_too_much() or self._is_too_old()):
            self.shed()

    def _is_too_much(self) -> bool:
        return self._max_bytes is not None and self.bytes > self._max_bytes

    def _is_too_old(self) -> bool:
        return self._max_age is not None and self._segments[0].times[-1] < self._now() - self._max_age

    def _count(self, size: int) -> None:
        self.bytes += size
        self._shelf.bytes += size


class MemoryReader:
    """A `sidecar.broker.port.Reader`."""

    def __init__(
        self,
        stream: MemoryStream,
        sink: ReadSink,
        position: int,
        window: int,
        consumer_tag: str,
        filters: Sequence[str],
    ) -> None:
        self._stream = stream
        self._sink = sink
        self._position = position
        self._window = self._credit = window
        self._consumer_tag = consumer_tag
        self._filters = frozenset(filters)
        self._at_once = FILTERED_AT_ONCE if filters else READ_AT_ONCE
        self._delivered = 0
        self._pumping = False

    def credit(self, count: int) -> None:
        """Let so many more come."""
        self._credit = min(self._window, self._credit + count)
        self.pump()

    def pump(self) -> None:
        """Hand over what there is, as far as credit goes."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self in self._stream.readers and self._credit and self._hand_over():
                pass
        finally:
            self._pumping = False

    def _hand_over(self) -> bool:
        self._position, found = self._stream.log.read(self._position, min(self._credit, self._at_once))
        if found and not self._held_back(found):
            begin = self._delivered + 1
            self._credit -= len(found)
            self._delivered += len(found)
            self._sink.deliver([each.delivery(self._consumer_tag, tag) for tag, each in enumerate(found, begin)])
        return bool(found)

    def _held_back(self, found: Sequence[Message]) -> bool:
        values = (each.properties.headers.get(FILTER_VALUE) for each in found)
        return bool(self._filters) and self._filters.isdisjoint(each for each in values if isinstance(each, str))

    async def aclose(self) -> None:
        """Stop."""
        self._stream.readers.pop(self, None)
        await trio.lowlevel.checkpoint()

    def end(self, error: BrokerError) -> None:
        """The stream, or the broker, is no more."""
        self._sink.ended(error)


class MemoryStream:
    """A declared stream."""

    def __init__(self, name: str, log: Log) -> None:
        self.name = name
        self.log = log
        self.readers: dict[MemoryReader, None] = {}

    def __repr__(self) -> str:
        return f"<MemoryStream {self.name} [{self.log.first}, {self.log.next}) {len(self.readers)} readers>"

    def take(self, message: Message) -> None:
        """Append a message and tell the readers."""
        self.log.append(message)
        for reader in tuple(self.readers):
            reader.pump()

    def read(
        self, offset: Offset, sink: ReadSink, window: int, consumer_tag: str, filters: Sequence[str] = ()
    ) -> MemoryReader:
        """Begin to read; the first messages are handed over before this returns."""
        reader = MemoryReader(self, sink, self.log.locate(offset), window, consumer_tag, filters)
        self.readers[reader] = None
        reader.pump()
        return reader

    def delete(self, error: BrokerError) -> None:
        """Forget everything, and end what reads it."""
        self.end(error)
        self.log.clear()

    def end(self, error: BrokerError) -> None:
        """End what reads it."""
        readers, self.readers = self.readers, {}
        for reader in readers:
            reader.end(error)
