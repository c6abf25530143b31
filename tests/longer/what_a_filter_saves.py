"""What `stream_filter` saves before a RabbitMQ that filters: ``python -m tests.longer.what_a_filter_saves``.

Strategy: streams of several tenants, written in bulk or message by message, since a broker filters by what it has
written in one piece. One client comes back from the very beginning, to a fresh process in this one, once with the
broker's filter and once without; what the broker sends is counted where it arrives.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pika
import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import FILTER_VALUE, BrokerError, Offset, Reader, ReadSink
from sidecar.config.load import parse
from sidecar.hub import landmarks, tail
from sidecar.service import Service
from tests.lab import rabbitmq, wire
from tests.lab.newer_rabbitmq import newer
from tests.lab.rabbitmq import RabbitNode

ROUTES: Final = """
broker: {url: "%s"}
listen: [{bind: "127.0.0.1:0"}]
admin: {bind: "127.0.0.1:0"}
drain: {within: 0s}
routes:
  - path: /tenants/{tenant}
    stream: filtered
    stream_filter: "{tenant}"
"""
BODY: Final = b"x" * 130
END: Final = "the end"
WITHIN: Final = 600.0
IN_MEMORY: Final = 10_000
"""Messages that the ring holds here, so that nearly all of the stream lies before it."""
NEVER: Final = 2**62


@dataclass(frozen=True)
class Work:
    """A stream, and how it came to be."""

    name: str
    count: int
    tenants: Sequence[str]
    """Who the messages are for, in turn."""
    confirmed: bool
    """Whether the publisher waits for each message's confirm: then each is written by itself."""


TEN, HUNDRED = ([f"tenant-{number}" for number in range(count)] for count in (10, 100))
RUNS: Final = [tenant for tenant in HUNDRED for _ in range(2000)]
WORKS: Final = (
    Work("10 tenants in turn, in bulk", 200_000, TEN, False),
    Work("100 tenants in turn, in bulk", 200_000, HUNDRED, False),
    Work("100 tenants, 2000 in a row each, in bulk", 200_000, RUNS, False),
    Work("10 tenants in turn, one by one", 40_000, TEN, True),
    Work("100 tenants in turn, one by one", 40_000, HUNDRED, True),
)


def publish(url: str, work: Work) -> None:
    """Fill the stream; its last messages are for the two who will be waited for."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare("filtered", durable=True, arguments={"x-queue-type": "stream"})
    if work.confirmed:
        channel.confirm_delivery()
    for tenant in islice(cycle(work.tenants), work.count):
        channel.basic_publish("", "filtered", BODY, _for(tenant))
    if not work.confirmed:
        channel.confirm_delivery()
    for tenant in ("tenant-0", "idle"):
        channel.basic_publish("", "filtered", END.encode(), _for(tenant))
    connection.close()


def _for(tenant: str) -> pika.BasicProperties:
    return pika.BasicProperties(headers={FILTER_VALUE: tenant})


class Counted:
    """Between a reader and its sink: counts what the broker sends."""

    came = 0

    def __init__(self, sink: ReadSink) -> None:
        self._sink = sink

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Count, and pass on."""
        Counted.came += len(deliveries)
        self._sink.deliver(deliveries)

    def ended(self, error: BrokerError) -> None:
        """Pass on."""
        self._sink.ended(error)


async def come_back(url: str, tenant: str) -> tuple[int, float, float]:
    """One client from the stream's beginning to its end: messages from the broker, seconds, CPU seconds."""
    service = Service(parse(ROUTES % url, "sidecar.yaml", Path()))
    read_stream = service.broker.read_stream

    async def counting(
        name: str, offset: Offset, sink: ReadSink, *, window: int, filters: Sequence[str] = ()
    ) -> Reader:
        return await read_stream(name, offset, Counted(sink), window=window, filters=filters)

    service.broker.read_stream = counting  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        await service.broker.wait_connected()
        parts = urlsplit(service.addresses[0])
        Counted.came, began, cpu = 0, trio.current_time(), time.process_time()
        headers = [("accept", "text/event-stream"), ("last-event-id", "earliest")]
        assert parts.hostname is not None
        assert parts.port is not None
        client = await wire.open_http1(nursery, (parts.hostname, parts.port), f"/tenants/{tenant}", headers=headers)
        await client.response.until(_at_the_end, WITHIN)
        measured = Counted.came, trio.current_time() - began, time.process_time() - cpu
        await client.aclose()
        service.stop()
    return measured


def _at_the_end(response: wire.Response) -> bool:
    return bool(response.events) and response.events[-1].data == END


def broker_cpu(node: RabbitNode) -> float:
    """CPU seconds of the node's processes."""
    assert node._process is not None
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == node._process.pid:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print the table."""
    rabbitmq.BIN = newer(rabbitmq.BIN)
    tail.RING_EVENTS = IN_MEMORY  # type: ignore[misc]
    far = landmarks.FAR
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        node = RabbitNode(Path(name))
        try:
            node.start()
            print(f"RabbitMQ {node.control('version').strip()}")
            print("| stream | client | filter | messages read | s | CPU s | broker's CPU s |")
            print("|---|---|---|---|---|---|---|")
            for work in WORKS:
                url = node.url(node.vhost())
                publish(url, work)
                for tenant in ("tenant-0", "idle"):
                    for used in (True, False):
                        landmarks.FAR = far if used else NEVER  # type: ignore[misc]
                        cpu = broker_cpu(node)
                        read, seconds, own = trio.run(come_back, url, tenant)
                        line = (work.name, tenant, "used" if used else "not used", f"{read:,}", f"{seconds:.2f}")
                        print(f"| {' | '.join(line)} | {own:.2f} | {broker_cpu(node) - cpu:.2f} |", flush=True)
        finally:
            node.stop()


if __name__ == "__main__":
    main()
