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

import re
from calendar import timegm
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

Headers: TypeAlias = tuple[tuple[str, object], ...]
"""A binding's arguments: (name, field value) pairs, ``x-match`` included."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)

CACHE_ROOM: Final = 65_536
"""How much a `TopicIndex` remembers: routing keys and the values found for them, counted together."""

MAX_WORD: Final = 255
"""Bytes of a routing key, hence of a word of one (AMQP 0-9-1 §4.2.5.3, short strings)."""

X_MATCH: Final = frozenset({"all", "any", "all-with-x", "any-with-x"})
"""What a headers binding's ``x-match`` may be (RabbitMQ 3.10 and later)."""

_NOT_IN_A_WORD: Final = re.compile(r"[.*#\x00-\x1f\x7f-\x9f]")
_WILD: Final = ("*", "#")
_PRESENT: Final = object()
_NO_CHILDREN: Final[dict[str, Any]] = {}


def is_word(value: str) -> bool:
    """Return whether a value can be one whole word of a routing key, and so can never widen a binding (SPEC §2)."""
    if not value or _NOT_IN_A_WORD.search(value):
        return False
    try:
        return len(value.encode()) <= MAX_WORD
    except UnicodeEncodeError:  # the surrogates that stand for bytes that were not UTF-8
        return False


def topic_matches(binding_key: str, routing_key: str) -> bool:
    """Return whether a topic exchange sends a routing key to a binding: the definition, for one binding at a time."""
    return _words_match(_words(binding_key), _words(routing_key))


def _words_match(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_words_match(pattern[1:], words[start:]) for start in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _words_match(pattern[1:], words[1:])


def _words(key: str) -> list[str]:
    return key.split(".") if key else []


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


class _Values(Generic[V]):
    """Values, each with the number of bindings that lead to it."""

    __slots__ = ("_counts", "_snapshot")

    def __init__(self) -> None:
        self._counts: dict[V, int] = {}
        self._snapshot: tuple[V, ...] | None = ()

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, value: V) -> None:
        self._counts[value] = self._counts.get(value, 0) + 1
        self._snapshot = None

    def remove(self, value: V) -> None:
        self._counts[value] -= 1
        if not self._counts[value]:
            del self._counts[value]
        self._snapshot = None

    def all(self) -> tuple[V, ...]:
        if self._snapshot is None:
            self._snapshot = tuple(self._counts)
        return self._snapshot


class _Standing(Generic[V]):
    """The bindings that stand, and what every index does with them; where they are filed is the subclass's idea."""

    def __init__(self) -> None:
        self._standing: set[tuple[str, Hashable, V]] = set()

    def __len__(self) -> int:
        return len(self._standing)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)}>"

    def add(self, binding_key: str, headers: Headers, value: V) -> None:
        entry = (binding_key, _frozen_pairs(headers), value)
        assert entry not in self._standing, f"{binding_key!r} {headers!r} stands already for {value!r}"
        self._file(binding_key, headers, value)
        self._standing.add(entry)

    def discard(self, binding_key: str, headers: Headers, value: V) -> None:
        entry = (binding_key, _frozen_pairs(headers), value)
        if entry in self._standing:
            self._standing.remove(entry)
            self._unfile(binding_key, headers, value)

    def _file(self, binding_key: str, headers: Headers, value: V) -> None:
        raise NotImplementedError

    def _unfile(self, binding_key: str, headers: Headers, value: V) -> None:
        raise NotImplementedError


class FanoutIndex(_Standing[V]):
    """Every message goes to every value."""

    def __init__(self) -> None:
        super().__init__()
        self._values: _Values[V] = _Values()

    def match(self, routing_key: str, headers: Callable[[], Mapping[str, object]]) -> Collection[V]:
        return self._values.all()

    def _file(self, binding_key: str, headers: Headers, value: V) -> None:
        self._values.add(value)

    def _unfile(self, binding_key: str, headers: Headers, value: V) -> None:
        self._values.remove(value)


