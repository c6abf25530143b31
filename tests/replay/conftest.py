"""A whole sidecar in the test's own process, before either broker, that can be stopped and started again."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
from pika.exceptions import UnroutableError

from sidecar.amqp import Properties
from sidecar.broker.memory import MemoryBroker
from sidecar.broker.port import Broker, BrokerAway, Declaration, StreamQueue
from sidecar.config.load import parse
from sidecar.service import Service
from tests.lab import wire
from tests.lab.publisher import Publisher, publishing

PATIENCE = 20.0
KEY = "order.1"
# The streams of tiny segments hear nothing else: each new segment is a chance that RabbitMQ's retention meets a file
# that is not there yet, and then 3.10 starts all its streams' writers again, and forgets what it has not confirmed.
SMALL = "small.1"

ROUTES = """
broker: {url: "%(url)s", reconnect: {min: 50ms, max: 200ms}}
listen: [{bind: "127.0.0.1:0"}]
admin: {bind: "127.0.0.1:0"}
drain: {within: 0s}
defaults: {heartbeat: 60s}
routes:
  - path: /all
    exchange: orders
    declare: {type: topic}
    replay: {stream: orders.events}
  - path: /orders/{order}
    exchange: orders
    declare: {type: topic}
    binding_key: "order.{order}"
    replay: {stream: orders.events}
  - path: /typed
    exchange: orders
    declare: {type: topic}
    binding_key: ["order.1", "order.2"]
    where: {type: paid}
    replay: {stream: orders.events}
  - path: /other
    exchange: orders
    declare: {type: topic}
    replay: {stream: other.events}
  - path: /short
    exchange: orders
    declare: {type: topic}
    binding_key: "small.*"
    replay: {stream: short.events, max_bytes: 10KiB, segment_bytes: 2KiB}
  - path: /cut
    exchange: orders
    declare: {type: topic}
    binding_key: "small.*"
    replay: {stream: cut.events, max_bytes: 60KiB, segment_bytes: 10KiB}
  - path: /stream
    stream: orders.events
    binding_key: "order.*"
  - path: /tenants/{tenant}
    stream: orders.events
    stream_filter: "{tenant}"
  - path: /two-tenants
    stream: orders.events
    stream_filter: [a, b]
    binding_key: "order.*"
  - path: /cut/{tenant}
    stream: cut.events
    stream_filter: "{tenant}"
  - path: /remembered
    exchange: orders
    declare: {type: topic}
    replay: {memory: 5}
  - path: /disconnecting
    exchange: orders
    declare: {type: topic}
    replay: {stream: orders.events}
    backlog: {events: 10, when_full: disconnect}
  - path: /inbox/{user}
    queue: "inbox.{user}"
    declare: {bind: [{exchange: orders, binding_key: "to.{user}"}]}
    prefetch: 10
    data: envelope
