"""A queue of the embedded broker: messages that wait, and the consumers they are dealt to in turn.

Strategy: a message is with the queue or with one consumer, until that acknowledges it; a consumer that goes gives back
what it has not acknowledged, to the places where it was. Consumers take turns; one whose prefetch is used up is passed
over. A sink may acknowledge while it is being called: the pump that is running goes on with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import trio

from sidecar.amqp import FieldValue
from sidecar.broker.memory_message import Message, Shelf
from sidecar.broker.port import BrokerError, ReadSink

QUEUED: Final = 100_000
"""Messages that wait in one queue at most; the oldest go first, as with ``x-max-length``."""


class Waiting(NamedTuple):
    """A message in a queue, and its place."""

    place: int
    message: Message
    redelivered: bool


class MemoryConsumer:
    """A `sidecar.broker.port.Consumer`."""

    def __init__(self, queue: MemoryQueue, sink: ReadSink, prefetch: int, consumer_tag: str) -> None:
        self._queue = queue
        self._sink = sink
        self._prefetch = prefetch
        self._consumer_tag = consumer_tag
        self._delivered = 0
        self._held: dict[int, Waiting] = {}

    @property
    def free(self) -> bool:
        """Whether it may have another message."""
        return len(self._held) < self._prefetch

    def give(self, waiting: Waiting) -> None:
        """Hand it a message, until it acknowledges it."""
        self._delivered += 1
        self._held[self._delivered] = waiting
        self._sink.deliver([waiting.message.delivery(self._consumer_tag, self._delivered, waiting.redelivered)])

    def acknowledge(self, delivery_tag: int) -> None:
        """Forget what it has up to this one, and let more come."""
        for tag in [tag for tag in self._held if tag <= delivery_tag]:
            self._queue.drop(self._held.pop(tag))
        self._queue.pump()

    def give_back(self) -> Iterable[Waiting]:
        """Return what it has not acknowledged."""
        held, self._held = self._held, {}
        return [waiting._replace(redelivered=True) for waiting in held.values()]

    async def aclose(self) -> None:
        """Stop; what it has goes back."""
        self._queue.remove(self)
        await trio.lowlevel.checkpoint()

    def end(self, error: BrokerError) -> None:
        """The queue, or the broker, is no more."""
        self._sink.ended(error)


class MemoryQueue:
    """A declared queue."""

    def __init__(
        self,
        name: str,
        shelf: Shelf,
        arguments: Mapping[str, FieldValue],
        *,
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        """``arguments`` are a queue's: ``x-expires`` and ``x-max-length`` count."""
        self.name = name
        self.bytes = 0
        self._shelf = shelf
        self._now = now
        length, expires = arguments.get("x-max-length"), arguments.get("x-expires")
        self._length = min(length, QUEUED) if isinstance(length, int) else QUEUED
        self._expires = expires / 1000 if isinstance(expires, int) else None
        self._places = 0
        self._ready: deque[Waiting] = deque()
        self._consumers: deque[MemoryConsumer] = deque()
        self._unused_since = now()
        self._pumping = False

    def __repr__(self) -> str:
        return f"<MemoryQueue {self.name} {len(self._ready)} ready, {len(self._consumers)} consumers>"

    @property
    def expired(self) -> bool:
        """Whether nobody has consumed it for as long as its ``x-expires`` says."""
        return self._expires is not None and not self._consumers and self._now() - self._unused_since >= self._expires

    def touch(self) -> None:
        """It was declared again: its expiry begins anew."""
        self._unused_since = self._now()

    def take(self, message: Message) -> None:
        """Keep a message for one consumer."""
        self._places += 1
        self._count(message.size)
        self._ready.append(Waiting(self._places, message, False))
        self.pump()
        while len(self._ready) > self._length:
            self.shed()

    def shed(self) -> None:
        """Drop the oldest message that waits, if any does."""
        if self._ready:
            self.drop(self._ready.popleft())

    def drop(self, waiting: Waiting) -> None:
        """A message is dealt with."""
        self._count(-waiting.message.size)

    def consume(self, sink: ReadSink, prefetch: int, consumer_tag: str) -> MemoryConsumer:
        """Let one more take messages; the first are handed over before this returns."""
        consumer = MemoryConsumer(self, sink, prefetch, consumer_tag)
        self._consumers.append(consumer)
        self.pump()
        return consumer

    def remove(self, consumer: MemoryConsumer) -> None:
        """A consumer stops: what it has goes back to where it was."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)
            self._take_back(consumer)
            self._unused_since = self._now()
            self.pump()

    def _take_back(self, consumer: MemoryConsumer) -> None:
        self._ready = deque(sorted([*consumer.give_back(), *self._ready]))

    def pump(self) -> None:
        """Deal out what waits."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._ready and (consumer := self._next_free()) is not None:
                consumer.give(self._ready.popleft())
        finally:
            self._pumping = False

    def _next_free(self) -> MemoryConsumer | None:
        for _ in range(len(self._consumers)):
            consumer = self._consumers[0]
            self._consumers.rotate(-1)
            if consumer.free:
                return consumer
        return None

    def delete(self, error: BrokerError) -> None:
        """Forget everything, and end what consumes it."""
        self.end(error)
        self._ready.clear()
        self._count(-self.bytes)

    def end(self, error: BrokerError) -> None:
        """End what consumes it; what was not acknowledged waits again."""
        consumers, self._consumers = self._consumers, deque()
        self._unused_since = self._now()
        for consumer in consumers:
            self._take_back(consumer)
            consumer.end(error)

    def _count(self, size: int) -> None:
        self.bytes += size
        self._shelf.bytes += size
