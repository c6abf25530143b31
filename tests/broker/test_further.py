"""More consumers than a connection may have channels, before a RabbitMQ that allows few."""

from __future__ import annotations

import pytest
import trio
from yarl import URL

from sidecar.broker.link import Link
from sidecar.broker.port import Binding, BrokerAway, Consumer, Declaration, Exchange, WorkQueue
from tests.broker.sinks import ReadRecorder, Recorder
from tests.broker.test_rabbitmq import Watched, connected
from tests.lab.rabbitmq import RabbitNode
from tests.replay.conftest import PATIENCE, Lab
from tests.replay.test_queue_routes import bodies

EACH = 6
"""Consumers on a connection: three quarters of the channels that `narrow_url` allows."""
ORDERS = Exchange("orders", Declaration("topic"))


def connections(node: RabbitNode, url: str) -> list[str]:
    """The process identifiers of the connections to a virtual host, the oldest first."""
    said = node.control("list_connections", "connected_at", "pid", "vhost", "--no-table-headers")
    rows = sorted(line.split() for line in said.splitlines())
    return [pid for _, pid, vhost in rows if vhost == url.rpartition("/")[2]]


async def consume_one(broker: Watched, number: int) -> tuple[Consumer, ReadRecorder]:
    """Consume a queue of its own, bound with its number as key."""
    queue = WorkQueue(f"q{number}", declare=True, bindings=((ORDERS, Binding(str(number))),))
    sink = ReadRecorder()
    return await broker.consume(queue, sink, prefetch=10), sink


async def consume(broker: Watched, count: int, begin: int = 0) -> list[tuple[Consumer, ReadRecorder]]:
    """Consume so many, one after the other: to declare takes a channel too."""
    return [await consume_one(broker, number) for number in range(begin, begin + count)]


async def hear(broker: Watched, count: int, found: list[tuple[Consumer, ReadRecorder]], times: int = 1) -> None:
    """Publish to all of them; each hears its own message."""
    for number in range(count):
        await broker.publish("orders", str(number), b"hello")
    for _, sink in found:
        await sink.until_bodies(*[b"hello"] * times)


async def test_consumers_beyond_the_channels_get_connections(rabbitmq: RabbitNode, narrow_url: str) -> None:
    async with connected(narrow_url) as broker:
        found = await consume(broker, 3 * EACH + 1)
        await hear(broker, len(found), found)
        publishing = 1
        assert len(await trio.to_thread.run_sync(connections, rabbitmq, narrow_url)) == 4 + publishing
        # Taps have channels left on the first connection, whatever crowd there is.
        sink = Recorder()
        await (await broker.tap(ORDERS, sink)).bind(Binding("tapped"))
        await broker.publish("orders", "tapped", b"")
        await sink.until_key("tapped")
        for consumer, _ in found:
            await consumer.aclose()
        again = await consume(broker, 3 * EACH + 1)
        await hear(broker, len(again), again, times=2)  # nobody has acknowledged the first
        assert len(await trio.to_thread.run_sync(connections, rabbitmq, narrow_url)) == 4 + publishing
    assert await trio.to_thread.run_sync(connections, rabbitmq, narrow_url) == []


async def test_a_crowd_at_once(rabbitmq: RabbitNode, narrow_url: str) -> None:
    found: list[tuple[Consumer, ReadRecorder]] = []
    async with connected(narrow_url) as broker:

        async def one(number: int) -> None:
            found.append(await consume_one(broker, number))

        async with trio.open_nursery() as nursery:
            for number in range(5 * EACH):
                nursery.start_soon(one, number)
        await hear(broker, len(found), found)
    assert await trio.to_thread.run_sync(connections, rabbitmq, narrow_url) == []


async def test_a_further_connection_ends_alone(rabbitmq: RabbitNode, narrow_url: str) -> None:
    async with connected(narrow_url) as broker:
        first = await consume(broker, EACH)
        others = await consume(broker, 2, EACH)
        _, further = await trio.to_thread.run_sync(connections, rabbitmq, narrow_url)
        await trio.to_thread.run_sync(rabbitmq.control, "close_connection", further, "closed by an operator")
        for _, sink in others:
            error = await sink.until_ended()
            assert isinstance(error, BrokerAway)
            assert "closed by an operator" in str(error)
        assert [sink.errors for _, sink in first] == [[]] * EACH
        assert broker.said == []
        others = await consume(broker, 2, EACH)
        await hear(broker, EACH + 2, first + others)


async def test_the_connection_that_publishes_ends_alone(rabbitmq: RabbitNode, narrow_url: str) -> None:
    async with connected(narrow_url, heartbeat=1.0) as broker:
        found = await consume(broker, 1)
        await hear(broker, 1, found)
        _, publishing = await trio.to_thread.run_sync(connections, rabbitmq, narrow_url)
        await trio.to_thread.run_sync(rabbitmq.control, "close_connection", publishing, "closed by an operator")
        await trio.sleep(1.0)  # two looks at whether the broker is silent
        await hear(broker, 1, found, times=2)
        assert broker.said == []


async def test_a_connection_that_comes_after_the_firsts_end_does_not_hold_up_the_next(
    rabbitmq: RabbitNode, nursery: trio.Nursery, narrow_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, go_on, hands = Watched(narrow_url), trio.Event(), list[Link]()
    shake = Link._handshake

    async def held(link: Link, url: URL) -> None:
        hands.append(link)
        if len(hands) == 2:
            await go_on.wait()
        await shake(link, url)

    monkeypatch.setattr(Link, "_handshake", held)
    nursery.start_soon(broker.run)
    await broker.wait_connected()
    failed = trio.Event()

    async def publish() -> None:
        with pytest.raises(BrokerAway):
            await broker.publish("amq.topic", "k", b"")
        failed.set()

    nursery.start_soon(publish)
    (first,) = await trio.to_thread.run_sync(connections, rabbitmq, narrow_url)
    await trio.to_thread.run_sync(rabbitmq.control, "close_connection", first, "closed by an operator")
    await broker.until_said("closed by an operator")
    go_on.set()
    with trio.fail_after(PATIENCE):
        await failed.wait()
        await broker.wait_connected()
        await broker.publish("amq.topic", "k", b"")
    nursery.cancel_scope.cancel()


async def test_a_crowd_at_a_queue_route(rabbitmq: RabbitNode, nursery: trio.Nursery, narrow_url: str) -> None:
    lab = Lab(nursery, narrow_url, None)
    service = await lab.start()
    clients = [await lab.listen(f"/inbox/user{number}") for number in range(2 * EACH + 1)]

    async def tell(*said: str) -> None:
        for number in range(len(clients)):
            await service.broker.publish("orders", f"to.user{number}", said[-1].encode())
        for client in clients:
            await client.response.until_events(len(said))
            assert bodies(client) == list(said)

    await tell("before")
    _, further, *_ = await trio.to_thread.run_sync(connections, rabbitmq, narrow_url)
    await trio.to_thread.run_sync(rabbitmq.control, "close_connection", further, "closed by an operator")
    await tell("before", "after")
    with trio.fail_after(PATIENCE):
        await lab.stop(service)
    assert await trio.to_thread.run_sync(connections, rabbitmq, narrow_url) == []
