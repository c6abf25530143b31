"""Routing: the trie gives what a plain search through all patterns gives, and values arrive undamaged."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.routing import PathPattern, PatternError, RouteTable


def table(*paths: str) -> RouteTable[str]:
    return RouteTable((PathPattern.parse(path), path) for path in paths)


def test_parameters_take_one_whole_segment() -> None:
    routes = table("/events/orders/{order}")
    match = routes.match(b"/events/orders/7")
    assert match is not None
    assert (match.value, match.parameters) == ("/events/orders/{order}", {"order": "7"})
    assert routes.match("/events/orders") is None
    assert routes.match("/events/orders/7/8") is None
    assert routes.match("events/orders/7") is None
    assert routes.match("") is None


def test_an_empty_segment_is_an_empty_value() -> None:
    match = table("/events/{name}").match("/events/")
    assert match is not None
    assert match.parameters == {"name": ""}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/a/b/c", "/a/b/c"),
        ("/a/b/x", "/a/b/{z}"),
        ("/a/x/c", "/a/{y}/c"),
        ("/a/x/x", "/a/{y}/{z}"),
        ("/x/b/c", "/{x}/b/c"),
        ("/x/b/d", "/{x}/{y}/d"),  # the turn into the literal b is taken back
        ("/", "/"),
    ],
)
def test_the_most_specific_wins_from_the_left(path: str, value: str) -> None:
    routes = table("/{x}/{y}/d", "/{x}/b/c", "/a/{y}/{z}", "/a/{y}/c", "/a/b/{z}", "/a/b/c", "/")
    match = routes.match(path)
    assert match is not None
    assert match.value == value


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"/e/a%2Fb", "a/b"),
        (b"/e/%C3%A9", "é"),
        ("/e/é".encode(), "é"),
        (b"/e/%ff", "\udcff"),
        (b"/e/%zz", "%zz"),
        (b"/e/%00", "\0"),
        (b"/e/a+b", "a+b"),
    ],
)
def test_segments_are_decoded_one_by_one(raw: bytes, value: str) -> None:
    match = table("/e/{v}").match(raw)
    assert match is not None
    assert match.parameters == {"v": value}


def test_literals_meet_in_any_spelling() -> None:
    routes = table("/caf%C3%A9/x")
    assert routes.match("/café/x") is not None
    assert routes.match(b"/%63af%c3%a9/x") is not None


@pytest.mark.parametrize(
    ("text", "offset", "fact"),
    [
        ("events", 0, "begins with /"),
        ("", 0, "begins with /"),
        ("/a/{b}c", 3, "a whole segment"),
        ("/a/x{b}", 4, "a whole segment"),
        ("/a/{}", 3, "is no parameter"),
        ("/a/{b.c}", 3, "is no parameter"),
        ("/{a}/{a}", 5, "stands twice"),
        ("/a?b=1", 2, "{query.name}"),
        ("/a b", 2, "holds no ' '"),
    ],
)
def test_mistakes_have_a_place(text: str, offset: int, fact: str) -> None:
    with pytest.raises(PatternError) as caught:
        PathPattern.parse(text)
    assert caught.value.offset == offset
    assert fact in caught.value.fact


def test_two_patterns_of_one_shape() -> None:
    assert PathPattern.parse("/a/{x}").shape == PathPattern.parse("/a/{y}").shape
    assert PathPattern.parse("/a/x").shape != PathPattern.parse("/a/{x}").shape
    assert PathPattern.parse("/a%2Fb").shape != PathPattern.parse("/a/b").shape
    with pytest.raises(ValueError, match=r"/a/\{y\} takes the same paths as /a/\{x\}"):
        table("/a/{x}", "/a/{y}")


def test_endless_paths_are_not_split() -> None:
    assert table("/a/{b}").match(b"/" * 1_000_000) is None


SEGMENTS = st.sampled_from(["a", "b", "c", None])


@given(st.lists(st.lists(SEGMENTS, min_size=1, max_size=4)), st.lists(st.sampled_from("abcd"), min_size=1, max_size=4))
def test_the_trie_agrees_with_a_plain_search(shapes: list[list[str | None]], segments: list[str]) -> None:
    texts = {
        "".join(f"/{{p{n}}}" if part is None else f"/{part}" for n, part in enumerate(shape)): shape for shape in shapes
    }
    patterns = [PathPattern.parse(text) for text in texts]
    fitting = [pattern for pattern in patterns if pattern.match(segments) is not None]
    # False sorts before True: literal before parameter, leftmost first.
    best = min(fitting, key=lambda pattern: [part is None for part in pattern.segments], default=None)
    found = RouteTable((pattern, pattern) for pattern in patterns).match("/" + "/".join(segments))
    assert (found.value if found else None) == best
    if found and best:
        assert found.parameters == best.match(segments)


@given(st.binary())
def test_every_byte_of_a_value_arrives(value: bytes) -> None:
    match = table("/v/{v}").match("/v/" + quote_from_bytes(value, safe=""))
    assert match is not None
    assert match.parameters["v"].encode("utf-8", "surrogateescape") == value
