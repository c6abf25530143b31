"""Indexes against plain searches, under churn, and RabbitMQ's own answers at the edges."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.topic import Headers, Index, TopicIndex, index_for, is_word, topic_matches
from sidecar.topic.trie import CACHE_ROOM

WORD = st.sampled_from(["a", "b", "c", "", "*", "#"])
KEY = st.lists(WORD, max_size=5).map(".".join)
NAME = st.sampled_from(["a", "b", "x-a", "x-b"])
VALUE = st.sampled_from([None, True, 1, 1.0, "1", "", b"1", Decimal(1), datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)])
ARRAY = st.lists(VALUE, max_size=2) | st.dictionaries(NAME, VALUE, max_size=2)
TABLE = st.dictionaries(NAME, VALUE | ARRAY, max_size=3)
X_MATCH = st.sampled_from([{}, *({"x-match": kind} for kind in ("all", "any", "all-with-x", "any-with-x"))])
ARGUMENTS = st.builds(lambda table, x_match: tuple(sorted((table | x_match).items())), TABLE, X_MATCH)

Bindings = list[tuple[str, Headers, int]]
Matches = Callable[[str, Headers, str, Mapping[str, object]], bool]


def no_headers() -> Mapping[str, object]:
    raise AssertionError("nobody but a headers exchange looks at headers")


def churned(index: Index[int], bindings: Bindings, gone: set[int]) -> Bindings:
    """Add all bindings, each once, and take some of them away again; return those that stand."""
    standing: dict[str, tuple[str, Headers, int]] = {}
    for number, binding in enumerate(bindings):
        if repr(binding) not in standing:
            index.add(*binding)
            index.match(binding[0], dict)
            standing[repr(binding)] = binding
        if number in gone:
            index.discard(*standing.pop(repr(binding)))
            index.discard(*binding)
    return list(standing.values())


def expect(index: Index[int], standing: Bindings, matches: Matches, key: str, headers: Mapping[str, object]) -> None:
    expected = {value for binding_key, asked, value in standing if matches(binding_key, asked, key, headers)}
    for _ in range(2):  # the second answer may come out of a memory
        found = index.match(key, lambda: headers)
        assert set(found) == expected
        assert len(found) == len(expected)
    assert len(index) == len(standing)


@given(
    st.lists(st.tuples(KEY, st.just(()) | ARGUMENTS, st.integers(0, 3)), max_size=12),
    st.sets(st.integers(0, 12)),
    st.lists(KEY, max_size=5),
)
def test_topic_direct_and_fanout_find_what_a_plain_search_finds(
    bindings: Bindings, gone: set[int], keys: list[str]
) -> None:
    plain: dict[str, Matches] = {
        "topic": lambda binding_key, _, key, __: topic_matches(binding_key, key),
        "direct": lambda binding_key, _, key, __: binding_key == key,
        "fanout": lambda *_: True,
    }
    for exchange_type, matches in plain.items():
        index: Index[int] = index_for(exchange_type)
        standing = churned(index, bindings, gone)
        for key in keys:
            expect(index, standing, matches, key, {})


@given(
    st.lists(st.tuples(KEY, ARGUMENTS, st.integers(0, 3)), max_size=12),
    st.sets(st.integers(0, 12)),
    st.lists(TABLE, max_size=5),
)
def test_headers_find_what_a_plain_search_finds(bindings: Bindings, gone: set[int], messages: list[Headers]) -> None:
    index: Index[int] = index_for("headers")
    standing = churned(index, bindings, gone)
    for message in messages:
        expect(index, standing, headers_match, "any.key", dict(message))


def headers_match(_: str, arguments: Headers, __: str, message: Mapping[str, object]) -> bool:
    """RabbitMQ's match/2, match_x/2, match_any/3 and match_all/3, binding by binding."""
    x_match = dict(arguments).get("x-match", "all")
    with_x = str(x_match).endswith("-with-x")
    asked = [(n, v) for n, v in arguments if n != "x-match" and (with_x or not n.startswith("x-"))]
    met = [name in message and (value is None or erlang_equal(value, message[name])) for name, value in asked]
    return any(met) if str(x_match).startswith("any") else all(met)


