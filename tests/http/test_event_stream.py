"""One event stream's life: first bytes, heartbeats, age, resets, every way to end, and what is left afterwards."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock, wait_all_tasks_blocked

from sidecar.deadlines import TICK
from sidecar.http.stream import FINISH_WITHIN, SUBSCRIBE_WITHIN
from sidecar.hub.hub import LINGER
from sidecar.observe.reasons import CloseReason, ResetReason
from tests.http.desk import Answer, Desk, desk
from tests.server.serving import NEWS, news

FIRST = re.compile(rb"retry: (\d+)\n\n:\n\n")


def metrics(at: Desk) -> Any:
    return at.dispatch.routes[0].metrics


# The beginning


async def test_the_head_and_the_first_bytes(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        answer = await at.open()
        assert (answer.status, answer.headers) == (
            200,
            [
                (b"content-type", b"text/event-stream; charset=utf-8"),
                (b"cache-control", b"no-cache, no-transform"),
                (b"x-accel-buffering", b"no"),
            ],
        )
        assert FIRST.fullmatch(answer.body)


async def test_the_first_bytes_wait_for_the_binding(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        gate = at.room.broker.stall("bind")
        answer = await at.open()
        assert (answer.status, answer.body) == (0, b"")
        gate.set()
        await wait_all_tasks_blocked()
        assert FIRST.fullmatch(answer.body)
        again = at.ask("/events/a")  # the binding stands: at once, without a task
        assert again is not None
        assert FIRST.fullmatch(again.body)


async def test_head_gives_the_headers_and_ends(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        answer = await at.open(method="HEAD")
        assert (answer.status, answer.body, answer.end) == (200, b"", "clean")
        assert answer.header(b"content-type") == b"text/event-stream; charset=utf-8"
        assert at.room.broker.asked == []
        await at.quiet()


async def test_each_connection_gets_its_own_retry_within_the_range(autojump_clock: MockClock) -> None:
    async with desk(news(retry="2s-6s")) as at:
        retries = [(await at.open()).stream.retry for _ in range(200)]
        assert all(retry is not None and 2000 <= retry <= 6000 for retry in retries)
        assert len(set(retries)) > 150


# Heartbeats


async def test_heartbeats_come_after_that_long_without_a_byte(autojump_clock: MockClock) -> None:
    async with desk(news(heartbeat="10s")) as at:
        answer = await at.open()
        began = answer.times[0]
        await trio.sleep(35)
        assert answer.body.endswith(b":\n\n:\n\n:\n\n:\n\n")
        gaps = [later - earlier for earlier, later in zip([began, *answer.times[1:]], answer.times[1:], strict=False)]
        assert all(10 - TICK <= gap <= 10 + 2 * TICK for gap in gaps)
        assert len(gaps) == 3


async def test_real_traffic_postpones_the_heartbeat(autojump_clock: MockClock) -> None:
    async with desk(news(heartbeat="10s")) as at:
        answer = await at.open()
        for _ in range(10):
            await trio.sleep(7)
            await at.room.publish("a", "traffic")
        assert len(answer.stream.comments) == 1  # the first bytes' own
        last = trio.current_time()
        await trio.sleep(9)
        assert len(answer.stream.comments) == 1
        await trio.sleep(2)
        assert len(answer.stream.comments) == 2
        assert last + 10 - TICK <= answer.times[-1] <= last + 10 + 2 * TICK


async def test_traffic_that_the_stream_does_not_hear_postpones_nothing(autojump_clock: MockClock) -> None:
    async with desk(news(heartbeat="10s", where={"type": "mine"})) as at:
        answer = await at.open()
        for _ in range(8):
            await trio.sleep(7)
            await at.room.publish("a", "filtered", type="theirs")
            await at.room.publish("b", "not bound")
        assert len(answer.stream.comments) == 1 + 5


async def test_thousands_of_heartbeats_are_one_task(autojump_clock: MockClock) -> None:
    async with desk(news(heartbeat="15s")) as at:
        answers = [await at.open()]
        for _ in range(1999):
            answer = at.ask("/events/a")
            assert answer is not None
            answers.append(answer)
        tasks = trio.lowlevel.current_statistics().tasks_living
        await trio.sleep(31)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert {len(answer.stream.comments) for answer in answers} == {3}
        for answer in answers:
            answer.leave()
        await at.quiet()


# Age


async def test_streams_end_at_an_age_between_80_and_100_percent(autojump_clock: MockClock) -> None:
    async with desk(news(max_age="1000s", heartbeat="10000s")) as at:
        began = trio.current_time()
        answers = [await at.open() for _ in range(200)]
        await trio.sleep(799)
        assert all(answer.end is None for answer in answers)
        ends: list[float] = []
        while len(ends) < 200 and trio.current_time() < began + 1001:
            await trio.sleep(1)
            ends += [trio.current_time() - began] * (sum(answer.end is not None for answer in answers) - len(ends))
        assert len(ends) == 200
        assert min(ends) < 830
        assert max(ends) > 970
        assert metrics(at).closes[CloseReason.EXPIRED] == 200
        await at.quiet()


# Resets


async def test_one_reset_after_the_broker_came_back(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        answers = [await at.open() for _ in range(3)]
        at.room.broker.lose()
        await trio.sleep(60)
        assert all(answer.end is None for answer in answers)
        at.room.broker.restore()
        for answer in answers:
            (event,) = answer.stream.events
            assert (event.type, event.data, event.id) == ("sidecar.reset", '{"reason": "broker_reconnected"}', "")
        assert metrics(at).resets[ResetReason.BROKER_RECONNECTED] == 3


async def test_an_id_that_nobody_here_can_know_is_a_reset(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        for query, headers in (("", [(b"last-event-id", b"7")]), ("?last_event_id=7", []), ("?lastEventId=7", [])):
            answer = await at.open(f"/events/a{query}", headers=headers)
            assert [event.data for event in answer.stream.events] == ['{"reason": "unknown_id"}']
            assert FIRST.match(answer.body)
        assert (await at.open("/events/a?last_event_id=latest")).stream.events == []


# Turned away


async def test_while_the_broker_is_away_a_retry_and_a_clean_end(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        at.room.broker.lose()
        answer = await at.open()
        assert (answer.status, answer.end) == (200, "clean")
        assert FIRST.fullmatch(answer.body)
        await at.quiet()


async def test_an_honest_503_where_the_route_says_so(autojump_clock: MockClock) -> None:
    async with desk(news(overload="503", retry="2s-6s")) as at:
        at.room.broker.lose()
        answer = await at.open()
        assert (answer.status, answer.header(b"retry-after")) == (503, b"6")
        assert answer.header(b"content-type") == b"text/plain; charset=utf-8"
        await at.quiet()


async def test_a_broker_that_does_not_answer_is_given_up(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        at.room.broker.stall("bind")
        began = trio.current_time()
        answer = await at.open()
        await trio.sleep(SUBSCRIBE_WITHIN + 0.1)
        assert (answer.status, answer.end) == (200, "clean")
        assert trio.current_time() - began < SUBSCRIBE_WITHIN + 1


async def test_a_missing_exchange_is_said_in_the_log_and_tried_again(autojump_clock: MockClock) -> None:
    async with desk({"path": "/x", "exchange": "missing"}) as at:
        with capture_logs() as logs:
            answer = await at.open("/x")
        assert answer.end == "clean"
        assert ("no exchange 'missing'", "/x") in [(line.get("problem"), line.get("route")) for line in logs]
        await at.quiet()


async def test_an_exchange_lost_later_ends_its_streams_and_works_again(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        answer = await at.open()
        at.room.broker.refuse("deleted")
        assert answer.end == "clean"
        assert metrics(at).closes[CloseReason.BROKER_REFUSED] == 1
        again = await at.open()
        await at.room.publish("a", "x")
        assert [event.data for event in again.stream.events] == ["x"]
        again.leave()
        await at.quiet()


# The end


@pytest.mark.parametrize("when", ["open", "binding", "ended"])
async def test_a_client_that_leaves_at_any_time_leaves_nothing(when: str, autojump_clock: MockClock) -> None:
    async with desk(news(max_age="10s")) as at:
        gate = at.room.broker.stall("bind") if when == "binding" else None
        answers = [await at.open() for _ in range(5)]
        if when == "ended":
            await trio.sleep(11)
        for answer in answers:
            answer.leave()
        await wait_all_tasks_blocked()
        if gate is not None:
            gate.set()
        await at.quiet()
        assert sum(metrics(at).closes.values()) == 5


async def test_one_line_in_the_log_for_each_stream_and_one_count(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        with capture_logs() as logs:
            answer = await at.open()
            await at.room.publish("a", "x")
            await trio.sleep(3)
            answer.leave()
            await at.quiet()
        (line,) = [line for line in logs if line["event"] == "stream closed"]
        assert line["reason"] == "client_left"
        assert (line["route"], line["client"], line["events"]) == ("/events/{name}", "192.0.2.1", 1)
        assert line["seconds"] == pytest.approx(3, abs=0.1)
        assert metrics(at).closes[CloseReason.CLIENT_LEFT] == 1


async def test_a_full_backlog_ends_the_stream_or_cuts_it(autojump_clock: MockClock) -> None:
    async with desk(news(backlog={"events": 3, "bytes": "1MB"})) as at:
        clean, stuck = await at.open(), await at.open(stuck=True)
        clean.behind = stuck.behind = True
        for number in range(4):
            await at.room.publish("a", str(number))
        assert (clean.end, stuck.end) == ("clean", None)
        assert stuck.pending == 0
        await trio.sleep(FINISH_WITHIN + 0.1)
        assert stuck.end == "aborted"
        assert metrics(at).closes[CloseReason.SLOW] == 2
        await at.quiet()


# Draining


async def test_a_drain_is_spread_and_ends_everybody(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        answers = [await at.open() for _ in range(200)]
        began = trio.current_time()
        counted: list[int] = []
        at.room.nursery.start_soon(_count_open, answers, counted)
        with trio.fail_after(20.5):
            await at.streams.drain(20)
        assert all(answer.end == "clean" for answer in answers)
        assert trio.current_time() - began > 10
        halfway = counted[8]
        assert 60 < halfway < 140, "not spread evenly"
        assert metrics(at).closes[CloseReason.DRAINED] == 200
        turned_away = await at.open()
        assert (turned_away.status, turned_away.end) == (200, "clean")
        await at.quiet()


async def _count_open(answers: list[Answer], counted: list[int]) -> None:
    for _ in range(20):
        counted.append(sum(answer.end is None for answer in answers))
        await trio.sleep(1)


async def test_a_drain_cuts_those_who_do_not_read(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        reads, stalls = await at.open(), await at.open(stuck=True)
        stalls.behind = True
        with trio.fail_after(20.5):
            await at.streams.drain(20)
        assert (reads.end, stalls.end) == ("clean", "aborted")


async def test_a_drain_ends_streams_that_wait_for_their_binding(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        gate = at.room.broker.stall("bind")
        answer = await at.open()
        with trio.fail_after(2):
            await at.streams.drain(1)
        assert (answer.status, answer.end) == (200, "clean")
        gate.set()
        await at.quiet()


async def test_two_drains_at_once_both_end(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        for _ in range(10):
            await at.open()
        with trio.fail_after(20.5):
            async with trio.open_nursery() as nursery:
                for delay in range(3):
                    await trio.sleep(delay)
                    nursery.start_soon(at.streams.drain, 20)
        with trio.fail_after(0.1):
            await at.streams.drain(20)  # nothing is open any more


async def test_clients_that_come_back_do_not_hold_a_drain_up(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        await at.open()

        async def comes_back() -> None:
            while True:
                at.ask("/events/a", stuck=True)
                await trio.sleep(0.01)

        at.room.nursery.start_soon(comes_back)
        with trio.fail_after(2):
            await at.streams.drain(1)


# All of it together


async def test_whatever_clients_do_nothing_is_left(autojump_clock: MockClock) -> None:
    rng = random.Random(7)
    async with desk(news(max_age="50s", backlog={"events": 3, "bytes": 100})) as at:
        present: list[Answer] = []
        for step in range(600):
            choice = rng.random()
            if choice < 0.4:
                present.append(await at.open(f"/events/{rng.choice('abc')}", stuck=rng.random() < 0.2))
            elif choice < 0.6 and present:
                present.pop(rng.randrange(len(present))).leave()
            elif choice < 0.7 and present:
                rng.choice(present).behind = True
            elif choice < 0.95:
                await at.room.publish(rng.choice("abc"), "x" * rng.randrange(60))
            else:
                await trio.sleep(rng.choice([1, 20, LINGER + 1]))
            if step % 150 == 149:
                at.room.broker.lose()
                at.room.broker.restore()
        for answer in present:
            answer.leave()
        await trio.sleep(FINISH_WITHIN + 1)
        await at.quiet()
        assert sum(metrics(at).closes.values()) > 100
