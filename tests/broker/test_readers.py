"""Readers and consumers on a real RabbitMQ: its limit of channels, and what is left of those that are over."""

from __future__ import annotations

import pytest
import trio
from pydantic import SecretStr

from sidecar.broker.port import Binding, BrokerRefused, Declaration, Exchange, StreamQueue, WorkQueue
from sidecar.broker.rabbitmq import RabbitMQ
from tests.broker.sinks import PATIENCE, ReadRecorder, Recorder

ORDERS = Exchange("orders", Declaration("topic"))
EVENTS = StreamQueue("events", declare=True, bindings=((ORDERS, Binding("#")),))
WORK = WorkQueue("work", declare=True, bindings=((ORDERS, Binding("#")),))


@pytest.fixture
async def broker(vhost_url: str, nursery: trio.Nursery) -> RabbitMQ:
    opened = RabbitMQ([SecretStr(vhost_url)])
    nursery.start_soon(opened.run)
    with trio.fail_after(PATIENCE):
        await opened.wait_connected()
    return opened


async def test_the_brokers_limit_of_channels_costs_nobody_the_connection(broker: RabbitMQ) -> None:
    link = broker._link
    assert link is not None
    assert link._amqp is not None
    assert link._amqp.connection_tune.channel_max == 2047
    link._amqp.connection_tune.channel_max = 10
    await broker.open_stream(EVENTS)
    readers = [await broker.read_stream("events", "first", ReadRecorder(), window=5) for _ in range(12)]
    assert [reader.is_on(link) for reader in readers] == [True] * 10 + [False] * 2
    with pytest.raises(BrokerRefused, match="all 10 channels of the connection are in use"):
        await broker.tap(ORDERS, Recorder())
    await readers[3].aclose()
    await readers[4].aclose()
    await broker.tap(ORDERS, Recorder())
    assert broker.connected


async def test_what_is_over_leaves_nothing_behind(broker: RabbitMQ) -> None:
    tap = await broker.tap(ORDERS, Recorder())
    link = broker._link
    assert link is not None
    assert link._amqp is not None
    await broker.open_stream(EVENTS)
    before = (len(link._amqp.channels), len(link._consumers), len(link._splitter._tags), len(broker._readings))
    for _ in range(20):
        sink = ReadRecorder()
        reader = await broker.read_stream("events", "first", sink, window=5)
        consumer = await broker.consume(WORK, ReadRecorder(), prefetch=5)
        await broker.publish("orders", "k", b"x")
        await sink.until(lambda sink=sink: sink.deliveries)
        await reader.aclose()
        await consumer.aclose()
    after = (len(link._amqp.channels), len(link._consumers), len(link._splitter._tags), len(broker._readings))
    assert after == before
    await tap.aclose()


async def test_acknowledgements_of_a_batch_are_one_frame(broker: RabbitMQ, monkeypatch: pytest.MonkeyPatch) -> None:
    await broker.open_stream(EVENTS)
    sink = ReadRecorder()
    reader = await broker.read_stream("events", "first", sink, window=1000)
    sent: list[int] = []
    channel = reader._channel
    assert channel is not None
    basic_ack = channel.basic_ack

    async def counting(delivery_tag: int, multiple: bool = False, wait: bool = True) -> None:
        sent.append(delivery_tag)
        await basic_ack(delivery_tag, multiple=multiple, wait=wait)

    monkeypatch.setattr(channel, "basic_ack", counting)
    for number in range(200):
        await broker.publish("orders", "k", b"%d" % number)
    await sink.until(lambda: len(sink.deliveries) == 200)
    for _ in range(200):
        reader.credit(1)
    await reader.aclose()
    assert sent == [200]
