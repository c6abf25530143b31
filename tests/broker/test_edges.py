"""What ends, falls silent or leaks at the edges of a broker connection's life."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio

from sidecar.broker import taps
from sidecar.broker.link import Link
from sidecar.broker.port import (
    Binding,
    BrokerAway,
    BrokerError,
    BrokerRefused,
    Declaration,
    Exchange,
    StreamQueue,
    WorkQueue,
)
from tests.broker.conftest import NARROW
from tests.broker.sinks import ReadRecorder, Recorder
from tests.broker.test_rabbitmq import TOPIC, connected, delete_queue, running
from tests.lab.publisher import publishing
from tests.lab.rabbitmq import RabbitNode

# One caller's refusal


@pytest.mark.parametrize("key", ["ä" * 110, "x" + "ä" * 110])
async def test_a_refusal_cut_through_a_letter_costs_its_caller_only(rabbitmq: RabbitNode, key: str) -> None:
    vhost, user = rabbitmq.vhost(), f"picky{len(key)}"
    picky = await trio.to_thread.run_sync(rabbitmq.user, user, vhost)
    rule = ("set_topic_permissions", "-p", vhost, user, "amq.topic", ".*", "^a")
    await trio.to_thread.run_sync(rabbitmq.control, *rule)
    async with connected(picky) as broker:
        sink = Recorder()
        tap = await broker.tap(Exchange("amq.topic"), sink)
        with pytest.raises(BrokerRefused, match=r"refused|access"):
            await tap.bind(Binding(key))
        assert sink.events == []
        assert broker.said == []


# Taps and readings that fall while something else is short


async def test_consumers_cancelled_where_no_channel_is_left(narrow_url: str) -> None:
    with publishing(narrow_url) as operator:
        async with connected(narrow_url) as broker:
            await broker.open_stream(StreamQueue("s", declare=True))
            sinks = [ReadRecorder() for _ in range(NARROW)]
            for sink in sinks:
                await broker.read_stream("s", "next", sink, window=10)
            operator.delete_queue("s")
            for sink in sinks:
                await sink.until_ended()


Happening = Callable[[Any], Awaitable[None]]


def at_the_next_opening(monkeypatch: pytest.MonkeyPatch, then: Happening) -> None:
    """Do something once, in between a tap's last binding and its standing."""
    bind_all, done = taps.RabbitTap._bind_all, list[bool]()

    async def bind_all_and_then(self: taps.RabbitTap, link: Link, wanted: Sequence[Binding]) -> None:
        await bind_all(self, link, wanted)
        if not done:
            done.append(True)
            await then(self)

    monkeypatch.setattr(taps.RabbitTap, "_bind_all", bind_all_and_then)


async def hears_again(rabbitmq: RabbitNode, url: str, monkeypatch: pytest.MonkeyPatch, happening: Happening) -> None:
    """Delete a tap's queue; whatever happens while it is opened again, it hears in the end, on the same connection."""
    async with connected(url) as broker:
        sink = Recorder()
        tap = await broker.tap(TOPIC, sink)
        await tap.bind(Binding("a"))
        at_the_next_opening(monkeypatch, happening)
        await trio.to_thread.run_sync(rabbitmq.control, "eval", delete_queue(url, tap._queue))
        await sink.until_event("lost", "restored")
        await broker.publish("orders", "a", b"")
        await sink.until_key("a")
        assert broker.said == []


