"""What all indexes share: which bindings stand, how values are filed, and when two field values are equal.

Strategy: a binding stands once in a set, and is filed where its index will find it; a value is handed out once,
however many bindings lead to it. The two exchange types that need no more than this are here.
"""

from __future__ import annotations

from calendar import timegm
from collections.abc import Callable, Collection, Hashable, Mapping
from datetime import datetime
from typing import Generic, TypeAlias, TypeVar

Headers: TypeAlias = tuple[tuple[str, object], ...]
"""A binding's arguments: (name, field value) pairs, ``x-match`` included."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)


class Values(Generic[V]):
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


class Standing(Generic[V]):
    """The bindings that stand, and what every index does with them; where they are filed is the subclass's idea."""

    def __init__(self) -> None:
        self._standing: set[tuple[str, Hashable, V]] = set()

    def __len__(self) -> int:
        return len(self._standing)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self)}>"

    def add(self, binding_key: str, headers: Headers, value: V) -> None:
        entry = (binding_key, frozen_pairs(headers), value)
        assert entry not in self._standing, f"{binding_key!r} {headers!r} stands already for {value!r}"
        self._file(binding_key, headers, value)
        self._standing.add(entry)

    def discard(self, binding_key: str, headers: Headers, value: V) -> None:
        entry = (binding_key, frozen_pairs(headers), value)
        if entry in self._standing:
            self._standing.remove(entry)
            self._unfile(binding_key, headers, value)

    def _file(self, binding_key: str, headers: Headers, value: V) -> None:
        raise NotImplementedError

    def _unfile(self, binding_key: str, headers: Headers, value: V) -> None:
        raise NotImplementedError


class FanoutIndex(Standing[V]):
    """Every message goes to every value."""

    def __init__(self) -> None:
        super().__init__()
        self._values: Values[V] = Values()

    def match(self, routing_key: str, headers: Callable[[], Mapping[str, object]]) -> Collection[V]:
        return self._values.all()

    def _file(self, binding_key: str, headers: Headers, value: V) -> None:
        self._values.add(value)

    def _unfile(self, binding_key: str, headers: Headers, value: V) -> None:
        self._values.remove(value)


class DirectIndex(Standing[V]):
    """A message goes where its routing key is the binding key."""

    def __init__(self) -> None:
        super().__init__()
        self._by_key: dict[str, Values[V]] = {}

    def match(self, routing_key: str, headers: Callable[[], Mapping[str, object]]) -> Collection[V]:
        values = self._by_key.get(routing_key)
        return values.all() if values is not None else ()

    def _file(self, binding_key: str, headers: Headers, value: V) -> None:
        file_under(self._by_key, binding_key, value)

    def _unfile(self, binding_key: str, headers: Headers, value: V) -> None:
        unfile_under(self._by_key, binding_key, value)


def file_under(filed: dict[K, Values[V]], key: K, value: V) -> None:
    filed.setdefault(key, Values()).add(value)


def unfile_under(filed: dict[K, Values[V]], key: K, value: V) -> None:
    values = filed[key]
    values.remove(value)
    if not values:
        del filed[key]


def frozen_pairs(headers: Headers) -> Hashable:
    return tuple((name, frozen(value)) for name, value in headers)


def frozen(value: object) -> Hashable:
    """Return something hashable that is equal where RabbitMQ finds two field values equal.

    There 1, 1.0 and true differ, while a long string equals a byte array and a timestamp its seconds.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if isinstance(value, datetime):
        return (int, timegm(value.utctimetuple()))
    if isinstance(value, list):
        return (list, *map(frozen, value))
    if isinstance(value, dict):
        return (dict, frozenset((name, frozen(member)) for name, member in value.items()))
    if isinstance(value, bytearray):
        return bytes(value)
    assert isinstance(value, Hashable)
    return value if isinstance(value, bytes) else (type(value), value)
