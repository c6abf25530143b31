"""Where past, memory and present meet: while readings break, the stream is made anew, or the broker is slow."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import (
    Binding,
    Broker,
    BrokerAway,
    BrokerError,
    Exchange,
    Offset,
    Reader,
    ReadSink,
    StreamQueue,
)
from sidecar.config.load import parse
from sidecar.cursor import offset_of
from sidecar.service import Service
from tests.lab import wire
from tests.replay.conftest import PATIENCE, SMALL, Lab
from tests.replay.test_replay import heard, numbers, reset, until

BLOCK = "x" * 20_000


def between(broker: Broker, monkeypatch: pytest.MonkeyPatch, change: Callable[[ReadSink, Offset], ReadSink]) -> None:
    """Put something between the broker's readings and their sinks from now on."""
    read_stream = broker.read_stream

    async def changed(name: str, offset: Offset, sink: ReadSink, **how: Any) -> Reader:
        return await read_stream(name, offset, change(sink, offset), **how)

    monkeypatch.setattr(broker, "read_stream", changed)


class Late:
    """A sink whose broker is slow to send the first message."""

    def __init__(self, sink: ReadSink, nursery: trio.Nursery, seconds: float) -> None:
        self._sink = sink
        self._kept: list[Delivery] | None = []
        nursery.start_soon(self._begin_after, seconds)

    async def _begin_after(self, seconds: float) -> None:
        await trio.sleep(seconds)
        kept, self._kept = self._kept, None
        if kept:
            self._sink.deliver(kept)

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        if self._kept is None:
            self._sink.deliver(deliveries)
        else:
            self._kept += deliveries

    def ended(self, error: BrokerError) -> None:
        self._sink.ended(error)


class Holed:
    """A sink of a stream that has kept offset 5 for itself, as RabbitMQ may."""

    def __init__(self, sink: ReadSink) -> None:
        self._sink = sink

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        if left := [each for each in deliveries if offset_of(each) != 5]:
            self._sink.deliver(left)

    def ended(self, error: BrokerError) -> None:
        self._sink.ended(error)


async def published(lab: Lab, *bodies: str) -> list[str]:
    """Publish to a stream that somebody hears; returns the ids."""
    witness = await lab.listen("/all")
    await lab.publish(*bodies)
    await until(witness, *bodies)
    return [event.id for event in witness.response.events]


# A reading breaks, or is slow


