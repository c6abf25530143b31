"""What only the embedded broker has to show: its bounds, and retention by a clock of the test's own."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import trio

from sidecar.amqp import Properties
from sidecar.broker.memory import MemoryBroker
from sidecar.broker.memory_message import OVERHEAD, Message, Shelf
from sidecar.broker.memory_queue import MemoryQueue
from sidecar.broker.memory_store import Store
from sidecar.broker.memory_stream import Log
from sidecar.broker.port import BrokerAway, BrokerRefused, StreamQueue, WorkQueue
from tests.broker.sinks import ReadRecorder


def message(size: int = 100) -> Message:
    return Message("e", "k", b"x" * (size - OVERHEAD), Properties())


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def test_retention_by_bytes_drops_whole_segments() -> None:
    shelf = Shelf()
    log = Log(shelf, max_bytes=10_000, segment_bytes=2_000)
    for _ in range(100):
        log.append(message(1_000))
    assert log.next == 100
    assert log.first % 2 == 0
    assert 8_000 <= log.bytes <= 12_000
    assert shelf.bytes == log.bytes == (log.next - log.first) * 1_000
    assert log.read(0, 1)[0] == log.first + 1
    assert log.locate(0) == log.locate("first") == log.first
    assert len(log) == log.next - log.first


def test_retention_by_age_happens_when_a_segment_is_begun() -> None:
    clock = Clock()
    log = Log(Shelf(), max_age=60, segment_bytes=2_000, now=clock)
    for _ in range(4):
        log.append(message(1_000))
    clock.now += 61
    assert log.first == 0
    log.append(message(1_000))
    assert log.first == 4


def test_a_time_is_found() -> None:
    clock = Clock()
    log = Log(Shelf(), segment_bytes=2_000, now=clock)
    for _ in range(10):
        log.append(message(1_000))
        clock.now += 10
    for offset in range(10):
        at = 1_700_000_000 + 10 * offset
        assert log.locate(datetime.fromtimestamp(at, UTC)) == offset
        assert log.locate(datetime.fromtimestamp(at + 0.7, UTC)) == offset  # whole seconds, as in AMQP
        assert log.locate(datetime.fromtimestamp(at - 1, UTC)) == offset
    assert log.locate(datetime.fromtimestamp(1_700_000_200, UTC)) == 10


def test_the_largest_gives_way() -> None:
    shelf = Shelf(limit=50_000)
    small, large = Log(shelf, segment_bytes=1_000), Log(shelf, segment_bytes=5_000)
    queue = MemoryQueue("q", shelf, {}, now=Clock())
    shelf.holders |= {small, large, queue}
    for number in range(100):
        large.append(message(1_000))
        if number < 10:
            small.append(message(1_000))
            queue.take(message(1_000))
        shelf.tidy()
        assert shelf.bytes <= 50_000
    assert len(small) == 10
    assert queue.bytes == 10_000
    assert large.bytes + 20_000 == shelf.bytes


async def test_what_consumers_hold_is_not_shed() -> None:
    shelf, sink = Shelf(limit=5_000), ReadRecorder()
    queue = MemoryQueue("q", shelf, {})
    shelf.holders.add(queue)
    consumer = queue.consume(sink, 100, "tag")
    for _ in range(10):
        queue.take(message(1_000))
        shelf.tidy()
    assert len(sink.deliveries) == 10
    assert shelf.bytes == 10_000
    consumer.acknowledge(10)
    assert shelf.bytes == 0


def test_a_deleted_stream_takes_no_room() -> None:
    store = Store()
    kept = store.stream(StreamQueue("s", declare=True))
    kept.take(message(1_000))
    assert store.shelf.bytes == 1_000
    store.delete("s")
    assert store.shelf.bytes == 0
    assert not store.shelf.holders
    assert not len(store)


def test_there_is_a_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.broker.memory_store.MOST_QUEUES", 3)
    clock, store = Clock(), Store()
    monkeypatch.setattr(trio, "current_time", clock)
    monkeypatch.setattr(MemoryQueue.__init__, "__kwdefaults__", {"now": clock})
    for number in range(3):
        store.queue(WorkQueue(f"q{number}", declare=True, expires=60 if number == 1 else None))
    with pytest.raises(BrokerRefused, match="keeps 3 queues at most"):
        store.queue(WorkQueue("q3", declare=True))
    clock.now += 60
    store.queue(WorkQueue("q3", declare=True))
    with pytest.raises(BrokerRefused, match="keeps 3 queues at most"):
        store.stream(StreamQueue("s", declare=True))


async def test_what_is_durable_outlives_a_run() -> None:
    broker = MemoryBroker()
    lasting, passing = WorkQueue("lasting", declare=True), WorkQueue("passing", declare=True, durable=False)
    for expected in ([], [b"0"], [b"0", b"1"]):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.run)
            await broker.wait_connected()
            await broker.open_stream(StreamQueue("stream", declare=True))
            log, work, gone = ReadRecorder(), ReadRecorder(), ReadRecorder()
            await broker.read_stream("stream", "first", log, window=10)
            await broker.consume(lasting, work, prefetch=10)
            await broker.consume(passing, gone, prefetch=10)
            assert log.bodies == work.bodies == expected
            assert gone.bodies == []
            for name in ("stream", "lasting", "passing"):
                await broker.publish("", name, b"%d" % len(expected))
            nursery.cancel_scope.cancel()
        for sink in (log, work, gone):
            assert [type(error) for error in sink.errors] == [BrokerAway]
