"""Places are given and given back; the counts are held against a plain recount."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http.limits import Lease, StreamLimit


def test_a_full_house_and_a_client_with_its_fill() -> None:
    limit = StreamLimit(streams=3, per_client=2)
    first, second = limit.acquire("ada"), limit.acquire("ada")
    assert first is not None
    assert second is not None
    assert limit.acquire("ada") is None
    assert limit.acquire("eve") is not None
    assert limit.acquire("bob") is None
    first.release()
    assert limit.acquire("bob") is not None
    assert (limit.streams, limit.clients) == (3, 3)


def test_a_place_is_given_back_once() -> None:
    limit = StreamLimit(streams=2)
    one, other = limit.acquire("ada"), limit.acquire("ada")
    assert one is not None
    assert other is not None
    for _ in range(3):
        one.release()
    assert (limit.streams, limit.clients) == (1, 1)
    with other:
        pass
    assert (limit.streams, limit.clients) == (0, 0)


def test_a_refused_client_leaves_no_trace() -> None:
    limit = StreamLimit(streams=1)
    lease = limit.acquire("ada")
    assert lease is not None
    for number in range(1000):
        assert limit.acquire(f"stranger {number}") is None
    assert limit.clients == 1


def test_a_place_is_given_back_when_the_stream_breaks() -> None:
    limit = StreamLimit(per_client=1)
    lease = limit.acquire("ada")
    assert lease is not None
    with pytest.raises(KeyError), lease:
        raise KeyError
    assert limit.acquire("ada") is not None


@given(
    st.lists(st.one_of(st.sampled_from("abc"), st.integers(0, 5)), max_size=60),
    st.one_of(st.none(), st.integers(1, 4)),
    st.one_of(st.none(), st.integers(1, 2)),
)
def test_any_coming_and_going(steps: list[str | int], streams: int | None, per_client: int | None) -> None:
    limit, open_leases = StreamLimit(streams, per_client), list[tuple[str, Lease]]()
    for step in steps:
        if isinstance(step, int):
            if open_leases:
                open_leases.pop(step % len(open_leases))[1].release()
            continue
        full = streams is not None and len(open_leases) >= streams
        fill = per_client is not None and Counter(name for name, _ in open_leases)[step] >= per_client
        lease = limit.acquire(step)
        assert (lease is None) == (full or fill)
        if lease is not None:
            open_leases.append((step, lease))
        assert (limit.streams, limit.clients) == (len(open_leases), len({name for name, _ in open_leases}))
