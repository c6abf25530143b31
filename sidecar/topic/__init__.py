"""Which bindings a message meets: indexes that dispatch as RabbitMQ's four exchange types do.

Strategy: a match must cost the same whether ten or a hundred thousand other bindings stand beside those that match.
So nothing is ever tried one by one: a topic key walks a trie of words (and is remembered, within a bound), a direct
key is one look-up, and a headers binding is filed under the values it asks for, grouped by the names it asks about,
so that a message costs one look-up for each distinct set of names. What matched is handed out as a tuple that later
changes do not touch.

RabbitMQ is the reference where AMQP 0-9-1 §3.1.3 is silent: an empty routing key has no word at all, ``a..b`` has an
empty one in the middle (``*`` takes it), and headers are compared as values, whatever field type carried them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from sidecar.topic.headers import HeadersIndex
from sidecar.topic.standing import DirectIndex, FanoutIndex, Headers, V
from sidecar.topic.trie import TopicIndex
from sidecar.topic.words import is_word, topic_matches

__all__ = [
    "DirectIndex",
    "FanoutIndex",
    "Headers",
    "HeadersIndex",
    "Index",
    "TopicIndex",
    "index_for",
    "is_word",
    "topic_matches",
]


class Index(Protocol[V]):
    """Bindings of one exchange, each to a value. A (binding key, headers, value) stands once: never add it twice."""

    def add(self, binding_key: str, headers: Headers, value: V) -> None:
        """Add a binding. Raises ValueError for headers the exchange type refuses."""

    def discard(self, binding_key: str, headers: Headers, value: V) -> None:
        """Remove a binding; does nothing where it does not stand."""

    def match(self, routing_key: str, headers: Callable[[], Mapping[str, object]]) -> Collection[V]:
        """Return the values a message goes to, each once. ``headers`` is called only where they decide."""

    def __len__(self) -> int: ...


def index_for(exchange_type: str) -> Index[V]:
    """Return an empty index that dispatches as this type of exchange. Raises ValueError for a type it does not know."""
    match exchange_type:
        case "direct":
            return DirectIndex()
        case "topic":
            return TopicIndex()
        case "fanout":
            return FanoutIndex()
        case "headers":
            return HeadersIndex()
    raise ValueError(f"exchange type {exchange_type!r} is none of direct, topic, fanout, headers")
