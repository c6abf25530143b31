"""The streams and queues of the embedded broker by name: declaring them, finding them, letting them go.

Strategy: what RabbitMQ refuses is refused, in its words. A queue that nobody has used for its time is deleted when
somebody looks: at the next message for it, the next declaration, the next who asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.amqp import FieldValue
from sidecar.broker.memory_exchange import Bindings
from sidecar.broker.memory_message import Message, Shelf
from sidecar.broker.memory_queue import MemoryQueue
from sidecar.broker.memory_stream import Log, MemoryStream
from sidecar.broker.port import BrokerError, BrokerRefused, StreamQueue, WorkQueue
from sidecar.broker.queues import inequivalent, missing, no_stream, queue_arguments, stream_arguments

MOST_QUEUES: Final = 10_000
"""Streams and queues that may stand at a time."""


@dataclass(eq=False)
class Kept:
    """A declared stream or queue, as exchanges see it."""

    name: str
    durable: bool
    arguments: Mapping[str, FieldValue]
    queue: MemoryStream | MemoryQueue
    store: Store

    def __post_init__(self) -> None:
        self.bindings = Bindings(self)

    @property
    def expired(self) -> bool:
        """Whether its time is over."""
        return isinstance(self.queue, MemoryQueue) and self.queue.expired

    def take(self, message: Message) -> None:
        """Take a message that was routed here."""
        if self.expired:
            self.store.delete(self.name)
        else:
            self.queue.take(message)

    def check_same(self, durable: bool, arguments: Mapping[str, FieldValue]) -> None:
        """Raise `BrokerRefused` where a declaration differs (§1.7.2.1, equivalence)."""
        if durable != self.durable:
            raise inequivalent(self.name, "durable", durable, self.durable)
        for name in sorted(arguments.keys() | self.arguments.keys()):
            if arguments.get(name) != self.arguments.get(name):
                raise inequivalent(self.name, name, arguments.get(name), self.arguments.get(name))


class Store:
    """Every stream and queue."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self._kept: dict[str, Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, name: str) -> Kept | None:
        """Return what has this name now; None where nothing has."""
        kept = self._kept.get(name)
        if kept is not None and kept.expired:
            self.delete(name)
            return None
        return kept

    def stream(self, spec: StreamQueue) -> Kept:
        """Declare a stream where that is asked, else find it. Raises `BrokerRefused`."""
        if not spec.declare:
            kept = self._existing(spec.name)
            self.stream_named(spec.name)
            return kept
        arguments = stream_arguments(spec)
        return self._same(spec.name, True, arguments) or self._keep(
            spec.name,
            True,
            arguments,
            Log(self.shelf, max_age=spec.max_age, max_bytes=spec.max_bytes, segment_bytes=spec.segment_bytes),
        )

    def stream_named(self, name: str) -> MemoryStream:
        """Return the stream of a name. Raises `BrokerRefused` for one that is missing, or is none."""
        stream = self._existing(name).queue
        if not isinstance(stream, MemoryStream):
            raise no_stream(name)
        return stream

    def queue(self, spec: WorkQueue) -> Kept:
        """Declare a queue where that is asked, else find it. Raises `BrokerRefused`."""
        if not spec.declare:
            return self._existing(spec.name)
        arguments = queue_arguments(spec)
        return self._same(spec.name, spec.durable, arguments) or self._keep(
            spec.name, spec.durable, arguments, MemoryQueue(spec.name, self.shelf, arguments)
        )

    def delete(self, name: str) -> None:
        """Delete a stream or queue; who reads it is told."""
        kept = self._kept.pop(name, None)
        if kept is not None:
            kept.bindings.clear()
            kept.queue.delete(missing(name))
            self.shelf.holders.discard(_holder(kept.queue))

    def end(self, error: BrokerError) -> None:
        """The broker stops: whoever reads is told, and what is not durable goes."""
        for kept in tuple(self._kept.values()):
            kept.queue.end(error)
            if not kept.durable:
                self.delete(kept.name)

    def _existing(self, name: str) -> Kept:
        kept = self.find(name)
        if kept is None:
            raise missing(name)
        return kept

    def _same(self, name: str, durable: bool, arguments: Mapping[str, FieldValue]) -> Kept | None:
        kept = self.find(name)
        if kept is not None:
            kept.check_same(durable, arguments)
            if isinstance(kept.queue, MemoryQueue):
                kept.queue.touch()
        return kept

    def _keep(self, name: str, durable: bool, arguments: Mapping[str, FieldValue], what: Log | MemoryQueue) -> Kept:
        if len(self._kept) >= MOST_QUEUES:
            self._sweep()
        queue = MemoryStream(name, what) if isinstance(what, Log) else what
        kept = self._kept[name] = Kept(name, durable, arguments, queue, self)
        self.shelf.holders.add(what)
        return kept

    def _sweep(self) -> None:
        for name in tuple(self._kept):
            self.find(name)
        if len(self._kept) >= MOST_QUEUES:
            raise BrokerRefused(f"the embedded broker keeps {MOST_QUEUES} queues at most: use RabbitMQ for more")


def _holder(queue: MemoryStream | MemoryQueue) -> Log | MemoryQueue:
    return queue.log if isinstance(queue, MemoryStream) else queue
