"""YAML to a tree of plain values that know their places.

Strategy: PyYAML's composer reads the document into nodes with marks; here nodes become `Scalar` (a str), `Mapping`
(a dict) and `Items` (a list), so that whoever works on the values need not know about places, and whoever reports a
mistake can find one. Scalars stay text, with their references replaced: the model's types decide what the text means,
and the value YAML 1.1 would give is kept beside it for the few free tables that want it. Nothing stops at a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import yaml

from sidecar.config.values import GrammarError

_STR, _NULL, _MERGE = (f"tag:yaml.org,2002:{name}" for name in ("str", "null", "merge"))
MOST_LEVELS = 50
_TOO_DEEP = ("nested too deeply", f"at most {MOST_LEVELS} levels")

# What PyYAML raises where a text is not of its tag; its own checks are few.
_UNTYPED = (yaml.YAMLError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError)


class Place(NamedTuple):
    """Line and column, from 1."""

    line: int
    column: int


class Scalar(str):
    """A scalar's text after interpolation; `source` is the text before, `value` what YAML 1.1 makes of it."""

    place: Place
    source: str
    value: object

    __slots__ = ("place", "source", "value")


class Mapping(dict[str, "Tree"]):
    """A mapping; `keys_at` has each key as it stands in the file."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        self.keys_at: dict[str, Scalar] = {}

    def put(self, key: Scalar, value: Tree) -> None:
        """Set a key, remembering where it stands."""
        self[str(key)] = value
        self.keys_at[str(key)] = key


class Items(list["Tree"]):
    """A list."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place


Tree = Scalar | Mapping | Items | None
"""What a document consists of. None stands for an empty value (YAML's null) in a mapping."""

Location = tuple[str | int, ...]
"""The way from the root to a value: keys and indexes."""


class Finding(NamedTuple):
    """A mistake before it is written down: at a location, or (from the YAML itself) at a place.

    `on_key` points at the key instead of its value.
    """

    at: Location
    fact: str
    way_out: str = ""
    place: Place | None = None
    on_key: bool = False


def find(tree: Tree, at: Location, *, on_key: bool = False) -> tuple[Place, str]:
    """The place nearest to a location, and the location's written form (``routes[0].event``)."""
    place, path = tree.place if tree is not None else Place(1, 1), ""
    for index, part in enumerate(at):
        if isinstance(tree, Mapping) and isinstance(part, str):
            key = tree.keys_at.get(part)
            path += ("." if path else "") + (key.source if key is not None else part)
            tree = tree.get(part)
            on_this_key = tree is None or (on_key and index == len(at) - 1)
            place = key.place if key is not None and on_this_key else tree.place if tree is not None else place
        elif isinstance(tree, Items) and isinstance(part, int) and part < len(tree):
            path += f"[{part}]"
            tree = tree[part]
            place = tree.place if tree is not None else place
    return place, path


def read(text: str, interpolate: Callable[[str], str]) -> tuple[Mapping, list[Finding]]:
    """The document's tree and what is wrong with it as YAML; where nothing could be read, an empty tree.

    `interpolate` turns a scalar's text into its value and raises `GrammarError`.
    """
    empty = Mapping(Place(1, 1))
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        return empty, [_unreadable(text, error.position)]
    except yaml.MarkedYAMLError as error:
        return empty, [_syntax(error)]
    except RecursionError:
        return empty, [Finding((), *_TOO_DEEP, Place(1, 1))]
    builder = _Builder(loader, interpolate)
    tree = builder.build(root, ()) if root is not None else None
    if tree is not None and not isinstance(tree, Mapping):
        builder.findings.append(Finding((), "a configuration is a mapping of keys", "like routes:", tree.place))
    return tree if isinstance(tree, Mapping) else empty, builder.findings


