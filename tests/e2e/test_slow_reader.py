"""A reader that never reads: it costs its backlog, and nobody else notices; nor does it hold up the end."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from sidecar.broker.transport import READ_SIZE
from tests.e2e.conftest import topic_route
from tests.lab import wire
from tests.lab.eventstream import Parser
from tests.lab.process import Service, running
from tests.lab.publisher import Publisher, publishing

READERS = 499
BACKLOG = 256 * 1024
FLOOD = b"x" * 16_384
SLACK = 8 * 1024 * 1024  # of resident memory: what the allocator and the broker's connection take on the way

ROUTES = [
    topic_route("/shared"),
    topic_route("/ends", backlog={"events": 100_000, "bytes": BACKLOG}),
    topic_route("/drops", backlog={"events": 100_000, "bytes": BACKLOG, "when_full": "drop_oldest"}),
]
ROUTES[0]["binding_key"] = "shared"
ROUTES[1]["binding_key"] = ROUTES[2]["binding_key"] = ["shared", "flood"]


@pytest.fixture
def busy(vhost_url: str, tmp_path: Path) -> Iterator[tuple[Service, Publisher]]:
    """A process of its own, since its memory is measured, and a publisher."""
    config = {"broker": {"url": vhost_url}, "routes": ROUTES}
    with running(tmp_path, config) as service, publishing(vhost_url) as publisher:
        publisher.exchange("e2e.topic", "topic", durable=True)
        yield service, publisher


async def flood(publisher: Publisher, messages: int) -> None:
    """Messages that only the flooded routes get."""

    def publish() -> None:
        for _ in range(messages):
            publisher.publish("e2e.topic", "flood", FLOOD)

    await trio.to_thread.run_sync(publish)


async def opened(nursery: trio.Nursery, service: Service) -> list[wire.Response]:
    """499 readers of the shared messages, half of them on HTTP/2."""
    http2 = await wire.open_http2(nursery, service.http)
    half = [(await http2.get("/shared")).response for _ in range(READERS // 2)]
    rest = [(await wire.open_http1(nursery, service.http, "/shared")).response for _ in range(READERS - READERS // 2)]
    for reader in (*half, *rest):
        await reader.until_open()
    return [*half, *rest]


async def everybody_hears(readers: list[wire.Response], publisher: Publisher, first: int, number: int) -> None:
    """Publish to all; every reader has got every message, in order, within a while."""
    for count in range(first, first + number):
        publisher.publish("e2e.topic", "shared", str(count))
    for reader in readers:
        await reader.until_events(first + number)
        assert reader.data == [str(count) for count in range(first + number)]


async def test_one_among_500_is_ended_and_the_others_go_on(
    nursery: trio.Nursery, busy: tuple[Service, Publisher]
) -> None:
    service, publisher = busy
    readers = await opened(nursery, service)
    await everybody_hears(readers, publisher, 0, 20)
    before = service.sidecar.memory
    stalled = await wire.never_read(service.http, "/ends")
    async with stalled:
        await wait_metric(service, "sidecar_subscribers", 1, route="/ends")
        closed = functools.partial(service.sidecar.metric, "sidecar_streams_closed_total", route="/ends", reason="slow")
        heard = 20
        for _ in range(60):  # 60 × 50 × 16 KiB is more than any socket's buffers
            await flood(publisher, 50)
            await everybody_hears(readers, publisher, heard, 5)
            heard += 5
            if closed():
                break
        assert closed() == 1
        assert service.sidecar.metric("sidecar_events_dropped_total", route="/ends", reason="slow") > 0
        assert service.sidecar.memory - before < BACKLOG + SLACK
        service.sidecar.log.wait(lambda line: line.get("reason") == "slow" and line.get("route") == "/ends")
        await everybody_hears(readers, publisher, heard, 20)
    await wait_metric(service, "sidecar_subscribers", 0, route="/ends")
    assert all(reader.end is None for reader in readers)
    nursery.cancel_scope.cancel()


async def wait_metric(service: Service, name: str, value: float, **labels: str) -> None:
    """`Sidecar.wait_metric` from a thread: the clients' tasks go on meanwhile."""
    await trio.to_thread.run_sync(lambda: service.sidecar.wait_metric(name, value, wire.PATIENCE, **labels))