class DirectIndex(_Standing[V]):
    """A message goes where its routing key is the binding key."""

    def __init__(self) -> None:
        super().__init__()
        self._by_key: dict[str, _Values[V]] = {}

    def match(self, routing_key: str, headers: Callable[[], Mapping[str, object]]) -> Collection[V]:
        values = self._by_key.get(routing_key)
        return values.all() if values is not None else ()

    def _file(self, binding_key: str, headers: Headers, value: V) -> None:
        _file_under(self._by_key, binding_key, value)

    def _unfile(self, binding_key: str, headers: Headers, value: V) -> None:
        _unfile_under(self._by_key, binding_key, value)


class _Node(Generic[V]):
    """A place in the trie: the words that may follow (``*`` and ``#`` too), and the values of keys that end here."""

    __slots__ = ("children", "rest", "star", "swallows", "values")

    def __init__(self, word: str) -> None:
        self.children: dict[str, _Node[V]] = _NO_CHILDREN  # most nodes are leaves; one empty dict stays in the cache
        self.star: _Node[V] | None = None
        self.rest: _Node[V] | None = None
        self.swallows = word == "#"
        self.values: _Values[V] | None = None

    def grow(self, word: str) -> _Node[V]:
        if not self.children:
            self.children = {}
        child = self.children[word] = _Node(word)
        self._point_out(word)
        return child

    def prune(self, word: str) -> bool:
        child = self.children[word]
        if child.children or child.values:
            return False
        del self.children[word]
        self._point_out(word)
        return True

    def _point_out(self, word: str) -> None:
        if word == "*":
            self.star = self.children.get("*")
        elif word == "#":
            self.rest = self.children.get("#")

    def rests(self) -> Iterable[_Node[V]]:
        """Yield the nodes reached from here by ``#`` that take no word."""
        node = self.rest
        while node is not None:
            yield node
            node = node.rest


class TopicIndex(_Standing[V]):
    """A trie of binding keys, walked with all matching nodes at once, so that no key can make it backtrack."""

    def __init__(self) -> None:
        super().__init__()
        self._root: _Node[V] = _Node("")
        self._known: dict[str, tuple[V, ...]] = {}
        self._room = CACHE_ROOM

    def match(self, routing_key: str, headers: Callable[[], Mapping[str, object]]) -> Collection[V]:
        known = self._known.get(routing_key)
        return known if known is not None else self._remember(routing_key)

    def _remember(self, routing_key: str) -> tuple[V, ...]:
        found = self._find(_words(routing_key))
        self._room -= 1 + len(found)
        if self._room < 0:
            self._forget()
        self._known[routing_key] = found
        return found

    def _forget(self) -> None:
        self._known.clear()
        self._room = CACHE_ROOM

    def _find(self, words: list[str]) -> tuple[V, ...]:
        nodes = [self._root, *self._root.rests()]
        for word in words:
            nodes = _step(nodes, word)
        ends = [node.values.all() for node in nodes if node.values is not None]
        if len(ends) == 1:
            return ends[0]
        return tuple(dict.fromkeys(value for end in ends for value in end))

    def _file(self, binding_key: str, headers: Headers, value: V) -> None:
        node = self._root
        for word in _words(binding_key):
            node = node.children.get(word) or node.grow(word)
        if node.values is None:
            node.values = _Values()
        node.values.add(value)
        self._forget()

    def _unfile(self, binding_key: str, headers: Headers, value: V) -> None:
        path = [self._root]
        for word in _words(binding_key):
            path.append(path[-1].children[word])
        values = path[-1].values
        assert values is not None
        values.remove(value)
        for parent, word in zip(path[-2::-1], reversed(_words(binding_key)), strict=True):
            if not parent.prune(word):
                break
        self._forget()


def _step(nodes: list[_Node[V]], word: str) -> list[_Node[V]]:
    """Return the nodes that stand after one more word, each once."""
    after: list[_Node[V]] = []
    repeats = word in _WILD
    for node in nodes:
        if (child := node.children.get(word)) is not None:
            after.append(child)
            if child.rest is not None:
                after += child.rests()
        if (child := node.star) is not None:
            after.append(child)
            if child.rest is not None:
                after += child.rests()
        if node.swallows:
            after += (node, *node.rests())
            repeats = True
    return list(dict.fromkeys(after)) if repeats else after


