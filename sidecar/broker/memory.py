"""The embedded broker behind ``memory://``: exchanges, bindings and taps in this process, nothing on a network.

Strategy: an exchange is an index of bindings (the hub's own, see `sidecar.topic`) whose values are taps. A publish
looks up the taps and calls their sinks one after the other before it returns, so order is the order of publishing and
nothing is ever queued here. What RabbitMQ refuses is refused, in RabbitMQ's words.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import count

import trio

from sidecar.amqp import Delivery, Properties
from sidecar.broker.exchanges import PREDECLARED, check_key, check_tappable, check_type
from sidecar.broker.port import Binding, BrokerAway, BrokerRefused, Declaration, Exchange, Sink
from sidecar.topic import Index, index_for

_NO_PROPERTIES = Properties()


class _Exchange:
    """A declared exchange and its bindings."""

    def __init__(self, name: str, declaration: Declaration) -> None:
        self.name = name
        self.declaration = declaration
        self.index: Index[MemoryTap] = index_for(declaration.type)

    def check_same(self, wanted: Declaration) -> None:
        """Raise `BrokerRefused` where a declaration differs from the exchange (§1.7.2.1, equivalence)."""
        for argument, current, received in zip(
            ("type", "durable", "auto_delete", "internal", "alternate-exchange"),
            _compared(self.declaration),
            _compared(wanted),
            strict=True,
        ):
            if current != received:
                raise BrokerRefused(
                    f"inequivalent arg '{argument}' for exchange '{self.name}': "
                    f"received {_said(received)} but current is {_said(current)}"
                )


def _compared(each: Declaration) -> tuple[object, ...]:
    """What RabbitMQ compares; other arguments may differ."""
    return (each.type, each.durable, each.auto_delete, each.internal, each.arguments.get("alternate-exchange"))


def _said(value: object) -> str:
    return "none" if value is None else f"'{str(value).lower() if isinstance(value, bool) else value}'"


class MemoryTap:
    """One exclusive queue, which is no queue: its sink hears each message at once."""

    def __init__(self, broker: MemoryBroker, exchange: _Exchange, sink: Sink, consumer_tag: str) -> None:
        self._broker = broker
        self._exchange = exchange
        self._sink = sink
        self._consumer_tag = consumer_tag
        self._delivery_tags = count(1)
        self._bindings: set[Binding] = set()
        self._open = True

    @property
    def exchange_type(self) -> str:
        """What the exchange is."""
        return self._exchange.declaration.type

    async def bind(self, binding: Binding) -> None:
        """Add a binding; it stands at once."""
        await trio.lowlevel.checkpoint()
        self._broker.check_connected()
        check_key(binding.key)
        if not self._open:
            raise BrokerRefused(f"the tap on exchange '{self._exchange.name}' is closed")
        self._broker.check_stands(self._exchange)
        if binding in self._bindings:
            return
        try:
            self._exchange.index.add(binding.key, binding.headers, self)
        except ValueError as error:
            raise BrokerRefused(str(error)) from None
        self._bindings.add(binding)

    async def unbind(self, binding: Binding) -> None:
        """Remove a binding; one that does not stand is no mistake."""
        await trio.lowlevel.checkpoint()
        self._drop(binding)

    async def aclose(self) -> None:
        """Remove the tap and its bindings."""
        self._open = False
        for binding in tuple(self._bindings):
            self._drop(binding)
        self._broker.taps.discard(self)
        await trio.lowlevel.checkpoint()

    def _drop(self, binding: Binding) -> None:
        if binding in self._bindings:
            self._bindings.discard(binding)
            self._exchange.index.discard(binding.key, binding.headers, self)
            self._broker.forget_if_unused(self._exchange)

    def deliver(self, exchange: str, routing_key: str, body: bytes, properties: Properties) -> None:
        """Hand one message to the sink."""
        tag = next(self._delivery_tags)
        self._sink.deliver(
            [Delivery(self._consumer_tag, tag, False, exchange, routing_key, body, properties=properties)]
        )

    def lost(self) -> None:
        """Tell the sink that the broker has stopped."""
        self._sink.lost()


class MemoryBroker:
    """A `sidecar.broker.port.Broker` without a broker."""

    def __init__(self) -> None:
        self.taps: set[MemoryTap] = set()
        self._exchanges = {name: _Exchange(name, Declaration(type_)) for name, type_ in PREDECLARED.items()}
        self._consumers = count(1)
        self._running = trio.Event()
        self._stopped = False
        self.reconnects = 0

    @property
    def connected(self) -> bool:
        """Whether `run` runs."""
        return self._running.is_set() and not self._stopped

    @property
    def problem(self) -> str | None:
        """Why nothing flows: only because nobody runs it."""
        return None if self.connected else "the embedded broker is not running"

    def __repr__(self) -> str:
        return f"<MemoryBroker {len(self._exchanges)} exchanges {len(self.taps)} taps>"

    async def run(self) -> None:
        """Be there until cancelled; then every tap is lost."""
        self._stopped = False
        self._running.set()
        try:
            await trio.sleep_forever()
        finally:
            self._stopped = True
            for tap in tuple(self.taps):
                tap.lost()

    async def wait_connected(self) -> None:
        """Return once `run` has begun."""
        await self._running.wait()

    def check_connected(self) -> None:
        """Raise `BrokerAway` unless it runs."""
        if not self.connected:
            raise BrokerAway("the embedded broker is not running")

    def declare(self, name: str, declaration: Declaration) -> None:
        """Declare an exchange. Raises `BrokerRefused` for another of that name, a reserved name or an unknown type."""
        check_tappable(name)
        check_type(name, declaration.type)
        if name in self._exchanges:
            self._exchanges[name].check_same(declaration)
        elif name.startswith("amq."):
            raise BrokerRefused(f"exchange name '{name}' contains reserved prefix 'amq.*'")
        else:
            self._exchanges[name] = _Exchange(name, declaration)

    async def tap(self, exchange: Exchange, sink: Sink) -> MemoryTap:
        """Open a tap, without bindings yet; declares the exchange where that is asked."""
        await trio.lowlevel.checkpoint()
        self.check_connected()
        check_tappable(exchange.name)
        if exchange.declare is not None:
            self.declare(exchange.name, exchange.declare)
        tap = MemoryTap(self, self._exchange(exchange.name), sink, f"memory.{next(self._consumers)}")
        self.taps.add(tap)
        return tap

    async def publish(self, exchange: str, routing_key: str, body: bytes, properties: Properties | None = None) -> None:
        """Publish one message; every sink has heard it when this returns."""
        await trio.lowlevel.checkpoint()
        self.check_connected()
        check_key(routing_key)
        if not exchange:
            return  # the default exchange routes to named queues, and here is none
        target = self._exchange(exchange)
        if target.declaration.internal:
            raise BrokerRefused(f"cannot publish to internal exchange '{exchange}'")
        known = properties or _NO_PROPERTIES
        for tap in self._route(target, routing_key, known):
            tap.deliver(exchange, routing_key, body, known)

    def _route(self, exchange: _Exchange, routing_key: str, properties: Properties) -> Collection[MemoryTap]:
        """The taps a message goes to; where there is none, those of the alternate exchange, and so on, never twice."""
        passed: set[str] = set()
        while True:
            taps = exchange.index.match(routing_key, lambda: properties.headers)
            passed.add(exchange.name)
            alternate = exchange.declaration.arguments.get("alternate-exchange")
            if taps or alternate in passed or not isinstance(alternate, str) or alternate not in self._exchanges:
                return taps
            exchange = self._exchanges[alternate]

    def _exchange(self, name: str) -> _Exchange:
        if name not in self._exchanges:
            raise BrokerRefused(f"no exchange '{name}'")
        return self._exchanges[name]

    def check_stands(self, exchange: _Exchange) -> None:
        """Raise `BrokerRefused` when this very exchange is there no more."""
        if self._exchanges.get(exchange.name) is not exchange:
            raise BrokerRefused(f"no exchange '{exchange.name}'")

    def forget_if_unused(self, exchange: _Exchange) -> None:
        """Delete an auto-delete exchange that has lost its last binding (§1.7.2.1.6)."""
        if exchange.declaration.auto_delete and not len(exchange.index):
            self._exchanges.pop(exchange.name, None)