"""


async def until_it_publishes(broker: Broker) -> None:
    """Wait until a message passes: a node accepts connections before it can serve them, and breaks them off."""
    with trio.fail_after(PATIENCE):
        while True:
            await broker.wait_connected()
            try:
                await broker.publish("amq.direct", "nobody", b"")
            except BrokerAway:
                await trio.sleep(0.05)
            else:
                return


class Lab:
    """A broker, and a sidecar before it."""

    def __init__(self, nursery: trio.Nursery, url: str, publisher: Publisher | None) -> None:
        self.nursery = nursery
        self.url = url
        self.memory = MemoryBroker() if url == "memory://" else None
        if self.memory is not None:
            self.memory.declare("orders", Declaration("topic"))
        self._publisher = publisher
        self.services: list[Service] = []
        self._opened = Counter[str]()
        """How often a sidecar had declared and bound each stream."""

    async def start(self, url: str | None = None) -> Service:
        """Start a sidecar, and wait until its broker is there."""
        config = parse(ROUTES % {"url": url or self.url}, "sidecar.yaml", Path())
        service = Service(config, broker=self.memory)
        self._note_opened(service.broker)
        await self.nursery.start(service.run)
        with trio.fail_after(PATIENCE):
            await service.broker.wait_connected()
        self.services.append(service)
        return service

    def _note_opened(self, broker: Broker) -> None:
        open_stream = broker.open_stream

        async def noted(stream: StreamQueue) -> None:
            await open_stream(stream)
            self._opened[stream.name] += 1

        setattr(broker, "open_stream", noted)  # noqa: B010 - a method is assigned

    async def stop(self, service: Service) -> None:
        """End a sidecar, as SIGTERM does."""
        service.stop()
        with trio.fail_after(PATIENCE):
            await service.stopped.wait()
        self.services.remove(service)

    async def restart(self) -> Service:
        """Another process takes the place of the one that runs."""
        await self.stop(self.services[0])
        return await self.start()

    async def listen(self, path: str, last_id: str = "", service: Service | None = None) -> wire.Http1:
        """An event stream whose first bytes have come."""
        headers = [("accept", "text/event-stream"), *([("last-event-id", last_id)] if last_id else [])]
        connection = await wire.open_http1(self.nursery, self.address(service), path, headers=headers)
        await connection.response.until_open()
        assert connection.response.status == 200
        return connection

    def address(self, service: Service | None = None) -> tuple[str, int]:
        """Where a sidecar listens."""
        parts = urlsplit((service or self.services[0]).addresses[0])
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    async def publish(self, *bodies: str, key: str = KEY, **properties: object) -> None:
        """Publish messages in this order, each confirmed, and each once somebody is bound to hear it."""
        for body in bodies:
            if self.memory is not None:
                await self.memory.publish("orders", key, body.encode(), Properties(**properties))  # type: ignore[arg-type]
            else:
                await self._publish(body, key, properties)

    async def publish_at_once(self, *bodies: str) -> None:
        """Publish to a stream that is bound, so that a sidecar before RabbitMQ gets all of them in a few batches."""
        if self._publisher is None:
            await self.publish(*bodies)
        else:
            for body in bodies:  # this blocks the thread, and what is tested lives in it
                self._publisher.publish("orders", KEY, body, mandatory=True)

    async def _publish(self, body: str, key: str, properties: dict[str, object]) -> None:
        assert self._publisher is not None
        with trio.fail_after(PATIENCE):
            while True:
                await trio.lowlevel.checkpoint()  # the publisher blocks this thread, and what is tested lives in it
                try:
                    self._publisher.publish("orders", key, body, mandatory=True, **properties)
                except UnroutableError:
                    await trio.sleep(0.01)
                else:
                    return

    @property
    def filters(self) -> bool:
        """Whether the broker holds back what a stream's reader does not want."""
        return self._publisher is None or self._publisher.broker_version >= (3, 13)

    def delete(self, name: str) -> None:
        """Delete a stream or a queue, as an operator does."""
        if self._publisher is not None:
            self._publisher.delete_queue(name)
        else:
            assert self.memory is not None
            self.memory.delete_queue(name)

    async def recreate(self, stream: str) -> None:
        """Delete a stream, and return when a sidecar has declared and bound it again."""
        before = self._opened[stream]
        self.delete(stream)
        await self.collecting(stream, before)

    async def collecting(self, stream: str, before: int = 0) -> None:
        """Return when a sidecar has declared and bound a stream more often than ``before``."""
        with trio.fail_after(PATIENCE):
            while self._opened[stream] <= before:  # noqa: ASYNC110 - nobody is told
                await trio.sleep(0.01)


@pytest.fixture(params=["memory", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else request.getfixturevalue("vhost_url")


@pytest.fixture
def publisher(url: str) -> Iterator[Publisher | None]:
    if url == "memory://":
        yield None
        return
    with publishing(url) as opened:
        opened.exchange("orders", "topic", durable=True)
        yield opened


@pytest.fixture
async def lab(nursery: trio.Nursery, url: str, publisher: Publisher | None) -> AsyncIterator[Lab]:
    laboratory = Lab(nursery, url, publisher)
    await laboratory.start()
    yield laboratory
    for service in tuple(laboratory.services):
        await laboratory.stop(service)
