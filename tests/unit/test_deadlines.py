"""Deadlines on a clock that jumps: never early, at most a tick late, and nothing left behind.

Every test asks for the clock itself: pytest-trio takes it from a test's own arguments only.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from sidecar.deadlines import SLACK, TICK, Deadline, Deadlines


@pytest.fixture
async def deadlines() -> AsyncIterator[Deadlines]:
    kept = Deadlines()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.run)
        yield kept
        nursery.cancel_scope.cancel()


async def test_a_call_is_never_early_and_at_most_a_tick_late(deadlines: Deadlines, autojump_clock: MockClock) -> None:
    late: list[float] = []
    for _ in range(300):
        when = trio.current_time() + random.uniform(0, 100)
        deadlines.at(when, partial(_note_lateness, late, when))
    await trio.sleep(101)
    assert len(late) == 300
    assert min(late) >= -1e-9
    assert max(late) <= TICK + 1e-9


def _note_lateness(late: list[float], when: float) -> None:
    late.append(trio.current_time() - when)


async def test_calls_come_in_the_order_of_their_ticks(deadlines: Deadlines, autojump_clock: MockClock) -> None:
    called: list[int] = []
    for number in random.sample(range(50), 50):
        deadlines.after(number * 2 * TICK, partial(called.append, number))
    await trio.sleep(100 * TICK + 1)
    assert called == list(range(50))


async def test_a_deadline_made_later_may_be_due_earlier(deadlines: Deadlines, autojump_clock: MockClock) -> None:
    called: list[str] = []
    deadlines.after(3600, lambda: called.append("late"))
    await trio.sleep(1)
    deadlines.after(1, lambda: called.append("early"))
    await trio.sleep(1 + TICK)
    assert called == ["early"]


async def test_what_was_made_before_run_is_called_too(autojump_clock: MockClock) -> None:
    deadlines, called = Deadlines(), trio.Event()
    deadlines.after(5, called.set)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        with trio.fail_after(6):
            await called.wait()
        nursery.cancel_scope.cancel()


async def test_a_cancelled_deadline_is_not_called_and_leaves_nothing(
    deadlines: Deadlines, autojump_clock: MockClock
) -> None:
    called: list[int] = []
    made = [deadlines.after(number / 7, lambda: called.append(1)) for number in range(1, 200)]
    for deadline in made:
        deadline.cancel()
        deadline.cancel()
    assert repr(deadlines) == "<Deadlines 0 in 0 ticks>"
    await trio.sleep(60)
    assert called == []


async def test_streams_that_come_and_go_leave_no_trail_of_empty_ticks(
    deadlines: Deadlines, autojump_clock: MockClock
) -> None:
    standing = deadlines.after(86_400, lambda: None)
    for _ in range(5000):
        deadlines.after(random.uniform(80_000, 86_400), lambda: None).cancel()
    assert len(deadlines) == 1
    assert len(deadlines._ticks) <= 2 + SLACK + 1
    standing.cancel()
    assert not deadlines._buckets


async def test_a_call_may_cancel_another_of_the_same_tick(deadlines: Deadlines, autojump_clock: MockClock) -> None:
    called: list[str] = []
    when = trio.current_time() + 1
    pair: dict[str, Deadline] = {}

    def call(name: str, other: str) -> None:
        called.append(name)
        pair[other].cancel()

    pair["a"] = deadlines.at(when, partial(call, "a", "b"))
    pair["b"] = deadlines.at(when, partial(call, "b", "a"))
    await trio.sleep(2)
    assert called in (["a"], ["b"])
    assert len(deadlines) == 0


async def test_cancelling_after_the_call_does_not_touch_a_new_deadline_of_that_tick(
    deadlines: Deadlines, autojump_clock: MockClock
) -> None:
    called: list[str] = []
    when = trio.current_time() + 1
    first = deadlines.at(when, lambda: called.append("first"))
    await trio.sleep(1 + TICK)
    deadlines.at(when, lambda: called.append("second"))  # in the past: at once
    first.cancel()
    await trio.sleep(TICK)
    assert called == ["first", "second"]


async def test_a_call_that_fails_costs_itself_only(deadlines: Deadlines, autojump_clock: MockClock) -> None:
    called: list[int] = []
    with capture_logs() as logs:
        deadlines.after(1, lambda: called.append(1))
        deadlines.after(1, partial(called.remove, 7))
        deadlines.after(1, lambda: called.append(2))
        deadlines.after(2, lambda: called.append(3))
        await trio.sleep(3)
    assert sorted(called) == [1, 2, 3]
    assert [(line["event"], line["log_level"]) for line in logs] == [("a deadline's call failed", "error")]


async def test_a_call_that_is_always_due_lets_other_tasks_run(deadlines: Deadlines, autojump_clock: MockClock) -> None:
    turns = 0

    def again() -> None:
        nonlocal turns
        turns += 1
        if turns < 1000:
            deadlines.at(trio.current_time(), again)

    again()
    for _ in range(30):
        await trio.lowlevel.checkpoint()
    assert 1 < turns <= 31


async def test_thousands_share_the_wake_ups_of_their_ticks(deadlines: Deadlines, autojump_clock: MockClock) -> None:
    class Instrument(trio.abc.Instrument):
        woken = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.woken += "Deadlines.run" in task.name

    called: list[int] = []
    start = math.ceil(trio.current_time() / TICK + 1) * TICK
    for number in range(10_000):
        deadlines.at(start + number / 10_000, lambda: called.append(1))
    instrument = Instrument()
    trio.lowlevel.add_instrument(instrument)
    try:
        await trio.sleep(3)
    finally:
        trio.lowlevel.remove_instrument(instrument)
    assert len(called) == 10_000
    assert instrument.woken <= 2 * (1 / TICK) + 5
