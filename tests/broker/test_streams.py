"""Streams, as the port promises them of both brokers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
import trio

from sidecar.amqp import Delivery, Properties
from sidecar.broker.memory_stream import FILTERED_AT_ONCE
from sidecar.broker.port import (
    FILTER_VALUE,
    Binding,
    Broker,
    BrokerAway,
    BrokerRefused,
    Declaration,
    Exchange,
    Offset,
    Reader,
    StreamQueue,
    WorkQueue,
)
from sidecar.cursor import check_of
from tests.broker.sinks import ReadRecorder, Recorder
from tests.lab.publisher import publishing

ORDERS = Exchange("orders", Declaration("topic"))
EVENTS = StreamQueue("events", declare=True, bindings=((ORDERS, Binding("#")),))
SMALL = StreamQueue("small", declare=True, max_bytes=20_000, segment_bytes=4_000, bindings=((ORDERS, Binding("#")),))

Delete = Callable[[str], None]


async def publish(broker: Broker, *bodies: bytes, key: str = "k") -> None:
    for body in bodies:
        await broker.publish("orders", key, body)


async def filled(broker: Broker, count: int, stream: StreamQueue = EVENTS, size: int = 1) -> None:
    await broker.open_stream(stream)
    await publish(broker, *(b"%0*d" % (size, number) for number in range(count)))


async def read(broker: Broker, offset: Offset, name: str = "events", window: int = 1000) -> tuple[Reader, ReadRecorder]:
    sink = ReadRecorder()
    return await broker.read_stream(name, offset, sink, window=window), sink


# Where reading begins


@pytest.mark.parametrize(
    ("offset", "first"),
    [("first", 0), (0, 0), (3, 3), (9, 9), (-5, 0), ("last", 9), ("next", 10), (10, 10)],
)
async def test_where_reading_begins(broker: Broker, offset: Offset, first: int) -> None:
    await filled(broker, 10)
    reader, sink = await read(broker, offset)
    await publish(broker, b"10")
    await sink.until(lambda: b"10" in sink.bodies)
    assert sink.bodies == [b"%d" % number for number in range(first, 11)]
    assert sink.offsets == list(range(first, 11))
    assert not sink.errors
    await reader.aclose()


@pytest.mark.parametrize(("ago", "first"), [(timedelta(hours=1), 0), (-timedelta(hours=1), 3)])
async def test_reading_from_a_time(broker: Broker, ago: timedelta, first: int) -> None:
    await filled(broker, 3)
    _, sink = await read(broker, datetime.now(UTC) - ago)
    await publish(broker, b"3")
    await sink.until(lambda: b"3" in sink.bodies)
    assert sink.offsets == list(range(first, 4))


async def test_an_offset_beyond_the_end_is_waited_for(broker: Broker) -> None:
    await filled(broker, 5)
    _, sink = await read(broker, 8)
    await publish(broker, *(b"%d" % number for number in range(5, 10)))
    await sink.until_bodies(b"8", b"9")


@pytest.mark.parametrize("offset", ["first", "last", "next", 0])
async def test_an_empty_stream(broker: Broker, offset: Offset) -> None:
    await broker.open_stream(EVENTS)
    _, sink = await read(broker, offset)
    await publish(broker, b"a", b"b")
    await sink.until_bodies(b"a", b"b")
    assert sink.offsets == [0, 1]


async def test_each_reads_for_itself(broker: Broker) -> None:
    await filled(broker, 5)
    (first, heard_first), (_, heard_second) = await read(broker, "first"), await read(broker, 3)
    await heard_first.until(lambda: len(heard_first.deliveries) == 5)
    await heard_second.until_bodies(b"3", b"4")
    await first.aclose()
    await first.aclose()
    await publish(broker, b"5")
    await heard_second.until_bodies(b"3", b"4", b"5")
    assert len(heard_first.deliveries) == 5
    assert not heard_first.errors
    assert not heard_second.errors


# How much comes


async def test_no_more_than_the_window_comes_ahead(broker: Broker) -> None:
    await filled(broker, 100)
    reader, sink = await read(broker, "first", window=10)
    _, witness = await read(broker, 0)
    await witness.until(lambda: len(witness.deliveries) == 100)
    assert len(sink.deliveries) == 10
    reader.credit(1)
    await sink.until(lambda: len(sink.deliveries) == 11)
    for expected in (12, 13, 14):
        reader.credit(1)
        await sink.until(lambda expected=expected: len(sink.deliveries) == expected)
    reader.credit(10)
    await sink.until(lambda: len(sink.deliveries) == 24)
    assert sink.offsets == list(range(24))


async def test_credit_may_be_given_while_hearing(broker: Broker) -> None:
    await filled(broker, 300)
    sink = ReadRecorder()
    reader = await broker.read_stream("events", "next", sink, window=7)
    sink.on_delivery = lambda deliveries: reader.credit(len(deliveries))
    await publish(broker, *(b"%d" % number for number in range(300, 400)))
    await sink.until(lambda: len(sink.deliveries) == 100)
    assert sink.offsets == list(range(300, 400))


async def test_a_sink_may_close_its_reader(broker: Broker, nursery: trio.Nursery) -> None:
    await filled(broker, 3)
    sink = ReadRecorder()
    reader = await broker.read_stream("events", "next", sink, window=1)
    closed = trio.Event()

    async def close() -> None:
        await reader.aclose()
        closed.set()

    sink.on_delivery = lambda _: nursery.start_soon(close)
    await publish(broker, b"a", b"b")
    await closed.wait()
    assert sink.bodies == [b"a"]


# What comes


async def test_a_message_is_the_same_at_every_reading(broker: Broker) -> None:
    stamp = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    properties = Properties(
        content_type="text/plain",
        headers={"tenant": "a", "number": 7},
        message_id="m-1",
        timestamp=stamp,
        type="order.paid",
    )
    await broker.open_stream(EVENTS)
    tapped = Recorder()
    await (await broker.tap(ORDERS, tapped)).bind(Binding("#"))
    await broker.publish("orders", "order.7.paid", b"{}", properties)
    _, once = await read(broker, 0)
    _, again = await read(broker, "last")
    for sink in (once, again):
        await sink.until(lambda sink=sink: sink.deliveries)
    await tapped.until_key("order.7.paid")
    heard: Sequence[Delivery] = [once.deliveries[0], again.deliveries[0]]
    for delivery in heard:
        found = delivery.properties
        assert (delivery.exchange, delivery.routing_key, delivery.body) == ("orders", "order.7.paid", b"{}")
        assert (found.type, found.message_id, found.timestamp) == ("order.paid", "m-1", stamp)
        assert dict(found.headers) == {"tenant": "a", "number": 7, "x-stream-offset": 0}
    assert check_of(heard[0]) == check_of(heard[1]) == check_of(tapped.deliveries[0])


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 3_000_000])
async def test_bodies_of_any_size(broker: Broker, size: int) -> None:
    await broker.open_stream(EVENTS)
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    await publish(broker, body, b"next")
    _, sink = await read(broker, "first")
    await sink.until_bodies(body, b"next")


async def test_a_message_is_in_it_once_however_many_bindings_match(broker: Broker) -> None:
    bindings = ((ORDERS, Binding("a.#")), (ORDERS, Binding("#.b")), (ORDERS, Binding("only")))
    await broker.open_stream(StreamQueue("events", declare=True, bindings=bindings))
    await publish(broker, b"twice", key="a.b")
    await publish(broker, b"not at all", key="else")
    await publish(broker, b"end", key="only")
    _, sink = await read(broker, "first")
    await sink.until_bodies(b"twice", b"end")


async def test_by_its_own_name(broker: Broker) -> None:
    await broker.open_stream(StreamQueue("events", declare=True))
    await broker.publish("", "events", b"straight")
    _, sink = await read(broker, "first")
    await sink.until_bodies(b"straight")
    assert sink.deliveries[0].routing_key == "events"


# Filters

VALUES = (["a", "b", None, "c"] * 15, ["a"] * 40 + ["b"] * 5 + ["c"] * 40 + [None] * 5, ["c"] * 60 + ["b"])


@pytest.mark.parametrize("values", VALUES, ids=["mixed", "grouped", "rare"])
@pytest.mark.parametrize("filters", [("a",), ("b",), ("a", "b"), ("c", "nobody")])
async def test_a_filter_holds_back_nothing_that_is_meant(
    broker: Broker, values: Sequence[str | None], filters: Sequence[str]
) -> None:
    await broker.open_stream(EVENTS)
    for number, value in enumerate(values):
        await broker.publish("orders", "k", b"%d" % number, valued(value))
    sink = ReadRecorder()
    reader = await broker.read_stream("events", "first", sink, window=10, filters=filters)
    sink.on_delivery = lambda deliveries: reader.credit(len(deliveries))
    reader.credit(len(sink.deliveries))
    await broker.publish("orders", "k", b"end", valued(filters[0]))
    await sink.until(lambda: b"end" in sink.bodies)
    assert sink.offsets == sorted(set(sink.offsets))
    meant = [b"%d" % number for number, value in enumerate(values) if value in filters]
    assert [each.body for each in sink.deliveries if each.properties.headers.get(FILTER_VALUE) in filters] == [
        *meant,
        b"end",
    ]
    assert all(int(each.body) == offset for offset, each in zip(sink.offsets[:-1], sink.deliveries[:-1], strict=True))


def valued(value: str | None) -> Properties:
    return Properties(headers={} if value is None else {FILTER_VALUE: value})


async def test_a_filtered_reading_begins_where_it_should(broker: Broker) -> None:
    await broker.open_stream(EVENTS)
    for number in range(30):
        await broker.publish("orders", "k", b"%d" % number, valued("ab"[number % 2]))
    sink = ReadRecorder()
    await broker.read_stream("events", 11, sink, window=100, filters=["b"])
    await sink.until(lambda: b"29" in sink.bodies)
    assert sink.offsets[0] == 11
    assert {b"%d" % number for number in range(11, 30, 2)} <= set(sink.bodies)


async def test_a_filter_holds_back_what_is_not_meant(broker: Broker, url: str) -> None:
    await broker.open_stream(EVENTS)
    for value in ["a"] * 100 + ["b"] + ["a"] * 100:
        await broker.publish("orders", "k", b"", valued(value))
    sink = ReadRecorder()
    await broker.read_stream("events", "first", sink, window=1000, filters=["b"])
    await broker.publish("orders", "k", b"end", valued("b"))
    await sink.until(lambda: b"end" in sink.bodies)
    assert 100 in sink.offsets
    if filtering(url):
        assert len(sink.deliveries) <= 2 * FILTERED_AT_ONCE
    else:  # RabbitMQ before 3.13; tests/longer/with_newer_rabbitmq.py has a newer one
        assert sink.offsets == list(range(202))


def filtering(url: str) -> bool:
    if url == "memory://":
        return True
    with publishing(url) as asking:
        return asking.broker_version >= (3, 13)


# Retention


async def test_retention_drops_whole_segments_and_clamps(broker: Broker) -> None:
    await filled(broker, 400, SMALL, size=100)
    _, sink = await read(broker, 0, "small")
    await sink.until(lambda: b"%0100d" % 399 in sink.bodies)
    assert 0 < sink.offsets[0] < 399
    assert sink.offsets == sorted(set(sink.offsets))
    numbers = [int(body) for body in sink.bodies]
    assert numbers == list(range(numbers[0], 400))


async def test_a_reader_goes_on_while_retention_cuts(broker: Broker) -> None:
    await filled(broker, 1, SMALL, size=100)
    reader, sink = await read(broker, 0, "small", window=20)
    await sink.until(lambda: sink.deliveries)
    sink.on_delivery = lambda deliveries: reader.credit(len(deliveries))
    reader.credit(1)
    await publish(broker, *(b"%0100d" % number for number in range(1, 400)))
    await sink.until(lambda: b"%0100d" % 399 in sink.bodies)
    assert [int(body) for body in sink.bodies] == list(range(400))


# Declaring


async def test_declared_again_it_is_the_same(broker: Broker) -> None:
    await filled(broker, 2)
    more = StreamQueue("events", declare=True, bindings=((Exchange("amq.topic"), Binding("more")), *EVENTS.bindings))
    await broker.open_stream(more)
    await broker.open_stream(StreamQueue("events"))
    await broker.publish("amq.topic", "more", b"2")
    _, sink = await read(broker, "first")
    await sink.until_bodies(b"0", b"1", b"2")


@pytest.mark.parametrize(
    ("other", "argument"),
    [
        (StreamQueue("s", declare=True, max_age=61), "x-max-age"),
        (StreamQueue("s", declare=True, max_age=60, max_bytes=10_000), "x-max-length-bytes"),
        (StreamQueue("s", declare=True, max_age=60, segment_bytes=9_000), "x-stream-max-segment-size-bytes"),
    ],
)
async def test_other_arguments_are_refused(broker: Broker, other: StreamQueue, argument: str) -> None:
    await broker.open_stream(StreamQueue("s", declare=True, max_age=60))
    with pytest.raises(BrokerRefused, match=rf"inequivalent arg '{argument}' for queue 's'.*or delete it"):
        await broker.open_stream(other)
    await broker.open_stream(StreamQueue("s", declare=True, max_age=60))


async def test_what_is_no_stream_is_refused(broker: Broker) -> None:
    await broker.consume(WorkQueue("work", declare=True), ReadRecorder(), prefetch=1)
    with pytest.raises(BrokerRefused, match="inequivalent arg 'x-queue-type' for queue 'work'"):
        await broker.open_stream(StreamQueue("work", declare=True))
    with pytest.raises(BrokerRefused, match="'work' exists and is no stream"):
        await broker.open_stream(StreamQueue("work"))
    with pytest.raises(BrokerRefused, match="'work' exists and is no stream"):
        await read(broker, "first", "work")
    assert broker.connected


async def test_what_is_missing_is_refused(broker: Broker) -> None:
    with pytest.raises(BrokerRefused, match="no queue 'nothing'"):
        await broker.open_stream(StreamQueue("nothing"))
    with pytest.raises(BrokerRefused, match="no queue 'nothing'"):
        await read(broker, "first", "nothing")
    nowhere = ((Exchange("nowhere"), Binding("#")),)
    with pytest.raises(BrokerRefused, match="no exchange 'nowhere'"):
        await broker.open_stream(StreamQueue("events", declare=True, bindings=nowhere))
    with pytest.raises(BrokerRefused, match="default exchange"):
        await broker.open_stream(StreamQueue("events", declare=True, bindings=((Exchange(""), Binding("k")),)))
    with pytest.raises(BrokerRefused, match="routing key"):
        await broker.open_stream(StreamQueue("events", declare=True, bindings=((ORDERS, Binding("x" * 256)),)))
    assert broker.connected


# The end


async def test_a_deleted_stream_ends_its_readers(broker: Broker, delete: Delete) -> None:
    await filled(broker, 3)
    reader, sink = await read(broker, "first")
    await sink.until(lambda: len(sink.deliveries) == 3)
    delete("events")
    error = await sink.until_ended()
    assert isinstance(error, BrokerRefused)
    assert "no queue 'events'" in str(error)
    reader.credit(3)
    await reader.aclose()
    with pytest.raises(BrokerRefused, match="no queue 'events'"):
        await read(broker, "first")
    assert broker.connected


async def test_made_anew_it_begins_at_zero(broker: Broker, delete: Delete) -> None:
    await filled(broker, 5)
    delete("events")
    await broker.open_stream(EVENTS)
    await publish(broker, b"new")
    _, sink = await read(broker, "first")
    await sink.until_bodies(b"new")
    assert sink.offsets == [0]
    await publish(broker, b"newer")
    await sink.until_bodies(b"new", b"newer")


async def test_after_aclose_nothing_is_heard(broker: Broker, delete: Delete) -> None:
    await filled(broker, 3)
    reader, sink = await read(broker, "next")
    _, witness = await read(broker, "next")
    await reader.aclose()
    await publish(broker, b"x")
    await witness.until_bodies(b"x")
    delete("events")
    await witness.until_ended()
    assert not sink.deliveries
    assert not sink.errors


async def test_a_caller_who_gives_up_leaves_no_reader(broker: Broker) -> None:
    await filled(broker, 3)
    sink = ReadRecorder()
    with trio.CancelScope() as scope:
        scope.cancel()
        await broker.read_stream("events", "first", sink, window=10)
    assert scope.cancelled_caught
    _, witness = await read(broker, "first")
    await witness.until(lambda: len(witness.deliveries) == 3)
    assert not sink.errors


async def test_with_the_connection_every_reader_ends_once(url: str) -> None:
    from sidecar.broker import open_broker
    from sidecar.config.model import BrokerSettings

    broker = open_broker(BrokerSettings(url=[url]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        await broker.wait_connected()
        await filled(broker, 3)
        readings = [await read(broker, "first") for _ in range(3)]
        closed, heard_closed = await read(broker, "first")
        await closed.aclose()
        nursery.cancel_scope.cancel()
    for reader, sink in readings:
        assert [type(error) for error in sink.errors] == [BrokerAway]
        reader.credit(3)
        await reader.aclose()
    assert not heard_closed.errors
    for attempt in (broker.open_stream(EVENTS), broker.read_stream("events", 0, ReadRecorder(), window=1)):
        with pytest.raises(BrokerAway):
            await attempt
