"""An exchange of the embedded broker, its bindings, and the taps on it.

Strategy: an exchange is an index of bindings (the hub's own, see `sidecar.topic`) whose values are destinations: taps,
streams and queues. A message goes to each destination once, however many of its bindings match.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Protocol

import trio

from sidecar.broker.exchanges import check_key
from sidecar.broker.memory_message import Message
from sidecar.broker.port import Binding, BrokerRefused, Declaration, Sink
from sidecar.topic import Index, index_for


class Destination(Protocol):
    """What can be bound to an exchange."""

    def __hash__(self) -> int: ...

    def take(self, message: Message) -> None:
        """Take a message that was routed here."""


class MemoryExchange:
    """A declared exchange and its bindings."""

    def __init__(self, name: str, declaration: Declaration, unused: Callable[[MemoryExchange], None]) -> None:
        """``unused`` is called when the last binding has gone."""
        self.name = name
        self.declaration = declaration
        self.index: Index[Destination] = index_for(declaration.type)
        self.stands = True
        self.unused = unused

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


class Bindings:
    """The bindings of one destination."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._standing: dict[tuple[MemoryExchange, Binding], None] = {}

    def add(self, exchange: MemoryExchange, binding: Binding) -> None:
        """Bind; it stands at once. Raises `BrokerRefused`."""
        check_key(binding.key)
        if not exchange.stands:
            raise BrokerRefused(f"no exchange '{exchange.name}'")
        if (exchange, binding) in self._standing:
            return
        try:
            exchange.index.add(binding.key, binding.headers, self._destination)
        except ValueError as error:
            raise BrokerRefused(str(error)) from None
        self._standing[exchange, binding] = None

    def discard(self, exchange: MemoryExchange, binding: Binding) -> None:
        """Unbind; one that does not stand is no mistake."""
        if (exchange, binding) in self._standing:
            del self._standing[exchange, binding]
            exchange.index.discard(binding.key, binding.headers, self._destination)
            if not len(exchange.index):
                exchange.unused(exchange)

    def clear(self) -> None:
        """Remove all of them."""
        for exchange, binding in tuple(self._standing):
            self.discard(exchange, binding)


class MemoryTap:
    """One exclusive queue, which is no queue: its sink hears each message at once."""

    def __init__(
        self, exchange: MemoryExchange, sink: Sink, consumer_tag: str, check: Callable[[], None], taps: set[MemoryTap]
    ) -> None:
        """``check`` raises `BrokerAway` while the broker does not run; it is kept among ``taps`` until it is closed."""
        self._exchange = exchange
        self._sink = sink
        self._consumer_tag = consumer_tag
        self._check = check
        self._taps = taps
        self._delivery_tags = count(1)
        self._bindings = Bindings(self)

    @property
    def exchange_type(self) -> str:
        """What the exchange is."""
        return self._exchange.declaration.type

    async def bind(self, binding: Binding) -> None:
        """Add a binding; it stands at once."""
        await trio.lowlevel.checkpoint()
        self._check()
        if self not in self._taps:
            raise BrokerRefused(f"the tap on exchange '{self._exchange.name}' is closed")
        self._bindings.add(self._exchange, binding)

    async def unbind(self, binding: Binding) -> None:
        """Remove a binding; one that does not stand is no mistake."""
        await trio.lowlevel.checkpoint()
        self._bindings.discard(self._exchange, binding)

    async def aclose(self) -> None:
        """Remove the tap and its bindings."""
        self._taps.discard(self)
        self._bindings.clear()
        await trio.lowlevel.checkpoint()

    def take(self, message: Message) -> None:
        """Hand one message to the sink."""
        self._sink.deliver([message.delivery(self._consumer_tag, next(self._delivery_tags))])

    def lost(self) -> None:
        """Tell the sink that the broker has stopped."""
        self._sink.lost()