class _Builder:
    def __init__(self, loader: yaml.SafeLoader, interpolate: Callable[[str], str]) -> None:
        self._loader = loader
        self._interpolate = interpolate
        self._open: list[yaml.Node] = []
        self.findings: list[Finding] = []

    def build(self, node: yaml.Node, at: Location) -> Tree:
        if isinstance(node, yaml.ScalarNode):
            scalar = self._scalar(node, at)
            return None if scalar.value is None else scalar
        if len(self._open) > MOST_LEVELS:
            self._report(node, at, *_TOO_DEEP)
            return None
        if any(node is outer for outer in self._open):
            self._report(node, at, "an alias of what it stands in", "a value cannot hold itself")
            return None
        self._open.append(node)
        try:
            return self._mapping(node, at) if isinstance(node, yaml.MappingNode) else self._items(node, at)
        finally:
            self._open.pop()

    def _scalar(self, node: yaml.ScalarNode, at: Location) -> Scalar:
        text = node.value
        try:
            text = self._interpolate(text)
        except GrammarError as error:
            self._report(node, at, error.fact, error.way_out)
        scalar = self._text(node, text)
        scalar.source, scalar.value = node.value, self._value(node, text, at)
        return scalar

    def _text(self, node: yaml.Node, text: str) -> Scalar:
        scalar = Scalar(text)
        scalar.place, scalar.source, scalar.value = _place(node.start_mark), text, text
        return scalar

    def _value(self, node: yaml.ScalarNode, text: str, at: Location) -> object:
        plain = node.style is None and self._tag(node.value) == node.tag
        tag = self._tag(text) if plain else node.tag
        try:
            return self._loader.construct_object(yaml.ScalarNode(tag, text))
        except _UNTYPED:
            if not plain:
                self._report(node, at, f"{node.tag} is no tag for this value", "leave the tag out")
            return text

    def _tag(self, text: str) -> str:
        tag: str = self._loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        return tag

    def _items(self, node: yaml.Node, at: Location) -> Items:
        items = Items(_place(node.start_mark))
        for index, child in enumerate(node.value):
            item = self.build(child, (*at, index))
            if item is None:
                self._report(child, (*at, index), "an empty item", "give it a value or leave it out")
                item = self._text(child, "")
            items.append(item)
        return items

    def _mapping(self, node: yaml.Node, at: Location) -> Mapping:
        mapping = Mapping(_place(node.start_mark))
        merged = [value for key, value in node.value if key.tag == _MERGE]
        for key, value in ((key, value) for key, value in node.value if key.tag != _MERGE):
            if not isinstance(key, yaml.ScalarNode):
                self._report(key, at, "a key must be one word", "quote a text that begins with { or [")
                continue
            name = self._scalar(key, at)
            if name in mapping:
                first = mapping.keys_at[name].place.line
                self._report(key, (*at, str(name)), "repeated key", f"it stands in line {first} already")
                continue
            mapping.put(name, self.build(value, (*at, str(name))))
        for value in merged:
            self._merge(mapping, value, at)
        return mapping

    def _merge(self, mapping: Mapping, node: yaml.Node, at: Location) -> None:
        """YAML 1.1's ``<<``: what the mapping says itself wins, then the earlier of several."""
        for source in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            other = self.build(source, at)
            if not isinstance(other, Mapping):
                self._report(source, at, "<< takes mappings", "an alias of one, like <<: *common")
                continue
            for name, value in other.items():
                if name not in mapping:
                    mapping.put(other.keys_at[name], value)

    def _report(self, node: yaml.Node, at: Location, fact: str, way_out: str) -> None:
        self.findings.append(Finding(at, fact, way_out, _place(node.start_mark)))


def scalars(tree: Tree, at: Location = ()) -> Iterator[tuple[Location, Scalar]]:
    """The scalars of a value that is one scalar or a list of them; others are passed over."""
    if isinstance(tree, Scalar):
        yield at, tree
    elif isinstance(tree, Items):
        for index, item in enumerate(tree):
            if isinstance(item, Scalar):
                yield (*at, index), item


def _place(mark: yaml.Mark) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _unreadable(text: str, position: int) -> Finding:
    before = text[:position]
    place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
    return Finding(
        (), f"the character {text[position]!r} may not stand in YAML", 'write it as "\\x.." in quotes', place
    )


def _syntax(error: yaml.MarkedYAMLError) -> Finding:
    mark = error.problem_mark or error.context_mark
    fact, context = error.problem or "no YAML", error.context or ""
    if context.startswith("expected"):
        fact = f"{context} {fact}"
    elif context:
        fact += f" {context}"
    if mark and error.context_mark and error.context_mark.line < mark.line:
        fact += f" that begins in line {error.context_mark.line + 1}"
    return Finding((), re.sub(r"\s+", " ", fact), _hint(fact), _place(mark) if mark else Place(1, 1))


def _hint(fact: str) -> str:
    hints = {
        "'\\t'": "indent with spaces, not with tabs",
        "mapping values are not allowed": "quote a text that holds a colon and a space, and look at the indentation",
        "cannot start any token": "quote a text that begins so",
        "expected a single document": "one file holds one configuration",
        "alias": "quote a text that begins with *",
        "flow": "quote a text that holds { } [ ] or a comma",
        "block": "look at the indentation",
        "quoted scalar": "close the quotes",
    }
    return next((hint for sign, hint in hints.items() if sign in fact), "no YAML 1.1")