async def test_a_queue_deleted_while_its_tap_is_opened_again(
    rabbitmq: RabbitNode, vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def delete(tap: Any) -> None:
        command = ("eval", delete_queue(vhost_url, tap._queue))
        await asyncio.get_running_loop().run_in_executor(None, rabbitmq.control, *command)
        await asyncio.sleep(0.2)  # for the consumer's cancellation

    await hears_again(rabbitmq, vhost_url, monkeypatch, delete)


async def test_a_tap_that_could_not_be_opened_again_at_once(
    rabbitmq: RabbitNode, vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose_the_channel(tap: Any) -> None:
        await tap._consuming.basic_ack(999)  # an unknown tag: RabbitMQ closes the channel
        while not tap._consuming.is_closed:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    await hears_again(rabbitmq, vhost_url, monkeypatch, lose_the_channel)


async def test_the_next_url_where_the_first_only_seems_to_serve(
    rabbitmq: RabbitNode, vhost_url: str, nursery: trio.Nursery
) -> None:
    """Connections open, and end at their first channel."""

    async def serve(client: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", rabbitmq.port) as server, trio.open_nursery() as both:

            async def forth() -> None:
                async for data in client:
                    if re.search(rb"\x01\x00.\x00\x00\x00.\x00\x14\x00\x0a", data, re.DOTALL):  # Channel.Open
                        break
                    await server.send_all(data)
                both.cancel_scope.cancel()

            async def back() -> None:
                async for data in server:
                    await client.send_all(data)
                both.cancel_scope.cancel()

            both.start_soon(forth)
            both.start_soon(back)
        await trio.aclose_forcefully(client)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    port = listeners[0].socket.getsockname()[1]
    async with running(vhost_url.replace(f":{rabbitmq.port}", f":{port}"), vhost_url) as broker:
        with trio.fail_after(10):
            while True:
                await broker.wait_connected()
                try:
                    await broker.tap(TOPIC, Recorder())
                    break
                except BrokerAway:
                    await trio.sleep(0.05)


# What is left behind


async def test_what_cannot_be_declared_leaves_no_channel(vhost_url: str) -> None:
    async with connected(vhost_url) as broker:
        fanout = Exchange("amq.topic", Declaration("fanout"))
        stream = StreamQueue("s", declare=True, bindings=((fanout, Binding("#")),))
        for _ in range(5):
            with pytest.raises(BrokerRefused):
                await broker.open_stream(stream)
            with pytest.raises(BrokerRefused):
                await broker.tap(Exchange("x" * 200), Recorder())  # pamqp takes no such name
            with pytest.raises(BrokerRefused):
                await broker.publish("x" * 200, "k", b"")
        await trio.sleep(0.2)
        assert broker._link is not None
        assert broker._link._amqp is not None
        assert list(broker._link._amqp.channels) == []
        assert list(broker._publisher._link._amqp.channels) == []  # type: ignore[union-attr]


@pytest.mark.parametrize("what", ["tap", "consume", "consume a missing one", "read"])
async def test_who_gives_up_leaves_nothing(vhost_url: str, what: str) -> None:
    async with connected(vhost_url) as broker:
        await (await broker.consume(WorkQueue("q", declare=True), ReadRecorder(), prefetch=1)).aclose()
        await broker.open_stream(StreamQueue("s", declare=True))

        async def open_and_close() -> None:
            try:
                match what:
                    case "tap":
                        await (await broker.tap(TOPIC, Recorder())).aclose()
                    case "read":
                        await (await broker.read_stream("s", "next", ReadRecorder(), window=1)).aclose()
                    case "consume":
                        await (await broker.consume(WorkQueue("q"), ReadRecorder(), prefetch=1)).aclose()
                    case _:
                        await (await broker.consume(WorkQueue("nope"), ReadRecorder(), prefetch=1)).aclose()
            except BrokerError:
                pass

        for number in range(60):
            with trio.move_on_after(number * 0.0005):
                await open_and_close()
        await trio.sleep(0.5)
        link = broker._link
        assert link is not None
        assert link._amqp is not None
        assert (list(link._amqp.channels), link._consumers, link._splitter._tags) == ([], {}, {})


async def test_acknowledgements_that_meet_the_end(vhost_url: str) -> None:
    """More of them than aiormq's own queue holds."""
    async with connected(vhost_url, heartbeat=1.0) as broker:
        queues = [WorkQueue(f"q{number}", declare=True) for number in range(60)]
        found = [await broker.consume(queue, ReadRecorder(), prefetch=10) for queue in queues]
        for queue in queues:
            await broker.publish("", queue.name, b"")
        await trio.sleep(0.3)
        link = broker._link
        assert link is not None
        for consumer in found:
            consumer.acknowledge(1)
        link.transport.abort("broken off")
        await trio.sleep(5)  # longer than aiormq waits for anything, with this heartbeat
        assert [task for task in asyncio.all_tasks(link._loop) if "_send_acknowledgements" in repr(task)] == []


# A peer that is none


async def test_a_malformed_frame_beside_a_farewell(nursery: trio.Nursery) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(bytes.fromhex("01 0000 00000002 000a ce  01 0000 00000004 000a0032 ce"))
        await trio.sleep_forever()

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    port = listeners[0].socket.getsockname()[1]
    async with running(f"amqp://guest:guest@127.0.0.1:{port}/") as broker:
        await broker.until_said(str(port))
        await trio.sleep(0.5)


async def test_a_broker_that_does_not_answer_is_given_up(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it sends heartbeats."""
    async with connected(vhost_url) as broker:
        sink = Recorder()
        await broker.tap(TOPIC, sink)
        link = broker._link
        assert link is not None
        monkeypatch.setattr("sidecar.broker.link.ANSWER_WITHIN", 0.1)
        with pytest.raises(BrokerAway, match="it has not answered within"):
            await link.call(asyncio.sleep(60))
        monkeypatch.setattr("sidecar.broker.link.ANSWER_WITHIN", 60.0)
        await sink.until_event("lost", "restored")
