"""Who hears a stream's live messages: its subscriptions by exchange, filter value and binding key.

Strategy: one index for each exchange and each filter value that a route names, so that a message costs the same whether
ten or ten thousand tenants listen. Filter values are looked at only while a subscription asks for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sidecar.amqp import Delivery
from sidecar.hub.landmarks import value_of
from sidecar.hub.subscription import Subscription
from sidecar.topic import Index, index_for

Part = tuple[str | None, str | None]
"""An exchange and a filter value; None: any."""


class Hearers:
    """The subscriptions on one stream, to be asked by message."""

    def __init__(self, type_of: Callable[[str | None], str]) -> None:
        """``type_of`` says how the bindings of a route on an exchange match."""
        self._type_of = type_of
        self._indexes: dict[Part, Index[Subscription]] = {}
        self._filtering = 0

    def __repr__(self) -> str:
        return f"<Hearers {len(self._indexes)} indexes>"

    def add(self, subscription: Subscription) -> None:
        """Let a subscription be found."""
        self._filtering += bool(subscription.wanted.filters)
        for part in _parts(subscription):
            index = self._indexes.get(part)
            if index is None:
                index = self._indexes[part] = index_for(self._type_of(part[0]))
            for binding in subscription.wanted.bindings:
                index.add(binding.key, binding.headers, subscription)

    def discard(self, subscription: Subscription) -> None:
        """Let it be found no more."""
        self._filtering -= bool(subscription.wanted.filters)
        for part in _parts(subscription):
            index = self._indexes[part]
            for binding in subscription.wanted.bindings:
                index.discard(binding.key, binding.headers, subscription)
            if not len(index):
                del self._indexes[part]

    def of(self, delivery: Delivery) -> list[Subscription]:
        """The subscriptions that a message concerns, each once."""
        found: list[Subscription] = []
        value = value_of(delivery) if self._filtering else None
        for exchange in (delivery.exchange, None):
            for filter_value in (None,) if value is None else (None, value):
                index = self._indexes.get((exchange, filter_value))
                if index is not None:
                    found += index.match(delivery.routing_key, lambda: delivery.properties.headers)
        return found


def _parts(subscription: Subscription) -> Iterator[Part]:
    wanted = subscription.wanted
    for value in wanted.filters or (None,):
        yield wanted.exchange, value
