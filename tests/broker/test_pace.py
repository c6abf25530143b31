"""Messages wait for each other only where sending them on one by one has become work."""

from __future__ import annotations

import pytest

from sidecar.broker.pace import GATHER, Pace


def pauses(pace: Pace, *, gap: float, took: float, count: int = 1, reads: int = 50) -> list[float]:
    """What it says when ``count`` messages are read every ``gap`` seconds and take ``took`` seconds to deliver."""
    return [pace.pause(number * gap, number * gap + took, count) for number in range(reads)]


def test_the_first_messages_never_wait() -> None:
    assert Pace().pause(100.0, 101.0, 5000) == 0


@pytest.mark.parametrize(
    ("gap", "took"),
    [
        pytest.param(0.001, 0.00005, id="a thousand a second to a few"),
        pytest.param(0.01, 0.002, id="a hundred a second to a thousand: each is alone, however long it takes"),
        pytest.param(1, 0.5, id="one a second to very many"),
        pytest.param(0.0001, 0.000005, id="ten thousand a second that take a twentieth of the time"),
    ],
)
def test_nothing_waits_where_it_would_not_pay(gap: float, took: float) -> None:
    assert not any(pauses(Pace(), gap=gap, took=took))


@pytest.mark.parametrize(
    ("gap", "took"),
    [
        pytest.param(0.001, 0.0002, id="a thousand a second to a hundred"),
        pytest.param(0.0001, 0.00005, id="ten thousand a second to a few"),
    ],
)
def test_messages_wait_where_delivering_is_work(gap: float, took: float) -> None:
    said = pauses(Pace(), gap=gap, took=took)[1:]
    assert all(0 < pause <= GATHER for pause in said)


def test_who_has_waited_goes_on_waiting_while_the_rate_holds() -> None:
    pace = Pace()
    pauses(pace, gap=0.001, took=0.0002)
    now = 1.0
    for _ in range(20):  # 2 ms later two have come, and so on
        pace.pause(now, now + 0.0003, 2)
        now += 0.0023
    assert pace.pause(now, now + 0.0003, 2) == GATHER
    assert pace.pause(now + 1, now + 1.0003, 2) == 0, "and stops when it falls"


def test_how_long_is_the_configurations_word() -> None:
    assert max(pauses(Pace(0.01), gap=0.001, took=0.0009)) == 0.01
    assert not any(pauses(Pace(0), gap=0.0001, took=0.0009, count=100))