def erlang_equal(one: object, two: object) -> bool:
    """=:= on what rabbit_binary_parser makes of a field: strings are binaries, timestamps integers."""
    one, two = (erlang_term(value) for value in (one, two))
    if type(one) is not type(two):
        return False
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(erlang_equal, one, two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(erlang_equal(one[name], two[name]) for name in one)
    return one == two


def erlang_term(value: object) -> object:
    if isinstance(value, str):
        return value.encode()
    return int(value.timestamp()) if isinstance(value, datetime) else value


@pytest.mark.parametrize(
    ("binding_key", "routing_key", "expected"),
    [
        ("#", "", True),
        ("#", "a.b.c", True),
        ("", "", True),
        ("", "a", False),
        ("*", "", False),  # rabbit_db_topic_exchange: an empty key splits into no words
        ("*", "a", True),
        ("*.*", ".", True),  # a dot parts two empty words
        ("a.*.b", "a..b", True),
        ("a.b", "a..b", False),
        ("a.#.b", "a.b", True),
        ("a.#.b", "a.x.y.b", True),
        ("a.#.b", "a.b.c", False),
        ("a.*", "a", False),
        ("a.*", "a.", True),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("#.a", "a.a.a", True),
        ("#.#", "", True),
        ("*.#.*", "a", False),
        ("*.#.*", "a.b", True),
        ("a*", "ab", False),  # a wildcard is a word of its own
        ("a#", "ab", False),
        ("a.b", "*.b", False),  # in a routing key they are letters like others
        ("*.b", "#.b", True),
        ("é.*", "é.ü", True),
    ],
)
def test_topic_edges(binding_key: str, routing_key: str, expected: bool) -> None:
    index: Index[str] = index_for("topic")
    index.add(binding_key, (), "v")
    assert topic_matches(binding_key, routing_key) is expected
    assert list(index.match(routing_key, no_headers)) == ["v"] * expected


@pytest.mark.parametrize(
    ("arguments", "message", "expected"),
    [
        ({}, {}, True),
        ({"x-match": "all"}, {"a": 1}, True),
        ({"x-match": "any"}, {"a": 1}, False),
        ({"a": 1}, {"a": 1, "b": 2}, True),
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"x-match": "any", "a": 1, "b": 2}, {"b": 2}, True),
        ({"a": None}, {"a": "whatever"}, True),
        ({"a": None}, {"a": None}, True),
        ({"a": None}, {"b": 1}, False),
        ({"a": 1}, {"a": None}, False),
        ({"x-match": "any", "a": None}, {"a": 7}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": 1}, {"a": 1.0}, False),
        ({"a": "s"}, {"a": b"s"}, True),
        ({"x-a": 1}, {}, True),
        ({"x-match": "any", "x-a": 1}, {"x-a": 1}, False),
        ({"x-match": "all-with-x", "x-a": 1}, {}, False),
        ({"x-match": "all-with-x", "x-a": 1}, {"x-a": 1}, True),
        ({"x-match": "any-with-x", "x-a": 1, "b": 2}, {"x-a": 1}, True),
        ({"x-match": "all-with-x"}, {}, True),
    ],
)
def test_headers_edges(arguments: dict[str, object], message: dict[str, object], expected: bool) -> None:
    index: Index[str] = index_for("headers")
    index.add("ignored", tuple(arguments.items()), "v")
    assert list(index.match("", lambda: message)) == ["v"] * expected


@pytest.mark.parametrize("x_match", ["some", 1, None, ["all"]])
def test_a_headers_binding_with_another_x_match_is_refused_and_leaves_nothing(x_match: object) -> None:
    index: Index[str] = index_for("headers")
    with pytest.raises(ValueError, match="all-with-x"):
        index.add("", (("x-match", x_match),), "v")
    assert len(index) == 0


def test_headers_are_not_read_where_nothing_asks() -> None:
    assert list(index_for("headers").match("", no_headers)) == []


def test_a_binding_stands_once() -> None:
    index: Index[str] = index_for("topic")
    index.add("a.#", (), "v")
    index.add("a.#", (("note", 1),), "v")
    with pytest.raises(AssertionError, match="stands already"):
        index.add("a.#", (), "v")
    index.discard("a.#", (), "v")
    assert index.match("a", no_headers) == ("v",)
    assert repr(index) == "<TopicIndex of 1>"


