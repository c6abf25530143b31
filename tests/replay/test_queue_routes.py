"""Queue routes before both brokers: each message once in a socket, or back in the queue."""

from __future__ import annotations

import json
from typing import Any

import trio

from tests.lab import wire
from tests.lab.publisher import publishing
from tests.lab.rabbitmq import RabbitNode
from tests.replay.conftest import PATIENCE, Lab, until_it_publishes
from tests.replay.test_replay import numbers
from tests.server.serving import configuration, serving

KEY = "to.anna"


def bodies(connection: wire.Http1) -> list[str]:
    return [envelope["body"] for envelope in envelopes(connection)]


def envelopes(connection: wire.Http1) -> list[dict[str, Any]]:
    return [json.loads(data) for data in connection.response.data]


async def until(connection: wire.Http1, *expected: str) -> None:
    await connection.response.until(lambda response: len(response.events) >= len(expected), PATIENCE)
    assert bodies(connection) == list(expected)


async def test_messages_wait_for_the_user(lab: Lab) -> None:
    first = await lab.listen("/inbox/anna")
    await lab.publish("0", key=KEY)
    await until(first, "0")
    await first.aclose()
    await lab.publish(*numbers(1, 40), key=KEY)
    second = await lab.listen("/inbox/anna")
    await until(second, *numbers(1, 40))
    await lab.publish("40", key=KEY)
    await until(second, *numbers(1, 41))
    assert second.response.stream.last_id == ""


async def test_each_message_goes_to_one(lab: Lab) -> None:
    clients = [await lab.listen("/inbox/anna") for _ in range(3)]
    other = await lab.listen("/inbox/otto")
    await lab.publish(*numbers(0, 90), key=KEY)
    await lab.publish("for otto", key="to.otto")
    await until(other, "for otto")
    for client in clients:
        await client.response.until_events(30)
    assert sorted(int(body) for client in clients for body in bodies(client)) == list(range(90))


async def test_a_client_that_takes_some_and_vanishes_over_and_over(lab: Lab) -> None:
    await (await lab.listen("/inbox/anna")).aclose()
    total, taken = 100, list[str]()
    await lab.publish(*numbers(0, total), key=KEY)
    end = trio.current_time() + PATIENCE
    while len(taken) < total and trio.current_time() < end:
        client = await lab.listen("/inbox/anna")
        await client.response.until_events(3)
        await client.aclose()
        await client.response.until_end()
        taken += bodies(client)
        with trio.fail_after(PATIENCE):
            while lab.services[0]._streams.open:  # noqa: ASYNC110
                await trio.sleep(0.001)
    # What the socket had taken does not come again, even where the client had not read it; the rest was never lost.
    assert taken == sorted(set(taken), key=int)
    left = await lab.listen("/inbox/anna")
    await lab.publish("end", key=KEY)
    await left.response.until(lambda _: bodies(left)[-1:] == ["end"])
    assert not set(bodies(left)) & set(taken)


async def test_a_stalled_client_gives_back_what_its_socket_had_not_taken(lab: Lab) -> None:
    await (await lab.listen("/inbox/anna")).aclose()
    block = "x" * 3_000_000
    for number in range(5):
        await lab.publish(f"{number} {block}", key=KEY)
    stalled = await wire.never_read(lab.address(), "/inbox/anna")
    with trio.fail_after(PATIENCE):
        while not any(stream.outlet.pending for stream in lab.services[0]._streams.open):  # noqa: ASYNC110
            await trio.sleep(0.001)
    await trio.aclose_forcefully(stalled)
    client = await lab.listen("/inbox/anna")
    await client.response.until_events(5)
    assert [body.split()[0] for body in bodies(client)] == numbers(0, 5)
    assert [envelope["redelivered"] for envelope in envelopes(client)] == [True] * 5
    await lab.publish("new", key=KEY)
    await client.response.until_events(6)
    assert envelopes(client)[-1]["redelivered"] is False


async def test_a_deleted_queue_ends_its_streams(lab: Lab) -> None:
    client, other = await lab.listen("/inbox/anna"), await lab.listen("/inbox/otto")
    lab.delete("inbox.anna")
    assert await client.response.until_end() == "clean"
    await lab.publish("for otto", key="to.otto")
    await until(other, "for otto")
    back = await lab.listen("/inbox/anna")
    await lab.publish("new", key=KEY)
    await until(back, "new")


async def test_through_an_outage(mortal_rabbitmq: RabbitNode, nursery: trio.Nursery) -> None:
    url = mortal_rabbitmq.url(mortal_rabbitmq.vhost())
    lab = Lab(nursery, url, None)
    service = await lab.start()
    with publishing(url) as other:
        other.exchange("orders", "topic", durable=True)
    client = await lab.listen("/inbox/anna")

    async def publish(*wanted: str) -> None:
        await until_it_publishes(service.broker)
        with trio.fail_after(PATIENCE):
            for body in wanted:
                await service.broker.publish("orders", KEY, body.encode())

    await publish(*numbers(0, 5))
    await until(client, *numbers(0, 5))
    await trio.to_thread.run_sync(mortal_rabbitmq.restart)
    await publish(*numbers(5, 10))
    await until(client, *numbers(0, 10))
    await lab.stop(service)


async def test_every_message_arrives_however_the_window_opens() -> None:
    """The embedded broker hands the next ones over within the acknowledgement of the last."""
    route = {"path": "/q", "queue": "q", "declare": {"bind": [{"exchange": "news", "binding_key": "#"}]}, "prefetch": 4}
    texts = [f"{number:03}{'x' * 100}" for number in range(60)]
    async with serving(configuration([route])) as served:
        client = await wire.open_http2(served.nursery, served.address, initial_window=400)
        await client.widen(2**24)
        stream = await client.get("/q", reading=False)
        await stream.response.until_open()
        await served.publish(*texts)
        for _ in range(100):
            await client.widen(150, stream.id)
            await trio.sleep(0.002)
        await client.widen(1_000_000, stream.id)
        await stream.response.until_events(60)
        assert stream.response.data == texts