class HeadersIndex(_Standing[V]):
    """``any`` bindings filed under each thing they ask for, ``all`` bindings under everything they ask for at once.

    As in RabbitMQ: without ``x-match`` all must match; names that begin with ``x-`` count only for the ``-with-x``
    kinds; a void value asks for presence; ``all`` of nothing matches everything, ``any`` of nothing nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._any: dict[Hashable, _Values[V]] = {}
        self._all: dict[_Asked, dict[Hashable, _Values[V]]] = {}

    def match(self, routing_key: str, headers: Callable[[], Mapping[str, object]]) -> Collection[V]:
        if not self._standing:
            return ()
        message = {name: _frozen(value) for name, value in headers().items()}
        met = [*self._met_any(message), *self._met_all(message)]
        return tuple(dict.fromkeys(value for values in met for value in values.all()))

    def _met_any(self, message: Mapping[str, Hashable]) -> Iterable[_Values[V]]:
        if self._any:
            for name, value in message.items():
                yield from _found(self._any, (name, value))
                yield from _found(self._any, (name, _PRESENT))

    def _met_all(self, message: Mapping[str, Hashable]) -> Iterable[_Values[V]]:
        for asked, filed in self._all.items():
            if message.keys() >= asked.present:
                yield from _found(filed, tuple([message.get(name, _PRESENT) for name in asked.equal]))

    def _file(self, binding_key: str, headers: Headers, value: V) -> None:
        kind, demands = _demands(headers)
        if kind == "any":
            for demand in demands.items():
                _file_under(self._any, demand, value)
        else:
            asked = _Asked.of(demands)
            _file_under(self._all.setdefault(asked, {}), asked.key(demands), value)

    def _unfile(self, binding_key: str, headers: Headers, value: V) -> None:
        kind, demands = _demands(headers)
        if kind == "any":
            for demand in demands.items():
                _unfile_under(self._any, demand, value)
            return
        asked = _Asked.of(demands)
        _unfile_under(self._all[asked], asked.key(demands), value)
        if not self._all[asked]:
            del self._all[asked]


class _Asked(NamedTuple):
    """The names a binding asks about: those that must equal a value, and those that must only be there."""

    equal: tuple[str, ...]
    present: frozenset[str]

    @classmethod
    def of(cls, demands: Mapping[str, Hashable]) -> _Asked:
        present = frozenset(name for name, value in demands.items() if value is _PRESENT)
        return cls(tuple(sorted(demands.keys() - present)), present)

    def key(self, demands: Mapping[str, Hashable]) -> Hashable:
        return tuple(demands[name] for name in self.equal)


def _demands(headers: Headers) -> tuple[str, dict[str, Hashable]]:
    """Return ``any`` or ``all``, and what is asked of each header."""
    x_match = dict(headers).get("x-match", "all")
    if not isinstance(x_match, str) or x_match not in X_MATCH:
        raise ValueError(f"x-match is {x_match!r}; it may be {', '.join(sorted(X_MATCH))}")
    kind, _, with_x = x_match.partition("-")
    counted = [pair for pair in headers if pair[0] != "x-match" and (with_x or not pair[0].startswith("x-"))]
    return kind, {name: _PRESENT if value is None else _frozen(value) for name, value in counted}


def _found(filed: Mapping[K, _Values[V]], key: K) -> Iterable[_Values[V]]:
    values = filed.get(key)
    return () if values is None else (values,)


def _file_under(filed: dict[K, _Values[V]], key: K, value: V) -> None:
    filed.setdefault(key, _Values()).add(value)


def _unfile_under(filed: dict[K, _Values[V]], key: K, value: V) -> None:
    values = filed[key]
    values.remove(value)
    if not values:
        del filed[key]


def _frozen_pairs(headers: Headers) -> Hashable:
    return tuple((name, _frozen(value)) for name, value in headers)


def _frozen(value: object) -> Hashable:
    """Return something hashable that is equal where RabbitMQ finds two field values equal.

    There 1, 1.0 and true differ, while a long string equals a byte array and a timestamp its seconds.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, datetime):
        return (int, timegm(value.utctimetuple()))
    if isinstance(value, list):
        return (list, *map(_frozen, value))
    if isinstance(value, dict):
        return (dict, frozenset((name, _frozen(member)) for name, member in value.items()))
    if isinstance(value, bytearray):
        return bytes(value)
    assert isinstance(value, Hashable)
    return value if isinstance(value, bytes) else (type(value), value)
