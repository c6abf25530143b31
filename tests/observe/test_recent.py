"""The rings of what just happened."""

from __future__ import annotations

import pytest

from sidecar.observe.metrics import Metrics
from sidecar.observe.reasons import CloseReason, ResetReason
from sidecar.observe.recent import KEEP, TOGETHER, Recent


class Clock:
    """A clock to set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def recent(clock: Clock) -> Recent:
    return Recent(clock=clock)


def test_ends_are_kept_newest_first_and_only_the_last(recent: Recent) -> None:
    for number in range(KEEP + 5):
        recent.closed("/a", CloseReason.CLIENT_LEFT, f"client {number}", 1.5, number)
    kept = recent.closed_after(0)
    assert [record.client for record in kept] == [f"client {number}" for number in range(KEEP + 4, 4, -1)]
    assert (kept[0].at, kept[0].route, kept[0].seconds, kept[0].events) == (1000.0, "/a", 1.5, KEEP + 4)


def test_a_watcher_hears_what_came_after_it_looked(recent: Recent) -> None:
    recent.closed("/a", CloseReason.SLOW, "", 1, 1)
    recent.reset("/a", ResetReason.SLOW)
    seen = recent.number
    assert recent.closed_after(seen) == recent.resets_after(seen) == []
    recent.closed("/b", CloseReason.SLOW, "", 1, 1)
    assert [record.route for record in recent.closed_after(seen)] == ["/b"]
    assert recent.resets_after(seen) == []


def test_resets_of_one_moment_are_one_record_that_grows(recent: Recent, clock: Clock) -> None:
    for _ in range(3):
        recent.reset("/a", ResetReason.BROKER_RECONNECTED)
    seen = recent.number
    clock.now += TOGETHER / 2
    recent.reset("/a", ResetReason.BROKER_RECONNECTED)
    [grown] = recent.resets_after(seen)
    assert (grown.count, grown.at) == (4, 1000.0)
    recent.reset("/b", ResetReason.BROKER_RECONNECTED)
    recent.reset("/b", ResetReason.SLOW)
    clock.now += TOGETHER
    recent.reset("/b", ResetReason.SLOW)
    assert [(record.route, record.reason.value, record.count) for record in recent.resets_after(0)] == [
        ("/b", "slow", 1),
        ("/b", "slow", 1),
        ("/b", "broker_reconnected", 1),
        ("/a", "broker_reconnected", 4),
    ]


def test_what_is_counted_is_told(clock: Clock) -> None:
    metrics = Metrics()
    metrics.route("/a").closed(CloseReason.EXPIRED, "::1", 2.0, 7)
    metrics.route("/b").reset(ResetReason.TRUNCATED)
    [closed], [reset] = metrics.recent.closed_after(0), metrics.recent.resets_after(0)
    assert (closed.route, closed.reason, closed.client, closed.events) == ("/a", "expired", "::1", 7)
    assert (reset.route, reset.reason) == ("/b", "truncated")
