"""The embedded broker behind ``memory://``: exchanges, taps, streams and queues in this process, nothing on a network.

Strategy: an exchange is an index of bindings whose values are taps, streams and queues. A publish looks them up and
calls one after the other before it returns, so order is the order of publishing; a tap's sink hears a message at once,
a stream or a queue keeps it for its readers within `sidecar.broker.memory_message.SHELF_BYTES`. What RabbitMQ refuses
is refused, in RabbitMQ's words.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import count

import trio

from sidecar.amqp import Properties
from sidecar.broker.exchanges import PREDECLARED, check_key, check_tappable, check_type
from sidecar.broker.memory_exchange import Destination, MemoryExchange, MemoryTap
from sidecar.broker.memory_message import Message
from sidecar.broker.memory_queue import MemoryConsumer, MemoryQueue
from sidecar.broker.memory_store import Kept, Store
from sidecar.broker.memory_stream import MemoryReader
from sidecar.broker.port import (
    Binding,
    BrokerAway,
    BrokerRefused,
    Declaration,
    Exchange,
    Offset,
    ReadSink,
    Sink,
    StreamQueue,
    WorkQueue,
)

_NO_PROPERTIES = Properties()
_NOT_RUNNING = "the embedded broker is not running"


class MemoryBroker:
    """A `sidecar.broker.port.Broker` without a broker."""

    def __init__(self) -> None:
        self.taps: set[MemoryTap] = set()
        self._exchanges = {name: self._make(name, Declaration(type_)) for name, type_ in PREDECLARED.items()}
        self._store = Store()
        self._consumers = count(1)
        self._running = trio.Event()
        self.reconnects = 0

    @property
    def connected(self) -> bool:
        """Whether `run` runs."""
        return self._running.is_set()

    @property
    def problem(self) -> str | None:
        """Why nothing flows: only because nobody runs it."""
        return None if self.connected else _NOT_RUNNING

    def __repr__(self) -> str:
        return f"<MemoryBroker {len(self._exchanges)} exchanges {len(self.taps)} taps {len(self._store)} queues>"

    async def run(self) -> None:
        """Be there until cancelled; then every tap is lost, and every reader and consumer has ended."""
        self._running.set()
        try:
            await trio.sleep_forever()
        finally:
            self._running = trio.Event()
            for tap in tuple(self.taps):
                tap.lost()
            self._store.end(BrokerAway(_NOT_RUNNING))

    async def wait_connected(self) -> None:
        """Return once `run` has begun."""
        await self._running.wait()

    def check_connected(self) -> None:
        """Raise `BrokerAway` unless it runs."""
        if not self.connected:
            raise BrokerAway(_NOT_RUNNING)

    # Exchanges

    def declare(self, name: str, declaration: Declaration) -> None:
        """Declare an exchange. Raises `BrokerRefused` for another of that name, a reserved name or an unknown type."""
        check_tappable(name)
        check_type(name, declaration.type)
        if name in self._exchanges:
            self._exchanges[name].check_same(declaration)
        elif name.startswith("amq."):
            raise BrokerRefused(f"exchange name '{name}' contains reserved prefix 'amq.*'")
        else:
            self._exchanges[name] = self._make(name, declaration)

    async def tap(self, exchange: Exchange, sink: Sink) -> MemoryTap:
        """Open a tap, without bindings yet; declares the exchange where that is asked."""
        await trio.lowlevel.checkpoint()
        self.check_connected()
        check_tappable(exchange.name)
        tap = MemoryTap(self._declared(exchange), sink, self._consumer_tag(), self.check_connected, self.taps)
        self.taps.add(tap)
        return tap

    async def publish(self, exchange: str, routing_key: str, body: bytes, properties: Properties | None = None) -> None:
        """Publish one message; every sink has heard it when this returns."""
        await trio.lowlevel.checkpoint()
        self.check_connected()
        check_key(routing_key)
        message = Message(exchange, routing_key, body, properties or _NO_PROPERTIES)
        for destination in self._route(message):
            destination.take(message)
        self._store.shelf.tidy()

    def _route(self, message: Message) -> Collection[Destination]:
        """Where a message goes; where that is nowhere, as the alternate exchange says, and so on, never twice."""
        if not message.exchange:  # the default exchange routes to queues by their names (§3.1.3.1)
            kept = self._store.find(message.routing_key)
            return [kept] if kept is not None else []
        exchange = self._exchange(message.exchange)
        if exchange.declaration.internal:
            raise BrokerRefused(f"cannot publish to internal exchange '{message.exchange}'")
        passed: set[str] = set()
        while True:
            found = exchange.index.match(message.routing_key, lambda: message.properties.headers)
            passed.add(exchange.name)
            alternate = exchange.declaration.arguments.get("alternate-exchange")
            if found or alternate in passed or not isinstance(alternate, str) or alternate not in self._exchanges:
                return found
            exchange = self._exchanges[alternate]

    def _declared(self, exchange: Exchange) -> MemoryExchange:
        if exchange.declare is not None:
            self.declare(exchange.name, exchange.declare)
        return self._exchange(exchange.name)

    def _exchange(self, name: str) -> MemoryExchange:
        if name not in self._exchanges:
            raise BrokerRefused(f"no exchange '{name}'")
        return self._exchanges[name]

    def _make(self, name: str, declaration: Declaration) -> MemoryExchange:
        return MemoryExchange(name, declaration, self._unused)

    def _unused(self, exchange: MemoryExchange) -> None:
        """Delete an auto-delete exchange that has lost its last binding (§1.7.2.1.6)."""
        if exchange.declaration.auto_delete:
            exchange.stands = False
            self._exchanges.pop(exchange.name, None)

    # Streams and queues

    async def open_stream(self, stream: StreamQueue) -> None:
        """Declare and bind a stream, or find it."""
        await trio.lowlevel.checkpoint()
        self.check_connected()
        self._bind(self._store.stream(stream), stream.bindings)

    async def read_stream(
        self, name: str, offset: Offset, sink: ReadSink, *, window: int, filters: Sequence[str] = ()
    ) -> MemoryReader:
        """Read a stream."""
        await trio.lowlevel.checkpoint()
        self.check_connected()
        return self._store.stream_named(name).read(offset, sink, window, self._consumer_tag(), filters)

    async def consume(self, queue: WorkQueue, sink: ReadSink, *, prefetch: int) -> MemoryConsumer:
        """Declare and bind a queue where that is asked, and consume it."""
        await trio.lowlevel.checkpoint()
        self.check_connected()
        kept = self._store.queue(queue)
        self._bind(kept, queue.bindings)
        if not isinstance(kept.queue, MemoryQueue):
            raise BrokerRefused(f"'{queue.name}' is a stream: serve it by a route with stream")
        return kept.queue.consume(sink, prefetch, self._consumer_tag())

    def delete_queue(self, name: str) -> None:
        """Delete a stream or a queue, with what is in it; one that does not stand is no mistake."""
        self._store.delete(name)

    def _bind(self, kept: Kept, bindings: Sequence[tuple[Exchange, Binding]]) -> None:
        for exchange, binding in bindings:
            check_tappable(exchange.name)
            kept.bindings.add(self._declared(exchange), binding)

    def _consumer_tag(self) -> str:
        return f"memory.{next(self._consumers)}"
