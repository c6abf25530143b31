"""Work queues, as the port promises them of both brokers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from sidecar.broker import open_broker
from sidecar.broker.port import (
    Binding,
    Broker,
    BrokerAway,
    BrokerRefused,
    Consumer,
    Declaration,
    Exchange,
    StreamQueue,
    WorkQueue,
)
from sidecar.config.model import BrokerSettings
from tests.broker.sinks import ReadRecorder

ORDERS = Exchange("orders", Declaration("topic"))
WORK = WorkQueue("work", declare=True, bindings=((ORDERS, Binding("#")),))

Delete = Callable[[str], None]


async def publish(broker: Broker, *bodies: bytes, key: str = "k") -> None:
    for body in bodies:
        await broker.publish("orders", key, body)


async def consume(broker: Broker, queue: WorkQueue = WORK, prefetch: int = 10) -> tuple[Consumer, ReadRecorder]:
    sink = ReadRecorder()
    return await broker.consume(queue, sink, prefetch=prefetch), sink


async def declared(broker: Broker, queue: WorkQueue = WORK) -> None:
    """Let the queue stand, without a consumer."""
    consumer, _ = await consume(broker, queue)
    await consumer.aclose()


def numbers(begin: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(begin, end)]


async def test_names_hold_what_a_claim_may(broker: Broker) -> None:
    exchange = Exchange("börse|1", Declaration("topic"))
    _, sink = await consume(broker, WorkQueue("inbox.auth0|7ü", declare=True, bindings=((exchange, Binding("#")),)))
    await broker.publish("börse|1", "k", b"x")
    await sink.until_bodies(b"x")


# Dealing out


async def test_what_waits_comes_in_order_and_what_follows_too(broker: Broker) -> None:
    await declared(broker)
    await publish(broker, *numbers(0, 3))
    _, sink = await consume(broker)
    await publish(broker, *numbers(3, 5))
    await sink.until_bodies(*numbers(0, 5))
    assert [each.delivery_tag for each in sink.deliveries] == [1, 2, 3, 4, 5]
    assert not any(each.redelivered for each in sink.deliveries)
    assert {(each.exchange, each.routing_key) for each in sink.deliveries} == {("orders", "k")}


async def test_no_more_than_the_prefetch_is_unacknowledged(broker: Broker) -> None:
    await declared(broker)
    await publish(broker, *numbers(0, 10))
    consumer, sink = await consume(broker, prefetch=3)
    await sink.until_bodies(*numbers(0, 3))
    consumer.acknowledge(1)
    await sink.until_bodies(*numbers(0, 4))
    consumer.acknowledge(4)
    await sink.until_bodies(*numbers(0, 7))
    other, heard = await consume(broker, prefetch=10)
    await heard.until_bodies(*numbers(7, 10))
    await other.aclose()
    assert len(sink.deliveries) == 7


async def test_acknowledging_while_hearing(broker: Broker) -> None:
    sink = ReadRecorder()
    consumer = await broker.consume(WORK, sink, prefetch=1)
    sink.on_delivery = lambda deliveries: consumer.acknowledge(deliveries[-1].delivery_tag)
    await publish(broker, *numbers(0, 100))
    await sink.until_bodies(*numbers(0, 100))


async def test_consumers_compete_and_take_turns(broker: Broker) -> None:
    consumers = [await consume(broker, prefetch=100) for _ in range(3)]
    await publish(broker, *numbers(0, 30))
    for _, sink in consumers:
        await sink.until(lambda sink=sink: len(sink.deliveries) == 10)
    assert sorted(int(body) for _, sink in consumers for body in sink.bodies) == list(range(30))


async def test_one_that_is_full_does_not_hold_up_the_others(broker: Broker) -> None:
    _, stuck = await consume(broker, prefetch=1)
    quick, sink = await consume(broker, prefetch=5)
    sink.on_delivery = lambda deliveries: quick.acknowledge(deliveries[-1].delivery_tag)
    await publish(broker, *numbers(0, 20))
    await sink.until(lambda: len(sink.deliveries) == 19)
    assert len(stuck.deliveries) == 1


# Giving back


async def test_what_was_not_acknowledged_is_redelivered_first(broker: Broker) -> None:
    await declared(broker)
    await publish(broker, *numbers(0, 6))
    consumer, sink = await consume(broker, prefetch=4)
    await sink.until_bodies(*numbers(0, 4))
    consumer.acknowledge(2)
    await sink.until_bodies(*numbers(0, 6))
    await consumer.aclose()
    await consumer.aclose()
    await publish(broker, b"6")
    _, again = await consume(broker)
    await again.until_bodies(*numbers(2, 7))
    assert [each.redelivered for each in again.deliveries] == [True] * 4 + [False]
    assert not sink.errors


async def test_acknowledged_at_the_last_moment_it_does_not_come_again(broker: Broker) -> None:
    await declared(broker)
    await publish(broker, *numbers(0, 5))
    consumer, sink = await consume(broker)
    await sink.until_bodies(*numbers(0, 5))
    consumer.acknowledge(3)
    await consumer.aclose()
    _, again = await consume(broker)
    await again.until_bodies(*numbers(3, 5))


async def test_one_that_leaves_hands_over_to_one_that_stays(broker: Broker) -> None:
    leaving, first = await consume(broker, prefetch=5)
    await publish(broker, *numbers(0, 5))
    await first.until_bodies(*numbers(0, 5))
    _, second = await consume(broker, prefetch=5)
    await leaving.aclose()
    await second.until_bodies(*numbers(0, 5))
    assert all(each.redelivered for each in second.deliveries)


async def test_nobody_waits_for_what_three_took_and_vanished_with(broker: Broker) -> None:
    await declared(broker)
    await publish(broker, *numbers(0, 20))
    taken: list[bytes] = []
    while len(taken) < 20:
        consumer, sink = await consume(broker, prefetch=5)
        await sink.until(lambda sink=sink: sink.deliveries)
        done = sink.deliveries[:3]
        taken += [each.body for each in done]
        consumer.acknowledge(done[-1].delivery_tag)
        await consumer.aclose()
    assert taken == numbers(0, 20)


# Declaring


async def test_the_longest_waiting_go_where_it_is_full(broker: Broker) -> None:
    short = WorkQueue("short", declare=True, max_length=3, bindings=WORK.bindings)
    await declared(broker, short)
    await publish(broker, *numbers(0, 10))
    _, sink = await consume(broker, short)
    await publish(broker, b"10")
    await sink.until_bodies(*numbers(7, 11))


async def test_it_expires_when_nobody_consumes_it(broker: Broker) -> None:
    brief = WorkQueue("brief", declare=True, expires=0.3, bindings=WORK.bindings)
    consumer, sink = await consume(broker, brief)
    await trio.sleep(0.5)  # as long as somebody consumes, it stays
    await publish(broker, b"a")
    await sink.until_bodies(b"a")
    await consumer.aclose()
    with trio.fail_after(5):
        # The broker tells nobody that it has expired, and looking is using it: look again when its time is over.
        while await exists(broker, "brief"):  # noqa: ASYNC110
            await trio.sleep(0.4)
    await publish(broker, b"for nobody")
    _, again = await consume(broker, brief)
    await publish(broker, b"b")
    await again.until_bodies(b"b")


async def exists(broker: Broker, name: str) -> bool:
    try:
        await (await broker.consume(WorkQueue(name), ReadRecorder(), prefetch=1)).aclose()
    except BrokerRefused:
        return False
    return True


async def test_bound_to_several_exchanges(broker: Broker) -> None:
    bindings = ((ORDERS, Binding("a.*")), (ORDERS, Binding("*.b")), (Exchange("amq.direct"), Binding("c")))
    _, sink = await consume(broker, WorkQueue("several", declare=True, bindings=bindings))
    await broker.publish("orders", "a.b", b"once")
    await broker.publish("orders", "x.y", b"never")
    await broker.publish("amq.direct", "c", b"twice")
    await broker.publish("", "several", b"by its name")
    await sink.until_bodies(b"once", b"twice", b"by its name")


async def test_one_that_exists_needs_no_declaration(broker: Broker) -> None:
    await declared(broker, WorkQueue("work", declare=True, durable=False, bindings=WORK.bindings))
    _, sink = await consume(broker, WorkQueue("work"))
    await publish(broker, b"a")
    await sink.until_bodies(b"a")


@pytest.mark.parametrize(
    ("other", "argument"),
    [
        (WorkQueue("q", declare=True, durable=False), "durable"),
        (WorkQueue("q", declare=True, expires=61), "x-expires"),
        (WorkQueue("q", declare=True, expires=60, max_length=5), "x-max-length"),
        (WorkQueue("q", declare=True, expires=60, arguments={"x-message-ttl": 1000}), "x-message-ttl"),
    ],
)
async def test_other_arguments_are_refused(broker: Broker, other: WorkQueue, argument: str) -> None:
    await declared(broker, WorkQueue("q", declare=True, expires=60))
    with pytest.raises(BrokerRefused, match=rf"inequivalent arg '{argument}' for queue 'q'.*or delete it"):
        await consume(broker, other)
    await declared(broker, WorkQueue("q", declare=True, expires=60))


async def test_what_is_missing_is_refused(broker: Broker) -> None:
    with pytest.raises(BrokerRefused, match="no queue 'nothing'"):
        await consume(broker, WorkQueue("nothing"))
    nowhere = ((Exchange("nowhere"), Binding("#")),)
    with pytest.raises(BrokerRefused, match="no exchange 'nowhere'"):
        await consume(broker, WorkQueue("q", declare=True, bindings=nowhere))
    assert broker.connected


async def test_a_stream_and_a_queue_cannot_share_a_name(broker: Broker) -> None:
    await broker.open_stream(StreamQueue("log", declare=True))
    with pytest.raises(BrokerRefused, match="inequivalent arg 'x-queue-type' for queue 'log'"):
        await consume(broker, WorkQueue("log", declare=True))


# The end


async def test_a_deleted_queue_ends_its_consumers(broker: Broker, delete: Delete) -> None:
    consumers = [await consume(broker) for _ in range(2)]
    await publish(broker, *numbers(0, 2))
    for _, sink in consumers:
        await sink.until(lambda sink=sink: sink.deliveries)
    delete("work")
    for consumer, sink in consumers:
        error = await sink.until_ended()
        assert isinstance(error, BrokerRefused)
        assert "no queue 'work'" in str(error)
        consumer.acknowledge(1)
        await consumer.aclose()
    _, sink = await consume(broker)
    await publish(broker, b"new")
    await sink.until_bodies(b"new")


async def test_with_the_connection_every_consumer_ends_once(url: str) -> None:
    broker = open_broker(BrokerSettings(url=[url]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        await broker.wait_connected()
        (staying, sink), (closed, heard) = await consume(broker), await consume(broker)
        await closed.aclose()
        await publish(broker, b"a")
        await sink.until_bodies(b"a")
        nursery.cancel_scope.cancel()
    assert [type(error) for error in sink.errors] == [BrokerAway]
    staying.acknowledge(1)
    await staying.aclose()
    assert not heard.errors
    with pytest.raises(BrokerAway):
        await consume(broker)


async def test_a_caller_who_gives_up_leaves_no_consumer(broker: Broker) -> None:
    await declared(broker)
    sink = ReadRecorder()
    with trio.CancelScope() as scope:
        scope.cancel()
        await broker.consume(WORK, sink, prefetch=10)
    assert scope.cancelled_caught
    _, other = await consume(broker, prefetch=100)
    await publish(broker, *numbers(0, 20))
    await other.until(lambda: len(other.deliveries) == 20)
    assert not sink.deliveries
