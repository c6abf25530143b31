"""The ring against a plain list, and what a place in a stream proves."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.amqp import Delivery, Properties
from sidecar.cursor import Cursor, MemoryCursor, check_of, offset_of, tag_of
from sidecar.hub.reading import HOLES, before_leap
from sidecar.hub.ring import Ring
from sidecar.hub.tail import judge
from sidecar.observe.reasons import ResetReason


@dataclass
class Model:
    """A ring that keeps everything there ever was, in order."""

    stream: list[tuple[int, bytes]] = field(default_factory=list)

    def between(self, low: int, high: int) -> list[tuple[int, bytes]]:
        return [entry for entry in self.stream if low < entry[0] <= high]


STEPS = st.lists(st.tuples(st.integers(1, 4), st.binary(max_size=300)), max_size=60)


@given(before=STEPS, after=STEPS, events=st.integers(1, 20), bytes_=st.integers(1, 6000), limit=st.integers(1, 10))
def test_everything_after_low_is_there(
    before: list[tuple[int, bytes]], after: list[tuple[int, bytes]], events: int, bytes_: int, limit: int
) -> None:
    model, offset = Model(), 0
    for gap, body in before:
        offset += gap
        model.stream.append((offset, body))
    ring: Ring[bytes] = Ring(events, bytes_, low=offset)
    for gap, body in after:
        offset += gap
        model.stream.append((offset, body))
        ring.append(offset, body, len(body))
    check(ring, model, limit)
    assert len(ring) <= max(events, 1)
    older = model.between(-1, ring.low)
    if older and len(ring):
        ring.extend_left([(own, body, len(body)) for own, body in older], older[0][0] - 1)
        assert ring.low == older[0][0] - 1
        check(ring, model, limit)
    if len(ring):
        ring.append(offset + 1, b"last", 4)
        model.stream.append((offset + 1, b"last"))
        check(ring, model, limit)
        assert len(ring) <= events


def check(ring: Ring[bytes], model: Model, limit: int) -> None:
    expected = model.between(ring.low, ring.high)
    found: list[tuple[int, bytes]] = []
    place = ring.low
    while page := ring.after(place, limit):
        assert len(page) <= limit
        found += page
        place = page[-1][0]
    assert found == expected
    assert len(ring) == len(expected)
    for own, body in expected:
        assert ring.at(own) == body
        assert list(ring.after(own, 1)) == [entry for entry in expected if entry[0] > own][:1]
    assert ring.at(ring.high + 1) is None


def test_a_message_larger_than_the_ring_passes_alone() -> None:
    ring: Ring[bytes] = Ring(10, 1000)
    ring.append(0, b"small", 5)
    ring.append(1, b"large", 5000)
    assert [offset for offset, _ in ring.after(0, 9)] == [1]
    assert ring.low == 0
    assert ring.room == (9, 0)


# Ids


def message(offset: int, body: bytes = b"", **properties: object) -> Delivery:
    headers = {"x-stream-offset": offset}
    return Delivery("t", 1, False, "e", "k", body, properties=Properties(headers=headers, **properties))  # type: ignore[arg-type]


@given(offset=st.integers(0, 2**63 - 1), body=st.binary(), name=st.text())
def test_an_id_is_read_as_it_was_written(offset: int, body: bytes, name: str) -> None:
    cursor = Cursor(tag_of(name), offset, check_of(message(offset, body)))
    assert Cursor.parse(str(cursor)) == cursor
    assert len(str(cursor)) <= 128
    assert set(str(cursor)) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-")


@given(st.text())
def test_any_text_is_an_id_or_none(text: str) -> None:
    for kind in (Cursor, MemoryCursor):
        cursor = kind.parse(text)
        assert cursor is None or str(cursor) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "abcd", "abcd.", "abcd.-1.AAAAAA", "abcd.01.AAAAAA", "abcd.1.AAAAA", "abcd.9223372036854775808.AAAAAA"),
        *("abcd.1.AAAAAA\n", "abc.1.AAAAAA", "abcd.begin.", "abcd.٣.AAAAAA", "mAAAAAAAA.01", "nAAAAAAAA.1"),
    ],
)
def test_what_is_no_id(text: str) -> None:
    assert Cursor.parse(text) is None
    assert MemoryCursor.parse(text) is None


def test_the_check_tells_messages_apart() -> None:
    stamp = datetime(2024, 1, 1, tzinfo=UTC)
    messages = [
        message(1, b"a"),
        message(1, b"b"),
        message(1, b"a", message_id="1"),
        message(1, b"a", message_id="2"),
        message(1, b"a", timestamp=stamp),
        Delivery("t", 1, False, "e", "other", b"a", properties=Properties()),
    ]
    assert len({check_of(each) for each in messages}) == len(messages)
    assert check_of(message(1, b"a")) == check_of(message(2, b"a", type="x", app_id="y"))


# What a reading finds at a place


@pytest.mark.parametrize(
    ("place", "found", "verdict"),
    [
        ((5, b"a"), (5, b"a"), None),
        ((5, b"a"), (5, b"b"), ResetReason.RECREATED),
        ((5, b"a"), (3, b"a"), ResetReason.RECREATED),
        ((5, b"a"), (9, b"a"), ResetReason.TRUNCATED),
        ((5, b"a"), None, ResetReason.RECREATED),
        (None, None, None),
        (None, (0, b"a"), None),
        (None, (4, b"a"), ResetReason.TRUNCATED),
    ],
)
def test_judging(place: tuple[int, bytes] | None, found: tuple[int, bytes] | None, verdict: ResetReason | None) -> None:
    last = Cursor("abcd", place[0], check_of(message(*place))) if place else Cursor("abcd", -1, "")
    assert judge(last, message(*found) if found else None) == verdict


def test_holes_are_small() -> None:
    deliveries = [message(offset) for offset in (1, 2, 3 + HOLES, 4 + HOLES, 6 + 2 * HOLES, 7 + 2 * HOLES)]
    close = before_leap(0, deliveries)
    assert [offset_of(each) for each in close] == [1, 2, 3 + HOLES, 4 + HOLES]
    assert before_leap(-5 - HOLES, deliveries) == []
    assert [offset_of(each) for each in before_leap(None, deliveries)] == [1, 2, 3 + HOLES, 4 + HOLES]
