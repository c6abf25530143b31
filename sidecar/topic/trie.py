"""Topic exchanges: a trie of words, and a bounded memory of the routing keys seen.

Strategy: the walk keeps all nodes that match so far, each once, so its cost is bounded by words times matching nodes
and no choice of keys makes it backtrack. A change of the bindings forgets what was remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, Generic

from sidecar.topic.standing import Headers, Standing, V, Values
from sidecar.topic.words import words_of

CACHE_ROOM: Final = 65_536
"""How much a `TopicIndex` remembers: routing keys and the values found for them, counted together."""

_NO_CHILDREN: Final[dict[str, Any]] = {}


class _Node(Generic[V]):
    """A place in the trie: the words that may follow, ``*`` and ``#`` aside, and the values of keys that end here.

    Among a hundred thousand keys what a walk touches is in no cache: so most nodes share one empty dictionary, and what
    is found stands here as it is handed out.
    """

    __slots__ = ("children", "found", "rest", "star", "swallows", "values")

    def __init__(self, word: str) -> None:
        self.children: dict[str, _Node[V]] = _NO_CHILDREN
        self.star: _Node[V] | None = None
        self.rest: _Node[V] | None = None
        self.swallows = word == "#"
        self.values: Values[V] | None = None
        self.found: tuple[V, ...] | None = ()
        """Its values as they are handed out; None: to be gathered."""

    def child(self, word: str) -> _Node[V] | None:
        """Return the place after one more word of a binding key."""
        if word == "*":
            return self.star
        return self.rest if word == "#" else self.children.get(word)

    def grow(self, word: str) -> _Node[V]:
        """Make that place."""
        child: _Node[V] = _Node(word)
        if word == "*":
            self.star = child
        elif word == "#":
            self.rest = child
        elif self.children:
            self.children[word] = child
        else:
            self.children = {word: child}
        return child

    def prune(self, word: str) -> bool:
        """Remove it, if nothing is there; returns whether it was."""
        child = self.child(word)
        assert child is not None
        if child.children or child.star or child.rest or child.values:
            return False
        if word == "*":
            self.star = None
        elif word == "#":
            self.rest = None
        else:
            del self.children[word]
        return True

    def put(self, value: V) -> None:
        """Let a key with this value end here."""
        if self.values is None:
            self.values = Values()
        self.values.add(value)
        self.found = None

    def take(self, value: V) -> None:
        """Let one end here no more."""
        assert self.values is not None
        self.values.remove(value)
        self.found = None

    def gather(self) -> tuple[V, ...]:
        """Put together what is found here."""
        self.found = found = self.values.all() if self.values is not None else ()
        return found

    def rests(self) -> Iterable[_Node[V]]:
        """Yield the nodes reached from here by ``#`` that take no word."""
        node = self.rest
        while node is not None:
            yield node
            node = node.rest


class TopicIndex(Standing[V]):
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
        found = self._find(words_of(routing_key))
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
        ends = [found for node in nodes if (found := node.gather() if node.found is None else node.found)]
        if len(ends) == 1:
            return ends[0]
        return tuple(dict.fromkeys(value for end in ends for value in end))

    def _file(self, binding_key: str, headers: Headers, value: V) -> None:
        node = self._root
        for word in words_of(binding_key):
            node = node.child(word) or node.grow(word)
        node.put(value)
        self._forget()

    def _unfile(self, binding_key: str, headers: Headers, value: V) -> None:
        path = [self._root]
        for word in words_of(binding_key):
            child = path[-1].child(word)
            assert child is not None
            path.append(child)
        path[-1].take(value)
        for parent, word in zip(path[-2::-1], reversed(words_of(binding_key)), strict=True):
            if not parent.prune(word):
                break
        self._forget()


def _step(nodes: list[_Node[V]], word: str) -> list[_Node[V]]:
    """Return the nodes that stand after one more word, each once."""
    after: list[_Node[V]] = []
    repeats = False
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
