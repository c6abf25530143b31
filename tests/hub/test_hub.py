"""Which bindings stand, and when: counted, shared, lingering, and through every race of subscribing and leaving."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from sidecar.broker.port import BrokerAway, BrokerRefused, Declaration, Exchange
from sidecar.hub.hub import LINGER
from sidecar.observe.reasons import CloseReason, ResetReason
from sidecar.topic import topic_matches
from tests.hub.stand_ins import NEWS, Listener, Room, room

# Counted and shared


async def test_one_binding_for_each_distinct_key(autojump_clock: MockClock) -> None:
    async with room() as hub:
        for _ in range(50):
            await hub.listen("a")
            await hub.listen("b", "a")
        assert hub.broker.asked == [("tap", "news"), ("bind", "a"), ("bind", "b")]
        assert repr(hub.hub) == "<Hub 2 subscriptions on 1 sources>"


async def test_two_routes_share_a_key_but_not_a_subscription(autojump_clock: MockClock) -> None:
    async with room() as hub:
        one = await hub.listen("a", route="/one", event="one")
        two = await hub.listen("a", route="/two", event="two")
        await hub.publish("a", "x")
        assert [event.type for event in one.events + two.events] == ["one", "two"]
        assert hub.broker.asked.count(("bind", "a")) == 1
        hub.leave(one)
        await trio.sleep(2 * LINGER)
        assert hub.broker.keys == {"a"}


async def test_a_message_that_meets_two_keys_of_a_subscription_comes_once(autojump_clock: MockClock) -> None:
    async with room() as hub:
        listener = await hub.listen("a.*", "*.b", "a.b")
        await hub.publish("a.b", "once")
        assert listener.data == ["once"]


async def test_bodies_arrive_in_order_in_every_lane(autojump_clock: MockClock) -> None:
    async with room() as hub:
        listeners = [await hub.listen("#", framing=number % 3) for number in range(9)]
        for number in range(20):
            await hub.publish("k", str(number))
        assert all(listener.data == [str(number) for number in range(20)] for listener in listeners)
        assert hub.metrics.route("/x").sent == 9 * 20
        assert hub.metrics.route("/x").received == 20


async def test_what_nobody_hears_is_not_encoded(autojump_clock: MockClock) -> None:
    async with room() as hub:
        listener = await hub.listen("a")
        hub.leave(listener)
        await hub.publish("a")
        counts = hub.metrics.route("/x")
        assert (counts.received, counts.sent, sum(counts.delivery_counts)) == (1, 0, 0)


# Lingering


async def test_a_key_is_unbound_a_while_after_its_last_subscriber_left(autojump_clock: MockClock) -> None:
    async with room() as hub:
        listeners = [await hub.listen("a") for _ in range(3)]
        for listener in listeners:
            hub.leave(listener)
            await trio.sleep(LINGER - 1)
            assert hub.broker.keys == {"a"}
        await trio.sleep(2)
        assert hub.broker.keys == set()
        assert hub.broker.open_taps == set()
        assert sorted(hub.broker.asked[2:]) == [("close", ""), ("unbind", "a")]
        assert repr(hub.hub) == "<Hub 0 subscriptions on 0 sources>"


async def test_who_comes_back_within_the_while_finds_the_binding(autojump_clock: MockClock) -> None:
    async with room() as hub:
        for number in range(20):
            standing = hub.hub.standing(hub.wanted("a"))
            assert (standing is None) == (number == 0)
            listener = Listener().join(standing) if standing else await hub.listen("a")
            await hub.publish("a", str(number))
            assert listener.data == [str(number)]
            hub.leave(listener)
            await trio.sleep(LINGER - 1)
        assert hub.broker.asked == [("tap", "news"), ("bind", "a")]


async def test_other_keys_of_the_exchange_stay(autojump_clock: MockClock) -> None:
    async with room() as hub:
        gone, stays = await hub.listen("a", "both"), await hub.listen("b", "both")
        hub.leave(gone)
        await trio.sleep(LINGER + 1)
        assert hub.broker.keys == {"b", "both"}
        await hub.publish("both", "still")
        assert (gone.data, stays.data) == ([], ["still"])


# Races


async def test_two_at_once_bind_once_and_both_hear(autojump_clock: MockClock) -> None:
    async with room() as hub:
        gate, found = hub.broker.stall("bind"), []

        async def comes() -> None:
            found.append(await hub.listen("a"))

        for _ in range(5):
            hub.nursery.start_soon(comes)
        await wait_all_tasks_blocked()
        assert found == []
        gate.set()
        await wait_all_tasks_blocked()
        assert hub.broker.asked == [("tap", "news"), ("bind", "a")]
        await hub.publish("a", "x")
        assert [listener.data for listener in found] == [["x"]] * 5
        for listener in found:
            hub.leave(listener)
        await trio.sleep(LINGER + 1)
        assert hub.broker.keys == set()


async def test_a_bind_that_comes_while_the_key_is_being_unbound(autojump_clock: MockClock) -> None:
    async with room() as hub:
        other = await hub.listen("other")
        hub.leave(await hub.listen("a"))
        gate = hub.broker.stall("unbind")
        await trio.sleep(LINGER + 1)
        assert hub.broker.asked[-1] == ("unbind", "a")
        arrived = []

        async def comes() -> None:
            arrived.append(await hub.listen("a"))

        hub.nursery.start_soon(comes)
        await wait_all_tasks_blocked()
        assert arrived == []  # its first bytes must wait: what is published now could be missed
        gate.set()
        await wait_all_tasks_blocked()
        assert hub.broker.keys == {"a", "other"}
        await hub.publish("a", "heard")
        assert arrived[0].data == ["heard"]
        assert other.data == []


async def test_a_cancelled_subscriber_takes_its_binding_along(autojump_clock: MockClock) -> None:
    async with room() as hub:
        gate = hub.broker.stall("bind")
        with trio.move_on_after(5) as waited:
            await hub.listen("a")
        assert waited.cancelled_caught
        gate.set()
        await wait_all_tasks_blocked()
        assert ("unbind", "a") in hub.broker.asked  # it may stand: the call was cut short
        assert hub.broker.keys == set()
        assert repr(hub.hub) == "<Hub 0 subscriptions on 0 sources>"


async def test_a_cancelled_subscriber_leaves_the_others_alone(autojump_clock: MockClock) -> None:
    async with room() as hub:
        gate, found = hub.broker.stall("bind"), []

        async def stays() -> None:
            found.append(await hub.listen("a"))

        async def goes() -> None:
            with trio.move_on_after(5):
                await hub.listen("a")

        hub.nursery.start_soon(goes)
        await wait_all_tasks_blocked()
        hub.nursery.start_soon(stays)
        await trio.sleep(10)
        gate.set()
        await wait_all_tasks_blocked()
        assert hub.broker.keys == {"a"}
        await hub.publish("a", "x")
        assert found[0].data == ["x"]


async def test_an_exchange_refused_while_somebody_binds(autojump_clock: MockClock) -> None:
    async with room() as hub:
        listener = await hub.listen("a")
        gate, errors = hub.broker.stall("bind"), []

        async def comes() -> None:
            with pytest.raises(BrokerRefused) as caught:
                await hub.listen("b")
            errors.append(str(caught.value))

        hub.nursery.start_soon(comes)
        await wait_all_tasks_blocked()
        hub.broker.refuse("exchange deleted")
        assert listener.reasons == [CloseReason.BROKER_REFUSED]
        gate.set()
        await wait_all_tasks_blocked()
        assert errors == ["'news' was lost while it was being bound"]
        again = await hub.listen("a")
        await hub.publish("a", "anew")
        assert again.data == ["anew"]
        assert hub.broker.asked.count(("tap", "news")) == 2


async def test_a_refused_binding_leaves_nothing_and_can_be_tried_again(autojump_clock: MockClock) -> None:
    async with room() as hub:
        hub.broker.failures["bind"] = BrokerRefused("no permission")
        with pytest.raises(BrokerRefused, match="no permission"):
            await hub.listen("a")
        await wait_all_tasks_blocked()
        assert repr(hub.hub) == "<Hub 0 subscriptions on 0 sources>"
        assert hub.broker.open_taps == set()
        listener = await hub.listen("a")
        await hub.publish("a", "x")
        assert listener.data == ["x"]


async def test_a_key_that_cannot_be_unbound_is_forgotten(autojump_clock: MockClock) -> None:
    async with room() as hub:
        stays = await hub.listen("b")
        hub.leave(await hub.listen("a"))
        hub.broker.failures["unbind"] = BrokerRefused("precondition failed")
        await trio.sleep(LINGER + 1)
        source = hub.hub._sources[NEWS]
        assert repr(source) == "<ExchangeSource news 1 bindings>"
        assert (await hub.listen("a")).subscription is not stays.subscription


async def test_an_exchange_that_is_not_there(autojump_clock: MockClock) -> None:
    async with room() as hub:
        for _ in range(2):
            with pytest.raises(BrokerRefused, match="no exchange 'missing'"):
                await hub.listen("a", source=Exchange("missing"))
            assert repr(hub.hub) == "<Hub 0 subscriptions on 0 sources>"


# The broker goes and comes


async def test_the_broker_lost_and_restored_is_one_reset_for_each_subscriber(autojump_clock: MockClock) -> None:
    async with room() as hub:
        listeners = [await hub.listen("a", "b"), await hub.listen("b"), await hub.listen("a")]
        hub.broker.lose()
        with pytest.raises(BrokerAway):
            await hub.listen("c")
        assert hub.hub.standing(hub.wanted("b")) is None
        assert [listener.resets for listener in listeners] == [[], [], []]
        hub.broker.restore()
        assert [listener.resets for listener in listeners] == [[ResetReason.BROKER_RECONNECTED]] * 3
        await hub.publish("b", "x")
        assert [listener.data for listener in listeners] == [["x"], ["x"], []]


async def test_who_leaves_while_the_broker_is_away_is_unbound_all_the_same(autojump_clock: MockClock) -> None:
    async with room() as hub:
        stays, leaves = await hub.listen("a"), await hub.listen("b")
        hub.broker.lose()
        hub.leave(leaves)
        await trio.sleep(LINGER + 1)
        hub.broker.restore()
        assert (leaves.resets, stays.resets) == ([], [ResetReason.BROKER_RECONNECTED])
        assert hub.broker.keys == {"a"}
        assert len(hub.hub.subscriptions) == 1


async def test_refused_ends_its_streams_and_no_others(autojump_clock: MockClock) -> None:
    other = Exchange("other", Declaration("fanout"))
    async with room() as hub:
        mine, theirs = await hub.listen("a"), await hub.listen("", source=other)
        hub.broker.refuse("gone")
        assert (mine.reasons, theirs.reasons) == ([CloseReason.BROKER_REFUSED], [])
        hub.leave(mine)
        await hub.publish("", "x", exchange="other")
        assert theirs.data == ["x"]
        await trio.sleep(LINGER + 1)
        assert repr(hub.hub) == "<Hub 1 subscriptions on 1 sources>"


# Against a model

KEYS = ["a", "b", "a.b", "a.*", "*.b", "#", "a.#"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True)),
        st.tuples(st.just("leave"), st.integers(0, 20)),
        st.tuples(st.just("publish"), st.sampled_from(["a", "b", "a.b", "b.b", "a.b.c"])),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 20.0, LINGER + 1])),
        st.tuples(st.just("outage"), st.none()),
    ),
    max_size=25,
)


@given(STEPS)
@settings(max_examples=80, deadline=None)
def test_whatever_happens_the_bindings_are_those_of_the_subscribers(steps: list[tuple[str, object]]) -> None:
    trio.run(_play, steps, clock=MockClock(autojump_threshold=0))


async def _play(steps: list[tuple[str, object]]) -> None:
    async with room() as hub:
        present: list[tuple[Listener, list[str], list[str]]] = []
        for number, (verb, value) in enumerate(steps):
            if verb == "come":
                assert isinstance(value, list)
                present.append((await hub.listen(*value), value, []))
            elif verb == "leave" and present:
                assert isinstance(value, int)
                hub.leave(present.pop(value % len(present))[0])
            elif verb == "publish":
                assert isinstance(value, str)
                await hub.publish(value, str(number))
                for _, keys, heard in present:
                    heard += [str(number)] * any(topic_matches(key, value) for key in keys)
            elif verb == "wait":
                assert isinstance(value, float)
                await trio.sleep(value)
            elif verb == "outage":
                hub.broker.lose()
                hub.broker.restore()
            assert hub.broker.keys >= {key for _, keys, _ in present for key in keys}
        await _check_and_clear(hub, present)


async def _check_and_clear(hub: Room, present: list[tuple[Listener, list[str], list[str]]]) -> None:
    for listener, _, heard in present:
        assert listener.data == heard
    await trio.sleep(LINGER + 1)
    assert hub.broker.keys == {key for _, keys, _ in present for key in keys}
    for listener, _, _ in present:
        hub.leave(listener)
    await trio.sleep(LINGER + 1)
    assert (hub.broker.keys, hub.broker.open_taps, len(hub.hub.deadlines)) == (set(), set(), 0)
    assert repr(hub.hub) == "<Hub 0 subscriptions on 0 sources>"
