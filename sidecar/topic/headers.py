"""Headers exchanges, as RabbitMQ 3.10 to 4.x route them.

Strategy: an ``any`` binding is filed under each thing it asks for, an ``all`` binding under everything at once, among
those that ask about the same names. So a message costs a look-up for each of its headers and one for each distinct
set of names, however many bindings ask for other values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import Final, NamedTuple

from sidecar.topic.standing import Headers, K, Standing, V, Values, file_under, frozen, unfile_under

X_MATCH: Final = frozenset({"all", "any", "all-with-x", "any-with-x"})
"""What a headers binding's ``x-match`` may be (RabbitMQ 3.10 and later)."""

_PRESENT: Final = object()


class HeadersIndex(Standing[V]):
    """``any`` bindings filed under each thing they ask for, ``all`` bindings under everything they ask for at once.

    As in RabbitMQ: without ``x-match`` all must match; names that begin with ``x-`` count only for the ``-with-x``
    kinds; a void value asks for presence; ``all`` of nothing matches everything, ``any`` of nothing nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._any: dict[Hashable, Values[V]] = {}
        self._all: dict[_Asked, dict[Hashable, Values[V]]] = {}

    def match(self, routing_key: str, headers: Callable[[], Mapping[str, object]]) -> Collection[V]:
        if not self._standing:
            return ()
        message = {name: frozen(value) for name, value in headers().items()}
        met = [*self._met_any(message), *self._met_all(message)]
        return tuple(dict.fromkeys(value for values in met for value in values.all()))

    def _met_any(self, message: Mapping[str, Hashable]) -> Iterable[Values[V]]:
        if self._any:
            for name, value in message.items():
                yield from _found(self._any, (name, value))
                yield from _found(self._any, (name, _PRESENT))

    def _met_all(self, message: Mapping[str, Hashable]) -> Iterable[Values[V]]:
        for asked, filed in self._all.items():
            if message.keys() >= asked.present:
                yield from _found(filed, tuple([message.get(name, _PRESENT) for name in asked.equal]))

    def _file(self, binding_key: str, headers: Headers, value: V) -> None:
        kind, demands = _demands(headers)
        if kind == "any":
            for demand in demands.items():
                file_under(self._any, demand, value)
        else:
            asked = _Asked.of(demands)
            file_under(self._all.setdefault(asked, {}), asked.key(demands), value)

    def _unfile(self, binding_key: str, headers: Headers, value: V) -> None:
        kind, demands = _demands(headers)
        if kind == "any":
            for demand in demands.items():
                unfile_under(self._any, demand, value)
            return
        asked = _Asked.of(demands)
        unfile_under(self._all[asked], asked.key(demands), value)
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
    return kind, {name: _PRESENT if value is None else frozen(value) for name, value in counted}


def _found(filed: Mapping[K, Values[V]], key: K) -> Iterable[Values[V]]:
    values = filed.get(key)
    return () if values is None else (values,)