def test_what_was_matched_is_not_touched_by_later_changes() -> None:
    for exchange_type in ("direct", "topic", "fanout", "headers"):
        index: Index[str] = index_for(exchange_type)
        index.add("k", (), "one")
        found = index.match("k", dict)
        index.add("k", (), "two")
        index.discard("k", (), "one")
        assert list(found) == ["one"]
        assert list(index.match("k", dict)) == ["two"]


def test_an_unknown_exchange_type_is_named() -> None:
    with pytest.raises(ValueError, match="x-delayed-message"):
        index_for("x-delayed-message")


def test_what_a_topic_index_remembers_is_bounded() -> None:
    index: TopicIndex[int] = TopicIndex()
    for value in range(100):
        index.add("#", (), value)
    for number in range(2 * CACHE_ROOM // 100):
        assert len(index.match(f"k.{number}", no_headers)) == 100
    assert sum(1 + len(found) for found in index._known.values()) <= CACHE_ROOM


@settings(max_examples=20)
@given(st.lists(KEY, min_size=1, max_size=20))
def test_nothing_is_left_of_bindings_that_are_gone(keys: list[str]) -> None:
    index: TopicIndex[int] = TopicIndex()
    for value, key in enumerate(keys):
        index.add(key, (), value)
    for value, key in enumerate(keys):
        index.discard(key, (), value)
    assert not index._root.children
    assert index._root.star is index._root.rest is None
    assert not index._root.values


@pytest.mark.parametrize(("word", "binding_key"), [("*", ".".join("*" * 60)), ("a", ".".join("#" * 60)), ("#", "#.#")])
def test_no_key_makes_the_walk_explode(word: str, binding_key: str) -> None:
    index: Index[int] = index_for("topic")
    index.add(binding_key, (), 1)
    assert list(index.match(".".join([word] * 60), no_headers)) == [1]


def bindings_of(exchange_type: str, number: int) -> tuple[str, Headers]:
    headers = (("kind", "order"), ("order", number)) if exchange_type == "headers" else ()
    return f"order.{number}" if exchange_type == "direct" else f"order.{number}.*", headers


@pytest.mark.parametrize("exchange_type", ["direct", "topic", "headers"])
def test_a_match_costs_the_same_beside_any_number_of_others(exchange_type: str) -> None:
    few, many = index_for(exchange_type), index_for(exchange_type)  # type: ignore[var-annotated]
    for index, count in ((few, 10), (many, 100_000)):
        for number in range(count):
            index.add(*bindings_of(exchange_type, number), number)
    key = "order.7" if exchange_type == "direct" else "order.7.paid"

    def steps(index: Index[int]) -> int:
        """How many lines and calls a match is made of, whatever the machine does meanwhile."""
        counted = Counter[str]()

        def count(_frame: FrameType, event: str, _argument: object) -> Any:
            counted[event] += 1
            return count

        before = sys.gettrace()
        sys.settrace(count)
        try:
            found = index.match(key, lambda: {"kind": "order", "order": 7})
        finally:
            sys.settrace(before)
        assert list(found) == [7]
        return counted.total()

    assert steps(many) == steps(few) > 1


def test_a_walk_costs_about_the_same_beside_any_number_of_others() -> None:
    def steps(count: int) -> int:
        """How many nodes a walk visits: what its cost is made of, whatever the machine does meanwhile."""
        index: TopicIndex[int] = TopicIndex()
        for number in range(count):
            index.add(f"order.{number}.*", (), number)
            index.add(f"#.{number}", (), number)
        visited = 0
        nodes = [index._root, *index._root.rests()]
        for word in ("order", "7", "paid"):
            nodes = trie_step(nodes, word)
            visited += len(nodes)
        return visited

    from sidecar.topic.trie import _step as trie_step

    assert steps(10) == steps(10_000)


@pytest.mark.parametrize("value", ["7", "a" * 255, "é", "a b", "A-Z_~", "\u200b", "€" * 85])
def test_words(value: str) -> None:
    assert is_word(value)


@pytest.mark.parametrize(
    "value", ["", "a.b", "*", "a#", "\r", "a\n", "\0", "\x7f", "\x85", "a" * 256, "€" * 86, "\udcff"]
)
def test_no_words(value: str) -> None:
    assert not is_word(value)
