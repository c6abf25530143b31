"""Replay routes through outages of a real RabbitMQ, and through a reader that falls behind retention."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import trio

from tests.lab.publisher import Publisher, publishing
from tests.lab.rabbitmq import RabbitNode
from tests.replay.conftest import KEY, PATIENCE, SMALL, Lab, until_it_publishes
from tests.replay.relay import Relay
from tests.replay.test_replay import heard, numbers, reset, until


@pytest.fixture
def rabbitmq(mortal_rabbitmq: RabbitNode) -> RabbitNode:
    """The node of these tests, `vhost_url` included."""
    return mortal_rabbitmq


@pytest.fixture
def publisher(vhost_url: str) -> Iterator[Publisher]:
    with publishing(vhost_url) as opened:
        yield opened


@pytest.fixture
async def relay(nursery: trio.Nursery, vhost_url: str) -> Relay:
    between = Relay(vhost_url)
    await nursery.start(between.run)
    return between


@pytest.fixture
async def lab(nursery: trio.Nursery, vhost_url: str) -> AsyncIterator[Lab]:
    """Before RabbitMQ; `publish` is the sidecar's own, so that it outlives the broker."""
    laboratory = Lab(nursery, vhost_url, None)
    yield laboratory
    for service in tuple(laboratory.services):
        await laboratory.stop(service)


async def broken_off(lab: Lab, call: Callable[[], object]) -> None:
    """Make a call that costs the sidecar its connection; return once it has noticed (it may be back already)."""
    broker, before = lab.services[0].broker, lab.services[0].broker.reconnects
    await trio.to_thread.run_sync(call)
    with trio.fail_after(PATIENCE):
        while broker.connected and broker.reconnects == before:  # noqa: ASYNC110
            await trio.sleep(0.001)


def remember(rabbitmq: RabbitNode) -> None:
    """Let the broker write down which streams there are: it does so half a second late, and SIGKILL is quicker."""
    rabbitmq.control("eval", "[dets:sync(Table) || Table <- dets:all()], ok.")


def streams_stand(url: str) -> bool:
    with publishing(url) as other:
        return other.queue_exists("orders.events") or other.queue_exists("short.events")


async def publish(lab: Lab, *bodies: str, key: str = KEY) -> None:
    """Publish, once the broker is there and its streams are: it confirms and drops what it has for one that is not."""
    broker = lab.services[0].broker
    await until_it_publishes(broker)
    with trio.fail_after(PATIENCE):
        while not await trio.to_thread.run_sync(streams_stand, lab.url):  # noqa: ASYNC110
            await trio.sleep(0.05)
        for body in bodies:
            await broker.publish("orders", key, body.encode())


async def test_killed_and_started_again(rabbitmq: RabbitNode, lab: Lab) -> None:
    await lab.start()
    client, remembered = await lab.listen("/all"), await lab.listen("/remembered")
    await publish(lab, *numbers(0, 5))
    place = await until(client, *numbers(0, 5))
    await trio.to_thread.run_sync(remember, rabbitmq)
    for begin in (5, 10):
        await broken_off(lab, rabbitmq.restart)
        await publish(lab, *numbers(begin, begin + 5))
    await until(client, *numbers(0, 15))
    await until(await lab.listen("/all", place), *numbers(5, 15))
    assert heard(remembered).count(reset("broker_reconnected")) == 2


async def test_the_broker_is_away_when_a_client_comes_back(rabbitmq: RabbitNode, lab: Lab) -> None:
    await lab.start()
    client = await lab.listen("/all")
    await publish(lab, *numbers(0, 5))
    place = await until(client, *numbers(0, 5))
    await client.aclose()
    await trio.to_thread.run_sync(remember, rabbitmq)
    await broken_off(lab, rabbitmq.kill)
    turned_away = await lab.listen("/all", place)
    assert await turned_away.response.until_end() == "clean"
    assert turned_away.response.stream.last_id == ""
    await trio.to_thread.run_sync(rabbitmq.start)
    await publish(lab, "5")
    await until(await lab.listen("/all", place), "5")


async def test_what_others_publish_while_the_broker_is_away_for_us(
    lab: Lab, relay: Relay, publisher: Publisher
) -> None:
    await lab.start(relay.url)
    client, remembered = await lab.listen("/all"), await lab.listen("/remembered")
    await publish(lab, *numbers(0, 5))
    place = await until(client, *numbers(0, 5))
    memory = await until(remembered, *numbers(0, 5))
    await remembered.aclose()
    relay.cut()
    for number in numbers(5, 300):
        publisher.publish("orders", KEY, number)
    relay.mend()
    await until(client, *numbers(0, 300))
    await until(await lab.listen("/all", place), *numbers(5, 300))
    # What the memory has missed it says to those who come back.
    returning = await lab.listen("/remembered", memory)
    await publish(lab, "end")
    await until(returning, reset("broker_reconnected"), "end")


@pytest.mark.parametrize("count", [1, 30])
async def test_made_anew_while_the_broker_is_away_for_us(
    lab: Lab, relay: Relay, publisher: Publisher, count: int
) -> None:
    await lab.start(relay.url)
    client = await lab.listen("/all")
    await publish(lab, *numbers(0, 10))
    place = await until(client, *numbers(0, 10))
    relay.cut()
    publisher.delete_queue("orders.events")
    publisher.queue("orders.events", durable=True, arguments={"x-queue-type": "stream"})
    publisher.bind("orders.events", "orders", "#")
    for number in numbers(100, 100 + count):
        publisher.publish("orders", KEY, number)
    relay.mend()
    told = [reset("recreated"), *numbers(100, 100 + count)]
    await until(client, *numbers(0, 10), *told)
    await until(await lab.listen("/all", place), *told)


async def test_retention_cuts_while_the_broker_is_away_for_us(lab: Lab, relay: Relay, publisher: Publisher) -> None:
    await lab.start(relay.url)
    client = await lab.listen("/short")
    await publish(lab, "first", key=SMALL)
    place = await until(client, "first")
    relay.cut()
    for number in range(400):
        publisher.publish("orders", SMALL, f"{number:0100}")
    publisher.publish("orders", SMALL, "end")
    relay.mend()
    await client.response.until(lambda response: "end" in response.data)
    first, told, *left, end = heard(client)
    assert (first, told, end) == ("first", reset("truncated"), "end")
    assert 0 < len(left) < 400
    assert left == [f"{number:0100}" for number in range(400 - len(left), 400)]
    await until(await lab.listen("/short", place), told, *left, end)


async def test_overtaken_by_retention_it_says_so(lab: Lab, publisher: Publisher) -> None:
    await lab.start()
    client = await lab.listen("/short")
    await publish(lab, "first", key=SMALL)
    await until(client, "first")
    for number in range(600):  # in this thread, so that the sidecar hears nothing of it before the end
        publisher.publish("orders", SMALL, f"{number:0200}")
    await publish(lab, "end", key=SMALL)
    await client.response.until(lambda response: "end" in response.data)
    first, *told, end = heard(client)
    assert (first, end) == ("first", "end")
    whole = [f"{number:0200}" for number in range(600)]
    if told != whole:
        cut = told.index(reset("truncated"))
        assert told[:cut] == whole[:cut]
        assert told[cut + 1 :] == whole[600 - (len(told) - cut - 1) :]