async def test_the_oldest_are_dropped_and_the_reader_is_told_when_it_reads_again(
    nursery: trio.Nursery, busy: tuple[Service, Publisher]
) -> None:
    service, publisher = busy
    stalled = await wire.never_read(service.http, "/drops")
    async with stalled:
        await wait_metric(service, "sidecar_subscribers", 1, route="/drops")
        before = service.sidecar.memory
        await flood(publisher, 1500)
        publisher.publish("e2e.topic", "shared", "the newest")
        assert service.sidecar.memory - before < BACKLOG + SLACK
        # Beside the backlog there is what was read of the broker at once, and begun to be written.
        assert 0 < service.sidecar.metric("sidecar_backlog_bytes") <= BACKLOG + READ_SIZE + 2 * len(FLOOD)
        parser = await read_until_event(stalled, "the newest")
        kinds = [event.type for event in parser.events]
        assert kinds.count("sidecar.reset") == 1
        gap = kinds.index("sidecar.reset")
        assert json.loads(parser.events[gap].data) == {"reason": "slow"}
        assert {event.data for event in parser.events if event.type == "message"} == {FLOOD.decode(), "the newest"}
        assert 0 < gap < len(kinds) - 2  # a part from before the gap, a part from after it, each event whole
        dropped = service.sidecar.metric("sidecar_events_dropped_total", route="/drops", reason="slow")
        assert len(kinds) - 2 + dropped == 1500
        assert service.sidecar.metric("sidecar_resets_total", route="/drops", reason="slow") == 1
        publisher.publish("e2e.topic", "shared", "and on")
        await read_until_event(stalled, "and on", parser)


async def read_until_event(stream: trio.SocketStream, data: str, parser: Parser | None = None) -> Parser:
    """Read a chunked response until an event has this data. The chunks' borders fall on events' borders."""
    parser = parser or Parser()
    received = bytearray()
    with trio.fail_after(wire.PATIENCE):
        while not any(event.data == data for event in parser.events):
            received += await stream.receive_some(65536)
            feed_chunks(received, parser)
    return parser


def feed_chunks(received: bytearray, parser: Parser) -> None:
    """Move whole chunks (RFC 9112 §7.1) out of a buffer into a parser; the head goes the same way."""
    if received.startswith(b"HTTP/"):
        head = received.find(b"\r\n\r\n")
        if head < 0:
            return
        del received[: head + 4]
    while (line := received.find(b"\r\n")) > 0:
        size = int(bytes(received[:line]), 16)
        if len(received) < line + 2 + size + 2:
            return
        parser.feed(bytes(received[line + 2 : line + 2 + size]))
        del received[: line + 2 + size + 2]


@pytest.mark.parametrize("path", ["/ends", "/drops"])
async def test_it_does_not_hold_up_the_end(nursery: trio.Nursery, busy: tuple[Service, Publisher], path: str) -> None:
    service, publisher = busy
    reader = (await wire.open_http1(nursery, service.http, "/shared")).response
    await reader.until_open()
    stalled = await wire.never_read(service.http, path)
    stuck = await (await wire.open_http2(nursery, service.http, initial_window=100)).get(path, reading=False)
    async with stalled:
        await wait_metric(service, "sidecar_subscribers", 2, route=path)
        await flood(publisher, 300)
        assert await trio.to_thread.run_sync(service.sidecar.terminate, 1.0 + 9.0) == 0  # drain.within, and a margin
        assert await reader.until_end() == "clean"
        await stuck.response.until_end()


async def test_a_thousand_clients_that_vanish_leave_nothing_behind(
    nursery: trio.Nursery, busy: tuple[Service, Publisher]
) -> None:
    service, publisher = busy
    kept = (await wire.open_http1(nursery, service.http, "/shared")).response
    await kept.until_open()
    files = service.sidecar.open_files
    for wave in range(5):
        async with trio.open_nursery() as leaving:
            streams = [await wire.open_http1(leaving, service.http, "/shared", keep_body=False) for _ in range(200)]
            for stream in streams:
                await stream.response.until_open()
            publisher.publish("e2e.topic", "shared", str(wave))
            for stream in streams[::2]:
                await stream.aclose()
            leaving.cancel_scope.cancel()  # the others: readers gone, sockets closed without a word
        for stream in streams[1::2]:
            await trio.aclose_forcefully(stream.stream)
        publisher.publish("e2e.topic", "shared", "to those who stayed")
    await wait_metric(service, "sidecar_subscribers", 1, route="/shared")
    assert service.sidecar.metric("sidecar_streams_closed_total", route="/shared", reason="client_left") == 1000
    assert service.sidecar.metric("sidecar_backlog_bytes") == 0
    assert service.sidecar.open_files <= files
    await kept.until_events(10)


async def test_a_client_that_half_closes_has_left(nursery: trio.Nursery, busy: tuple[Service, Publisher]) -> None:
    service, _ = busy
    stream = await trio.open_tcp_stream(*service.http)
    async with stream:
        await stream.send_all(wire.request_bytes("GET", "/shared", "localhost", "1.1", []))
        await wait_metric(service, "sidecar_subscribers", 1, route="/shared")
        await stream.send_eof()
        await wait_metric(service, "sidecar_subscribers", 0, route="/shared")