async def test_a_beginning_that_breaks_leaves_no_hole(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reading ends before it is known whether more follows what it has brought; others publish meanwhile."""
    *_, place = await published(lab, *numbers(0, 5))
    service = await lab.restart()
    read_stream, readings = service.broker.read_stream, list[Offset]()

    async def breaking_once(name: str, offset: Offset, sink: ReadSink, **how: Any) -> Reader:
        readings.append(offset)
        reader = await read_stream(name, offset, sink, **how)

        async def breaks() -> None:
            await trio.sleep(0.04)
            await reader.aclose()
            await lab.publish(*numbers(5, 10))
            sink.ended(BrokerAway("the connection broke"))

        if len(readings) == 1:
            lab.nursery.start_soon(breaks)
        return reader

    monkeypatch.setattr(service.broker, "read_stream", breaking_once)
    back = await lab.listen("/all", place)
    await lab.publish("10")
    await back.response.until(lambda response: "10" in response.data)
    assert readings[:2] == ["last", "last"]
    assert heard(back) == numbers(5, 11)


async def test_silence_is_no_stream_made_anew(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The id comes from another replica, which was quicker; this one's broker takes its time."""
    *_, place = await published(lab, *numbers(0, 5))
    service = await lab.restart()
    between(service.broker, monkeypatch, lambda sink, _: Late(sink, lab.nursery, 3.0))
    client = await lab.listen("/all", place)
    await trio.sleep(3.5)
    await lab.publish("5")
    await client.response.until(lambda response: "5" in response.data)
    assert heard(client) == ["5"]


# Holes and cuts


async def test_a_hole_is_no_truncation(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id that names it, forged or of the stream before, spoils nothing for others."""
    between(lab.services[0].broker, monkeypatch, lambda sink, _: Holed(sink))
    witness = await lab.listen("/all")
    await lab.publish(*numbers(0, 10))
    await witness.response.until_events(9)
    place = witness.response.events[2].id
    service = await lab.restart()
    between(service.broker, monkeypatch, lambda sink, _: Holed(sink))
    await lab.listen("/all")
    forged = await lab.listen("/all", f"{place.split('.')[0]}.5.AAAAAA")
    await forged.response.until_events(2)
    client = await lab.listen("/all", place)
    await client.response.until(lambda response: "9" in response.data)
    assert heard(client) == ["3", "4", *numbers(6, 10)]


async def test_what_memory_bridges_stays_bridged(lab: Lab) -> None:
    """Somebody comes back too late; who can be served from memory is, all the same."""
    client = await lab.listen("/short")
    await lab.publish(*numbers(0, 10), key=SMALL)
    await until(client, *numbers(0, 10))
    too_late = client.response.events[3].id
    await lab.restart()
    witness = await lab.listen("/short")
    more = [f"{number:0100}" for number in range(400)]
    await lab.publish(*more, key=SMALL)
    await until(witness, *more)
    place = witness.response.events[4].id
    await until(await lab.listen("/short", place), *more[5:])
    old = await lab.listen("/short", too_late)
    await old.response.until(lambda response: more[-1] in response.data)
    assert heard(old)[0] == reset("truncated")
    await until(await lab.listen("/short", place), *more[5:])


async def test_since_before_all_times_is_the_beginning(lab: Lab) -> None:
    await published(lab, *numbers(0, 3))
    await until(await lab.listen("/all?since=1960-01-01T00:00:00Z"), *numbers(0, 3))


async def test_headers_count_as_memory(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.hub.tail.RING_BYTES", 1_000_000)
    witness = await lab.listen("/all")
    for number in range(60):
        await lab.publish(str(number), headers={"trace": "x" * 50_000})
    await witness.response.until_events(60)
    source = next(each for each in lab.services[0]._hub._sources.values() if each.subscriptions)
    assert 10 < sum(entry is not None for entry in source.ring._entries) <= 20


# Made anew


async def coming_back_early(lab: Lab, monkeypatch: pytest.MonkeyPatch, *, earliest: bool) -> list[str]:
    """What a client hears that comes back before the live reader has noticed that the stream was made anew."""
    monkeypatch.setattr("sidecar.hub.tail.RING_EVENTS", 5)  # so that it has a reader of its own
    client = await lab.listen("/all")
    await lab.publish(*(f"old {number}" for number in range(100)))
    await client.response.until_events(100)
    ids = [event.id for event in client.response.events]
    if earliest:  # somebody has had the old ones replayed a moment ago
        await (await lab.listen("/all", ids[10])).response.until_events(89)
    await lab.recreate("orders.events")
    # Fewer than before: at the live reader's place nothing stands, and it takes its time to believe that.
    await lab.publish(*(f"new {number}" for number in range(60)))
    back = await lab.listen("/all", "earliest" if earliest else ids[50])
    await client.response.until(lambda response: "new 59" in response.data)
    await lab.publish("end")
    await back.response.until(lambda response: "end" in response.data)
    await trio.sleep(1)
    return heard(back)


async def test_recreated_is_told_once_to_who_notices_first(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    told = await coming_back_early(lab, monkeypatch, earliest=False)
    assert told == [reset("recreated"), *(f"new {number}" for number in range(60)), "end"]


async def test_nothing_of_the_old_stream_in_the_place_of_the_new(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    told = await coming_back_early(lab, monkeypatch, earliest=True)
    assert not [data for data in told if data.startswith("old")]


async def test_a_slow_reader_of_the_old_hears_the_reset_before_the_new(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.hub.tail.RING_EVENTS", 40)  # so that everybody has a reader of its own
    witness = await lab.listen("/all")
    await lab.publish_at_once(*(f"old {number} {BLOCK}" for number in range(300)))
    await witness.response.until_events(300)
    stalled = await wire.never_read(lab.address(), "/all?last_event_id=earliest")
    with trio.fail_after(PATIENCE):
        while not any(stream.outlet.pending for stream in lab.services[0]._streams.open):  # noqa: ASYNC110
            await trio.sleep(0.001)
    await lab.recreate("orders.events")
    await lab.publish_at_once(*(f"new {number} {BLOCK}" for number in range(310)))
    await witness.response.until_events(300 + 1 + 310)
    quick = await lab.listen("/all", "earliest")
    await quick.response.until_events(310)
    response = wire.Response()
    lab.nursery.start_soon(wire._read_http1, stalled, response, "GET")
    await response.until(lambda response: response.data and response.data[-1].startswith("new 309 "))
    words = [data.rsplit(" ", 1)[0] for data in response.data]
    at = words.index('{"reason":')
    assert words[:at] == [f"old {number}" for number in range(at)]
    assert words[at + 1 :] == [f"new {number}" for number in range(310)]


async def test_memory_never_joins_two_streams(lab: Lab) -> None:
    """Whoever comes back in the meantime has the new one's beginning, and memory the old one's end."""
    ids = await published(lab, *(f"old {number}" for number in range(10)))
    await lab.restart()
    witness = await lab.listen("/all")
    await lab.publish(*(f"old {number}" for number in range(10, 15)))  # memory begins after the first nine
    await witness.response.until_events(5)
    await lab.recreate("orders.events")
    new = [f"new {number}" for number in range(12)]
    await lab.publish(*new)
    back = await lab.listen("/all", ids[2])
    await witness.response.until(lambda response: "new 11" in response.data)
    await lab.publish("end")
    await back.response.until(lambda response: "end" in response.data)
    assert heard(back) == [reset("recreated"), *new, "end"]


# The end


SOLO = """
broker: {url: "%(url)s"}
listen: [{bind: "127.0.0.1:0"}]
admin: {bind: "127.0.0.1:0"}
drain: {within: 0s}
routes: [{path: /solo, stream: orders.solo, heartbeat: 60s}]
"""


async def alone(lab: Lab) -> Service:
    """A sidecar that does not declare the stream it reads."""
    spec = StreamQueue("orders.solo", declare=True, bindings=((Exchange("orders"), Binding("#")),))
    await lab.services[0].broker.open_stream(spec)
    if lab.memory is not None:
        await lab.stop(lab.services[0])
    service = Service(parse(SOLO % {"url": lab.url}, "sidecar.yaml", Path()), broker=lab.memory)
    await lab.nursery.start(service.run)
    await service.broker.wait_connected()
    if lab.memory is not None:  # it has begun anew with its process
        await lab.memory.open_stream(spec)
    lab.services.insert(0, service)
    return service


async def test_a_slow_reader_of_a_stream_that_is_gone_is_ended_too(lab: Lab) -> None:
    service = await alone(lab)
    stalled = await wire.never_read(lab.address(service), "/solo")
    witness = await lab.listen("/solo", service=service)
    await lab.publish_at_once(*(f"{number} {BLOCK}" for number in range(300)))
    await witness.response.until_events(300)
    lab.delete("orders.solo")
    assert await witness.response.until_end() == "clean"
    response = wire.Response()
    lab.nursery.start_soon(wire._read_http1, stalled, response, "GET")
    assert await response.until_end() == "clean"


async def test_what_goes_back_to_the_queue_is_not_sent(lab: Lab) -> None:
    first = await lab.listen("/inbox/anna")
    await first.aclose()
    stalled = await wire.never_read(lab.address(), "/inbox/anna")
    with trio.fail_after(PATIENCE):
        while not any(stream._subscription for stream in lab.services[0]._streams.open):  # noqa: ASYNC110
            await trio.sleep(0.001)
    for number in range(5):
        await lab.publish(f"{number} {'x' * 3_000_000}", key="to.anna")
    with trio.fail_after(PATIENCE):
        while not any(stream.outlet.pending > 10_000_000 for stream in lab.services[0]._streams.open):  # noqa: ASYNC110
            await trio.sleep(0.001)
    (stream,) = (each for each in lab.services[0]._streams.open if each.outlet.pending)
    stream.drain()
    response = wire.Response()
    lab.nursery.start_soon(wire._read_http1, stalled, response, "GET")
    await response.until_end()
    client = await lab.listen("/inbox/anna")
    await lab.publish("end", key="to.anna")
    await client.response.until(lambda response: response.data and '"end"' in response.data[-1])
    had, again = ([json.loads(data)["body"].split()[0] for data in each.data] for each in (response, client.response))
    assert not set(had[1:]) & set(again)  # the one under way may be in both
    assert set(had) | set(again) == {*numbers(0, 5), "end"}
