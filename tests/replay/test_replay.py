"""Nothing missed, nothing twice, nothing in another order: replay routes before both brokers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import Broker, BrokerError, Offset, Reader, ReadSink
from tests.lab import wire
from tests.replay.conftest import PATIENCE, SMALL, Lab


def numbers(begin: int, end: int) -> list[str]:
    return [str(number) for number in range(begin, end)]


def heard(connection: wire.Http1) -> list[str]:
    """The data of the events; a reset as its type and reason."""
    return [
        event.data if event.type != "sidecar.reset" else f"{event.type} {event.data}"
        for event in connection.response.events
    ]


def reset(reason: str) -> str:
    return f'sidecar.reset {{"reason": "{reason}"}}'


async def until(connection: wire.Http1, *expected: str) -> str:
    """Wait until exactly these were heard; returns the last event id."""
    await connection.response.until(lambda _: expected[-1] in heard(connection)[len(expected) - 1 :], PATIENCE)
    assert heard(connection) == list(expected)
    return connection.response.stream.last_id


# The present


async def test_a_fresh_client_gets_a_place_before_any_event(lab: Lab) -> None:
    client = await lab.listen("/all")
    await client.response.until(lambda response: response.stream.last_id)
    place = client.response.stream.last_id
    await client.aclose()
    await lab.publish(*numbers(0, 3))
    back = await lab.listen("/all", place)
    await until(back, *numbers(0, 3))
    again = await lab.listen("/all", place)
    await until(again, *numbers(0, 3))


async def test_a_stream_collects_before_anybody_has_listened(lab: Lab) -> None:
    await lab.collecting("orders.events")
    await lab.publish(*numbers(0, 3))
    await until(await lab.listen("/all?last_event_id=earliest"), *numbers(0, 3))


async def test_a_fresh_client_hears_what_comes_and_nothing_of_the_past(lab: Lab) -> None:
    first = await lab.listen("/all")
    await lab.publish(*numbers(0, 5))
    await until(first, *numbers(0, 5))
    second = await lab.listen("/all")
    await lab.publish("5")
    await until(second, "5")
    await until(first, *numbers(0, 6))
    ids = [event.id for event in first.response.events]
    assert len(set(ids)) == 6
    assert second.response.events[0].id == ids[-1]


async def test_nothing_of_the_past_after_a_restart(lab: Lab) -> None:
    first = await lab.listen("/all")
    await lab.publish(*numbers(0, 300))
    await until(first, *numbers(0, 300))
    await lab.restart()
    fresh = await lab.listen("/all")
    await lab.publish("300")
    await until(fresh, "300")


# Coming back


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("count", [1, 1000])
async def test_coming_back(lab: Lab, restarted: bool, count: int) -> None:
    client = await lab.listen("/all")
    await lab.publish(*numbers(0, 3))
    place = await until(client, *numbers(0, 3))
    await client.aclose()
    await lab.publish(*numbers(3, 3 + count))
    if restarted:
        await lab.restart()
    back = await lab.listen("/all", place)
    await until(back, *numbers(3, 3 + count))
    await lab.publish("end")
    await until(back, *numbers(3, 3 + count), "end")


@pytest.mark.parametrize("restarted", [False, True])
async def test_coming_back_to_where_it_left(lab: Lab, restarted: bool) -> None:
    client = await lab.listen("/all")
    await lab.publish(*numbers(0, 3))
    place = await until(client, *numbers(0, 3))
    if restarted:
        await lab.restart()
    back = await lab.listen("/all", place)
    await lab.publish("3")
    await until(back, "3")


async def test_every_id_is_a_place(lab: Lab) -> None:
    client = await lab.listen("/all")
    await lab.publish(*numbers(0, 20))
    await until(client, *numbers(0, 20))
    ids = [event.id for event in client.response.events]
    await lab.restart()
    await lab.publish("20")
    for index in (0, 7, 19):
        back = await lab.listen("/all", ids[index])
        await until(back, *numbers(index + 1, 21))
        await back.aclose()


async def test_the_query_names_a_place_too(lab: Lab) -> None:
    client = await lab.listen("/all")
    await lab.publish(*numbers(0, 3))
    await until(client, *numbers(0, 3))
    place = client.response.events[0].id
    for name in ("last_event_id", "lastEventId"):
        await until(await lab.listen(f"/all?{name}={place}"), "1", "2")


async def test_only_what_the_route_says(lab: Lab) -> None:
    one, typed = await lab.listen("/orders/1"), await lab.listen("/typed")
    await lab.publish("a", key="order.1", type="paid")
    places = await until(one, "a"), await until(typed, "a")
    for connection in (one, typed):
        await connection.aclose()
    await lab.publish("b", key="order.2", type="paid")
    await lab.publish("c", key="order.1", type="sent")
    await lab.publish("d", key="order.1", type="paid")
    for _ in range(2):
        await until(await lab.listen("/orders/1", places[0]), "c", "d")
        await until(await lab.listen("/typed", places[1]), "b", "d")
        await until(await lab.listen("/orders/2", places[0]), "b")
        await lab.restart()


async def test_another_replica_knows_the_id(lab: Lab) -> None:
    second = await lab.start() if lab.memory is None else lab.services[0]
    client = await lab.listen("/all")
    witness = await lab.listen("/all", service=second)
    await lab.publish(*numbers(0, 5))
    await until(witness, *numbers(0, 5))
    place = await until(client, *numbers(0, 5))
    await client.aclose()
    back = await lab.listen("/all", place, second)
    await lab.publish(*numbers(5, 10))
    await until(back, *numbers(5, 10))


async def test_a_stream_route_reads_what_another_route_has_written(lab: Lab) -> None:
    writer = await lab.listen("/all")
    await lab.publish("a", key="order.1")
    await lab.publish("b", key="else")
    await lab.publish("c", key="order.2")
    await until(writer, "a", "b", "c")
    reader = await lab.listen("/stream?last_event_id=earliest")
    await until(reader, "a", "c")
    await lab.publish("d", key="else")
    await lab.publish("e", key="order.3")
    place = await until(reader, "a", "c", "e")
    await reader.aclose()
    await lab.publish("f", key="order.1")
    await until(await lab.listen("/stream", place), "f")


# Choosing the start


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("count", [0, 700])
async def test_from_the_earliest(lab: Lab, restarted: bool, count: int) -> None:
    witness = await lab.listen("/all")
    if count:
        await lab.publish(*numbers(0, count))
        await until(witness, *numbers(0, count))
    if restarted:
        await lab.restart()
    client = await lab.listen("/all", "earliest")
    await lab.publish(str(count))
    await until(client, *numbers(0, count + 1))


async def test_latest_is_the_present(lab: Lab) -> None:
    witness = await lab.listen("/all")
    await lab.publish("0")
    await until(witness, "0")
    client = await lab.listen("/all", "latest")
    await lab.publish("1")
    await until(client, "1")


async def test_since_a_time(lab: Lab) -> None:
    witness = await lab.listen("/all")
    await lab.publish(*numbers(0, 3))
    await until(witness, *numbers(0, 3))
    everything = await lab.listen("/all?since=2020-01-01T00:00:00Z")
    await until(everything, *numbers(0, 3))
    nothing = await lab.listen("/all?since=2100-01-01T00:00:00Z")
    await nothing.response.until(lambda response: b":\n" in response.body)
    with trio.fail_after(PATIENCE):  # until the broker's silence has been believed
        while not any(nothing_heard(lab)):  # noqa: ASYNC110
            await trio.sleep(0.01)
    await lab.publish("3")
    await until(everything, *numbers(0, 4))
    await until(nothing, "3")


def nothing_heard(lab: Lab) -> list[bool]:
    return [len(subscription.subscribers) == 3 for subscription in lab.services[0]._hub.subscriptions]


# What is told


FORGED = ("nonsense", "abcd.5.AAAAAA", "abcd.begin", "mAAAAAAAA.3", "ä".encode().decode("latin-1"), "x" * 200)


async def test_an_id_that_means_nothing_starts_live_with_a_reset(lab: Lab) -> None:
    witness = await lab.listen("/all")
    await lab.publish("0")
    await until(witness, "0")
    clients = [await lab.listen("/all", forged) for forged in FORGED]
    await lab.publish("1")
    for client in clients:
        await until(client, reset("unknown_id"), "1")


async def test_another_routes_id_means_nothing(lab: Lab) -> None:
    witness, other = await lab.listen("/all"), await lab.listen("/other")
    await lab.publish("0")
    await until(witness, "0")
    place = await until(other, "0")
    client = await lab.listen("/all", place)
    await lab.publish("1")
    await until(client, reset("unknown_id"), "1")


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_forged_check_is_noticed(lab: Lab, restarted: bool) -> None:
    witness = await lab.listen("/all")
    await lab.publish(*numbers(0, 5))
    await until(witness, *numbers(0, 5))
    tag, offset, _ = witness.response.events[2].id.split(".")
    if restarted:
        await lab.restart()
    client = await lab.listen("/all", f"{tag}.{offset}.AAAAAA")
    await lab.publish("5")
    await until(client, reset("recreated"), *numbers(0, 6))


async def test_an_offset_never_reached_is_noticed(lab: Lab) -> None:
    witness = await lab.listen("/all")
    await lab.publish(*numbers(0, 5))
    await until(witness, *numbers(0, 5))
    tag, _, check = witness.response.events[2].id.split(".")
    await lab.restart()
    client = await lab.listen("/all", f"{tag}.1000000.{check}")
    await client.response.until_events(1)
    await lab.publish("5")
    await until(client, reset("recreated"), *numbers(0, 6))


@pytest.mark.parametrize("restarted", [False, True])
async def test_retention_has_passed_the_place(lab: Lab, restarted: bool) -> None:
    client = await lab.listen("/short")
    await lab.publish("first", key=SMALL)
    place = await until(client, "first")
    await client.aclose()
    await lab.publish(*(f"{number:0100}" for number in range(400)), key=SMALL)
    if restarted:
        await lab.restart()
        back = await lab.listen("/short", place)
        await lab.publish("end", key=SMALL)
        await back.response.until(lambda response: "end" in response.data)
        told, *left = heard(back)
        assert told == reset("truncated")
        oldest = int(left[0])
        assert 0 < oldest < 400
        assert left == [*(f"{number:0100}" for number in range(oldest, 400)), "end"]
    else:  # the messages are in this process's memory still
        back = await lab.listen("/short", place)
        await lab.publish("end", key=SMALL)
        await until(back, *(f"{number:0100}" for number in range(400)), "end")


async def test_many_come_back_too_late(lab: Lab) -> None:
    client = await lab.listen("/short")
    await lab.publish("first", key=SMALL)
    place = await until(client, "first")
    await client.aclose()
    await lab.publish(*(f"{number:0100}" for number in range(400)), key=SMALL)
    await lab.restart()
    clients = [await lab.listen("/short", place) for _ in range(20)]
    await lab.publish("end", key=SMALL)
    for back in clients:
        await back.response.until(lambda response: "end" in response.data)
        assert heard(back) == heard(clients[0])
        assert heard(back).count(reset("truncated")) == 1


@pytest.mark.parametrize("count", [0, 20])
async def test_recreated_under_open_streams(lab: Lab, count: int) -> None:
    client, one = await lab.listen("/all"), await lab.listen("/orders/1")
    await lab.publish(*numbers(0, 5))
    place = await until(client, *numbers(0, 5))
    await until(one, *numbers(0, 5))
    await lab.recreate("orders.events")
    await lab.publish(*numbers(100, 100 + count))
    returning = await lab.listen("/all", place)
    await lab.publish("end")
    told = [reset("recreated"), *numbers(100, 100 + count), "end"]
    await until(client, *numbers(0, 5), *told)
    await until(one, *numbers(0, 5), *told)
    await until(returning, *told)


@pytest.mark.parametrize("count", [3, 20])
async def test_recreated_while_nobody_looked(lab: Lab, count: int) -> None:
    client = await lab.listen("/all")
    await lab.publish(*numbers(0, 10))
    place = await until(client, *numbers(0, 10))
    await lab.stop(lab.services[0])
    lab.delete("orders.events")
    await lab.start()
    await lab.listen("/all")
    await lab.publish(*numbers(100, 100 + count))
    back = await lab.listen("/all", place)
    await lab.publish("end")
    await until(back, reset("recreated"), *numbers(100, 100 + count), "end")


@pytest.mark.parametrize("open_meanwhile", [True, False])
async def test_recreated_is_told_once(lab: Lab, open_meanwhile: bool) -> None:
    """Who leaves before the next event has a place in the new stream already."""
    client = await lab.listen("/orders/1")
    await lab.publish(*numbers(0, 5))
    place = await until(client, *numbers(0, 5))
    if open_meanwhile:
        await lab.recreate("orders.events")
    else:
        await lab.stop(lab.services[0])
        lab.delete("orders.events")
        await lab.start()
    witness = await lab.listen("/all")
    await lab.publish(*numbers(100, 110), key="order.2")  # where there are any, the new stream is told from a slow one
    told = client if open_meanwhile else await lab.listen("/orders/1", place)
    await told.response.until(lambda response: response.stream.last_id.endswith(".begin"), PATIENCE)
    assert heard(told)[-1] == reset("recreated")
    before = place if open_meanwhile else ""
    assert told.response.events[-1].id == before  # the reset itself disturbs no id
    await told.aclose()
    await lab.publish(*numbers(110, 113))
    for _ in range(2):
        back = await lab.listen("/orders/1", told.response.stream.last_id)
        await until(back, *numbers(110, 113))
        await lab.restart()
    assert witness.response.status == 200


# Meanwhile


async def test_coming_back_while_more_arrives(lab: Lab) -> None:
    client = await lab.listen("/all")
    await lab.publish("first")
    place = await until(client, "first")
    total = 2000
    async with trio.open_nursery() as publishing:
        publishing.start_soon(publish_slowly, lab, total)
        connections = []
        for _ in range(10):
            connections.append(await lab.listen("/all", place))
            await trio.sleep(0.02)
    await until(client, "first", *numbers(0, total))
    for connection in connections:
        await until(connection, *numbers(0, total))


async def publish_slowly(lab: Lab, total: int) -> None:
    for number in range(total):
        await lab.publish(str(number))
        if number % 20 == 0:
            await trio.sleep(0.001)


async def test_one_client_that_comes_and_goes_hears_everything_once(lab: Lab) -> None:
    total, seen, place = 1500, [], ""
    async with trio.open_nursery() as publishing:
        client = await lab.listen("/all")
        publishing.start_soon(publish_slowly, lab, total)
        while len(seen) < total:
            await client.response.until_events(1, PATIENCE)
            await trio.sleep(0.005 * (len(seen) % 7))
            await client.aclose()
            seen += heard(client)
            place = client.response.events[-1].id
            if len(seen) < total:
                client = await lab.listen("/all", place)
    assert seen == numbers(0, total)


async def test_the_live_edge_moves_on_while_the_ring_is_filled(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.hub.tail.RING_EVENTS", 40)
    client = await lab.listen("/all")
    await lab.publish(*numbers(0, 30))
    await until(client, *numbers(0, 30))
    place = client.response.events[0].id
    service = await lab.restart()
    witness = await lab.listen("/all")
    read_stream, filling = service.broker.read_stream, list[Offset]()

    async def moving_on(name: str, offset: Offset, sink: ReadSink, **how: Any) -> Reader:
        reader = await read_stream(name, offset, sink, **how)
        aclose = reader.aclose

        async def close() -> None:
            if not filling:
                filling.append(offset)
                await lab.publish(*numbers(30, 100))
                await until(witness, *numbers(30, 100))
            await aclose()

        reader.aclose = close  # type: ignore[method-assign]
        return reader

    monkeypatch.setattr(service.broker, "read_stream", moving_on)
    back = await lab.listen("/all", place)
    await until(back, *numbers(1, 100))
    assert filling == [0]


async def test_a_slow_reader_is_sent_back_to_the_stream(lab: Lab) -> None:
    block = "x" * 20_000
    stalled = await wire.never_read(lab.address(), "/all")
    witness = await lab.listen("/all")
    await lab.publish_at_once(*(f"{number} {block}" for number in range(300)))
    await until(witness, *(f"{number} {block}" for number in range(300)))
    (subscription,) = [each for each in lab.services[0]._hub.subscriptions if each.metrics.path == "/all"]
    assert len(subscription.subscribers) == 1
    response = wire.Response()
    lab.nursery.start_soon(wire._read_http1, stalled, response, "GET")
    await response.until(lambda response: len(response.events) == 300, PATIENCE)
    assert [int(data.split()[0]) for data in response.data] == list(range(300))
    await lab.publish("end")
    await response.until(lambda response: response.data[-1] == "end")
    assert len(response.events) == 301


async def test_where_it_says_so_a_slow_reader_is_disconnected(lab: Lab) -> None:
    block = "x" * 20_000
    stalled = await wire.never_read(lab.address(), "/disconnecting")
    witness = await lab.listen("/all")
    for number in range(300):
        await lab.publish(f"{number} {block}")
    await until(witness, *(f"{number} {block}" for number in range(300)))
    response = wire.Response()
    lab.nursery.start_soon(wire._read_http1, stalled, response, "GET")
    await response.until_end()
    place = response.events[-1].id
    got = len(response.events)
    assert got < 300
    back = await lab.listen("/disconnecting", place)
    await until(back, *(f"{number} {block}" for number in range(got, 300)))


async def test_many_come_back_together_for_one_reader(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await lab.listen("/all")
    await lab.publish("first")
    place = await until(client, "first")
    await lab.publish(*numbers(0, 500))
    await lab.stop(lab.services[0])
    service = await lab.start()
    readings = counted(service.broker, monkeypatch)
    clients: list[wire.Http1] = []

    async def come_back() -> None:
        clients.append(await lab.listen("/all", place))

    async with trio.open_nursery() as together:
        for _ in range(100):
            together.start_soon(come_back)
    for back in clients:
        await until(back, *numbers(0, 500))
    assert len(readings) <= 3  # the live one, the one for all, and one more for who came when that was under way


def counted(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> list[Offset]:
    """The offsets of every reading from now on."""
    readings: list[Offset] = []
    read_stream = broker.read_stream

    async def counting(
        name: str, offset: Offset, sink: ReadSink, *, window: int, filters: Sequence[str] = ()
    ) -> Reader:
        readings.append(offset)
        return await read_stream(name, offset, sink, window=window, filters=filters)

    monkeypatch.setattr(broker, "read_stream", counting)
    return readings


async def test_a_slow_http2_stream_loses_nothing(lab: Lab) -> None:
    """One batch larger than a frame: what the window does not take of it must not be left out."""
    connection = await wire.open_http2(lab.nursery, lab.address(), initial_window=20_000)
    slow = await connection.get("/all", reading=False)
    quick = await connection.get("/all")
    await slow.response.until_open()
    await quick.response.until_open()
    block = "x" * 3_000
    await lab.publish_at_once(*(f"{number} {block}" for number in range(200)))
    await quick.response.until_events(200)
    slow.reading = True
    await connection.widen(1_000_000, slow.id)
    await slow.response.until_events(200)
    assert [int(data.split()[0]) for data in slow.response.data] == list(range(200))
    await lab.publish("end")
    await slow.response.until(lambda response: response.data[-1] == "end")
    assert len(slow.response.events) == 201


class Muted:
    """A sink whose broker sends so many messages, and then nothing more."""

    def __init__(self, sink: ReadSink, messages: int) -> None:
        self._sink = sink
        self._left = messages

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        passed, self._left = deliveries[: self._left], self._left - len(deliveries[: self._left])
        if passed:
            self._sink.deliver(passed)

    def ended(self, error: BrokerError) -> None:
        self._sink.ended(error)


async def test_a_reading_that_stands_still_is_begun_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of RabbitMQ 3.10 may, for ever, once retention has overtaken it."""
    broker = lab.services[0].broker
    read, readings = broker.read_stream, list[Offset]()

    async def muted_once(name: str, offset: Offset, sink: ReadSink, **more: Any) -> Reader:
        readings.append(offset)
        return await read(name, offset, Muted(sink, 300) if len(readings) == 1 else sink, **more)

    monkeypatch.setattr(broker, "read_stream", muted_once)
    client = await lab.listen("/all")
    await lab.publish(*numbers(0, 350))
    await until(client, *numbers(0, 350))
    assert readings == ["last", "last", 299]  # the live one, the question for the end, the next live one
    await lab.publish("end")
    await until(client, *numbers(0, 350), "end")


# In memory


async def test_memory_gives_what_it_has(lab: Lab) -> None:
    client = await lab.listen("/remembered")
    await client.response.until(lambda response: response.stream.last_id)
    begin = client.response.stream.last_id
    await lab.publish(*numbers(0, 3))
    place = await until(client, *numbers(0, 3))
    await client.aclose()
    await lab.publish("3", "4")
    await until(await lab.listen("/remembered", place), "3", "4")
    await until(await lab.listen("/remembered", begin), *numbers(0, 5))
    await until(await lab.listen("/remembered", "earliest"), *numbers(0, 5))
    fresh = await lab.listen("/remembered")
    await lab.publish("5", "6")
    await until(fresh, "5", "6")
    await until(await lab.listen("/remembered", begin), reset("truncated"), *numbers(2, 7))


async def test_memory_knows_only_its_own_ids(lab: Lab) -> None:
    client = await lab.listen("/remembered")
    await lab.publish("0")
    place = await until(client, "0")
    await lab.restart()
    witness = await lab.listen("/remembered")
    await lab.publish("1")
    await until(witness, "1")
    back = await lab.listen("/remembered", place)
    await lab.publish("2")
    await until(back, reset("unknown_id"), "2")
