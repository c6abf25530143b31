"""A backlog keeps order, whole blocks and its two bounds, against a plain list."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.backlog import Backlog, WhenFull

BLOCKS = st.integers(0, 30).map(lambda size: b"x" * size)
STEPS = st.lists(st.tuples(st.just("push"), BLOCKS) | st.tuples(st.just("take"), st.integers(0, 40)))


@given(STEPS, st.integers(1, 5), st.integers(1, 50), st.sampled_from(["disconnect", "drop_oldest"]))
def test_it_is_a_list_with_two_bounds(
    steps: list[tuple[str, bytes | int]], events: int, size: int, when_full: WhenFull
) -> None:
    backlog, plain, dropped = Backlog(events, size, when_full), list[bytes](), 0
    for verb, value in steps:
        if verb == "push":
            assert isinstance(value, bytes)
            room = [*plain, value]
            while len(room) > 1 and (len(room) > events or sum(map(len, room)) > size):
                del room[0]
            fits = len(room) == len(plain) + 1
            assert backlog.push(value) is (fits or when_full == "drop_oldest")
            if fits or when_full == "drop_oldest":
                dropped += len(plain) + 1 - len(room)
                plain = room
        else:
            assert isinstance(value, int)
            taken = backlog.take(value)
            assert taken == plain[: len(taken)]
            assert bool(taken) == bool(plain)
            assert len(taken) <= 1 or sum(map(len, taken)) <= value
            assert len(taken) == len(plain) or sum(map(len, plain[: len(taken) + 1])) > value
            del plain[: len(taken)]
        assert (len(backlog), backlog.size, backlog.dropped) == (len(plain), sum(map(len, plain)), dropped)
        assert len(backlog) <= events
        assert backlog.size <= size or len(backlog) == 1


def test_a_full_backlog_that_disconnects_keeps_what_it_has() -> None:
    backlog = Backlog(2, 100, "disconnect")
    assert [backlog.push(block) for block in (b"a", b"b", b"c")] == [True, True, False]
    assert not backlog.take_gap()
    assert backlog.take(100) == [b"a", b"b"]


def test_a_gap_is_told_once() -> None:
    backlog = Backlog(2, 100, "drop_oldest")
    for block in (b"a", b"b", b"c"):
        assert backlog.push(block)
    assert backlog.gap
    assert backlog.take_gap()
    assert not backlog.take_gap()
    assert backlog.take(100) == [b"b", b"c"]
    assert backlog.dropped == 1


@pytest.mark.parametrize("when_full", ["disconnect", "drop_oldest"])
def test_a_block_larger_than_the_bound_waits_alone(when_full: WhenFull) -> None:
    backlog = Backlog(10, 4, when_full)
    assert backlog.push(b"0123456789")
    assert backlog.push(b"a") is (when_full == "drop_oldest")
    assert backlog.take(1) == ([b"a"] if when_full == "drop_oldest" else [b"0123456789"])


def test_clearing_forgets_everything_but_the_count() -> None:
    backlog = Backlog(1, 10, "drop_oldest")
    backlog.push(b"a")
    backlog.push(b"b")
    backlog.clear()
    assert (len(backlog), backlog.size, backlog.take(10), backlog.take_gap(), backlog.dropped) == (0, 0, [], False, 1)
    assert repr(backlog) == "<Backlog 0/1 blocks, 0/10 bytes, 1 dropped>"
