"""Replay routes over a cluster of RabbitMQ whose nodes fail, one after the other, while it is in use."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pika
import pytest
import trio

from tests.lab.cluster import cluster
from tests.lab.rabbitmq import RabbitNode
from tests.replay.numbering import STREAM, Numbers
from tests.replay.replicas import Replica, pair, running
from tests.replay.returning import Returning, heard
from tests.replay.test_chaos import clients_of, in_thread, runs_of, seeded, told

NO_REPLICA = "this node has no running replica of stream 'elsewhere'"
PART = 600
"""Messages published around each failure."""
BEFORE = 50
"""How many of them before it."""
WITHIN = 120.0
ELECTED_WITHIN = 30.0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RabbitNode]]:
    """Three, so that the streams survive one of them."""
    with cluster(tmp_path_factory.mktemp("cluster"), 3) as nodes:
        yield nodes


def leader(asked: RabbitNode) -> str:
    """The name of the node that takes what is published to the stream, and hands it to the others; "" between two."""
    said = asked.control("list_queues", "name", "leader", "--no-table-headers")
    return next((line.split()[1] for line in said.splitlines() if line.startswith(STREAM)), "")


def fail(node: RabbitNode, other: RabbitNode) -> None:
    """Kill a node; start it again when the stream has another leader."""
    node.kill()
    end = time.monotonic() + ELECTED_WITHIN
    while leader(other) in ("", node.name):
        assert time.monotonic() < end, other.log[-3000:]
    node.start()


async def around(numbers: Numbers, call: Callable[..., None], *arguments: object) -> None:
    """Publish the next part, and make a call in the midst of it."""
    first, last = numbers.confirmed + BEFORE, numbers.confirmed + PART
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_thread, numbers.publish_until, last)
        await in_thread(numbers.wait_confirmed, first, WITHIN)
        await in_thread(call, *arguments)


async def fail_in_turn(nodes: Sequence[RabbitNode], numbers: Numbers) -> None:
    """The node that the sidecars are connected to, and which leads the stream; then who leads it now; then another."""
    assert await trio.to_thread.run_sync(leader, nodes[0]) == nodes[0].name
    await around(numbers, fail, nodes[0], nodes[2])
    second = await trio.to_thread.run_sync(leader, nodes[0])
    one, other = (nodes[1], nodes[2]) if second == nodes[1].name else (nodes[2], nodes[1])
    await around(numbers, fail, one, nodes[0])
    await around(numbers, other.restart)
    await in_thread(numbers.publish_until, numbers.confirmed + PART)


async def test_failing_nodes_cost_nobody_a_message(tmp_path: Path, nodes: list[RabbitNode]) -> None:
    chance, urls = seeded(), [node.url() for node in nodes]
    with pair(tmp_path, urls) as sidecars, contextlib.closing(Numbers(*urls)) as numbers:
        clients, last = clients_of(sidecars.address, chance, PART // 2), 4 * PART
        with trio.fail_after(WITHIN):
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(client.until, heard(str(last)))
                for client in clients:
                    await client.arrived.wait()
                await fail_in_turn(nodes, numbers)
        print(f"{told(clients)}; {numbers.breaks} breaks of the publisher")
        for client in clients:
            assert client.heard == numbers.texts(1, last), runs_of(client.heard)
        for replica in sidecars.replicas:
            assert replica.sidecar.metric("sidecar_broker_reconnects_total") >= 1
            assert replica.sidecar.metric("sidecar_resets_total", route="/numbers", reason="recreated") == 0


def on_one_node(node: RabbitNode, stream: str) -> None:
    """Declare a stream without replicas on other nodes, and publish a message to it."""
    only = {"x-queue-type": "stream", "x-initial-cluster-size": 1, "x-queue-leader-locator": "client-local"}
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(node.url()))) as connection:
        channel = connection.channel()
        channel.queue_declare(stream, durable=True, arguments=only)
        channel.confirm_delivery()
        channel.basic_publish("", stream, b"first")


async def test_streams_are_read_wherever_a_replica_is(tmp_path: Path, nodes: list[RabbitNode]) -> None:
    for number, node in enumerate(nodes):
        on_one_node(node, f"here{number}")
    routes = [{"path": f"/here{number}", "stream": f"here{number}", "retry": "50ms-200ms"} for number in range(3)]
    urls = [node.url() for node in nodes]
    with running(Replica(tmp_path / "one", urls, routes)) as replica, trio.fail_after(WITHIN):
        clients = [
            Returning(replica.address, f"/here{number}?last_event_id=earliest", random.Random(1)) for number in range(3)
        ]
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.until, heard("first"))
        assert [client.heard for client in clients] == [["first"]] * 3


async def test_a_node_without_a_replica_is_named_and_the_replica_awaited(
    tmp_path: Path, nodes: list[RabbitNode]
) -> None:
    on_one_node(nodes[1], "elsewhere")
    route = {"path": "/elsewhere", "stream": "elsewhere", "retry": "50ms-200ms"}
    add = f'rabbit_stream_queue:add_replica(<<"/">>, <<"elsewhere">>, \'{nodes[0].name}\').'
    with running(Replica(tmp_path / "one", nodes[0].url(), [route])) as replica, trio.fail_after(WITHIN):
        client = Returning(replica.address, "/elsewhere?last_event_id=earliest", random.Random(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.until, heard("first"))
            await in_thread(replica.sidecar.log.wait, lambda line: NO_REPLICA in str(line.get("problem")))
            assert client.heard == []
            await in_thread(nodes[1].control, "eval", add)
        assert client.heard == ["first"]
