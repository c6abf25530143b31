"""Which route a request's path meets (SPEC §2: ``{name}`` is one segment; the most specific route wins).

Strategy: the patterns become a trie over segments, so that finding a route costs by the path's length and not by the
number of routes. At every node a literal segment is tried before a parameter, from the left, and a wrong turn is taken
back. A path is split at its slashes first and each segment decoded after that, so ``%2F`` is a character of a value and
never a new segment (RFC 3986 §2.2). Bytes that are not UTF-8 come out as lone surrogates: no such value passes for a
word of a routing key, so they are refused there and damage nothing on the way.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import unquote_to_bytes

T = TypeVar("T")

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_-]*)\}")
_REFUSED = re.compile(r"[?#{}\x00-\x20\x7f]")


class PatternError(ValueError):
    """A text is no path pattern; `fact` says why, `offset` is the character (from 0) where it goes wrong."""

    def __init__(self, fact: str, offset: int) -> None:
        super().__init__(fact)
        self.fact = fact
        self.offset = offset


@dataclass(frozen=True, slots=True)
class PathPattern:
    """A route's path: `segments` holds decoded literal segments, and None where a parameter stands."""

    text: str
    segments: tuple[str | None, ...]
    parameters: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> PathPattern:
        """Read ``/events/{name}``; raises `PatternError`."""
        if not text.startswith("/"):
            raise PatternError("a path begins with /", 0)
        segments: list[str | None] = []
        parameters: list[str] = []
        offset = 1
        for segment in text[1:].split("/"):
            name = _parameter(segment, offset)
            if name in parameters:
                raise PatternError(f"the parameter {{{name}}} stands twice", offset)
            parameters += [name] if name is not None else []
            segments.append(None if name is not None else decode(segment))
            offset += len(segment) + 1
        return cls(text, tuple(segments), tuple(parameters))

    @property
    def shape(self) -> Hashable:
        """The pattern without its parameters' names: two routes of one shape would take the same paths."""
        return self.segments

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """The parameters' values when the decoded `segments` fit, else None."""
        if len(segments) != len(self.segments):
            return None
        pairs = list(zip(self.segments, segments, strict=True))
        if any(own is not None and own != given for own, given in pairs):
            return None
        return dict(zip(self.parameters, (given for own, given in pairs if own is None), strict=True))


@dataclass(frozen=True, slots=True)
class Match(Generic[T]):
    """What a path met: the route's value and its parameters' values, percent-decoded."""

    value: T
    parameters: dict[str, str]


class _Node(Generic[T]):
    __slots__ = ("leaf", "literals", "parameter")

    def __init__(self) -> None:
        self.literals: dict[str, _Node[T]] = {}
        self.parameter: _Node[T] | None = None
        self.leaf: tuple[PathPattern, T] | None = None

    def child(self, segment: str | None) -> _Node[T]:
        if segment is not None:
            return self.literals.setdefault(segment, _Node())
        if self.parameter is None:
            self.parameter = _Node()
        return self.parameter

    def find(self, segments: Sequence[str], depth: int = 0) -> tuple[PathPattern, T] | None:
        if depth == len(segments):
            return self.leaf
        for node in (self.literals.get(segments[depth]), self.parameter):
            if node is not None and (found := node.find(segments, depth + 1)) is not None:
                return found
        return None


class RouteTable(Generic[T]):
    """Patterns and what they lead to; raises ValueError for two patterns of one shape."""

    def __init__(self, routes: Iterable[tuple[PathPattern, T]]) -> None:
        self._root: _Node[T] = _Node()
        self._deepest = 0
        for pattern, value in routes:
            self._add(pattern, value)

    def _add(self, pattern: PathPattern, value: T) -> None:
        node = self._root
        for segment in pattern.segments:
            node = node.child(segment)
        if node.leaf is not None:
            raise ValueError(f"{pattern.text} takes the same paths as {node.leaf[0].text}")
        node.leaf = (pattern, value)
        self._deepest = max(self._deepest, len(pattern.segments))

    def match(self, raw_path: bytes | str) -> Match[T] | None:
        """The most specific route for a path as it stood in the request line, without its query; None when none is."""
        raw = raw_path.encode("utf-8", "surrogateescape") if isinstance(raw_path, str) else raw_path
        # The count comes first, so that a path of a million slashes costs nothing but the counting.
        if not raw.startswith(b"/") or raw.count(b"/") > self._deepest:
            return None
        segments = [decode(segment) for segment in raw[1:].split(b"/")]
        found = self._root.find(segments)
        if found is None:
            return None
        pattern, value = found
        return Match(value, pattern.match(segments) or {})


def decode(segment: bytes | str) -> str:
    """One segment percent-decoded (RFC 3986 §2.1) as UTF-8; other bytes become lone surrogates (PEP 383)."""
    return unquote_to_bytes(segment).decode("utf-8", "surrogateescape")


def _parameter(segment: str, offset: int) -> str | None:
    """The name in a segment that is a parameter, None for a literal one."""
    if named := _PARAMETER.fullmatch(segment):
        return named[1]
    if segment.startswith("{") and segment.endswith("}"):
        raise PatternError(f"{segment} is no parameter, whose name is of letters, digits, _ and -", offset)
    if refused := _REFUSED.search(segment):
        raise PatternError(_refusal(refused[0]), offset + refused.start())
    return None


def _refusal(character: str) -> str:
    if character in "{}":
        return "a parameter must be a whole segment"
    if character in "?#":
        return f"a path holds no {character}, and a query is read as {{query.name}}"
    return f"a path holds no {character!r}"
