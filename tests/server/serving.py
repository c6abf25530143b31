"""The whole service in the test's own process, before the embedded broker, so that a test sees its insides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import trio

from sidecar.amqp import Properties
from sidecar.broker.memory import MemoryBroker
from sidecar.broker.port import Declaration
from sidecar.config.model import Config
from sidecar.observe.metrics import RouteMetrics
from sidecar.server import listener
from sidecar.service import Service
from tests.lab.certificates import Certificates
from tests.lab.wire import PATIENCE, Address

NEWS = {"path": "/events/{name}", "exchange": "news", "declare": {"type": "topic"}, "binding_key": "{name}"}
"""One route: the events of a topic exchange under a name."""


@dataclass
class Serving:
    """A running service."""

    service: Service
    broker: MemoryBroker
    nursery: trio.Nursery
    """For clients; cancelled when the test is over."""

    @property
    def address(self) -> Address:
        """The first listener's."""
        return address_of(self.service.addresses[0])

    @property
    def admin(self) -> Address:
        """The operators' listener."""
        return address_of(self.service.admin_address)

    @property
    def metrics(self) -> RouteMetrics:
        """The first route's counts."""
        return next(iter(self.service.metrics.routes))

    async def publish(self, *bodies: str | bytes, key: str = "a", exchange: str = "news", **properties: Any) -> None:
        """Publish messages, one after the other."""
        for body in bodies:
            data = body.encode() if isinstance(body, str) else body
            await self.broker.publish(exchange, key, data, Properties(**properties) if properties else None)

    async def until_streams(self, number: int) -> None:
        """Wait until so many event streams are open, and hear: one that waits for its binding does not yet."""
        streams, routes = self.service._streams, self.service.metrics.routes
        await eventually(lambda: len(streams.open) == number == sum(route.subscribers for route in routes))


def address_of(url: str) -> Address:
    """Where a listener's URL leads."""
    if url.startswith("unix:"):
        return Path(url[5:])
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


async def eventually(condition: Any, timeout: float = PATIENCE) -> None:
    """Wait for what nobody announces: the insides of a service in this very process."""
    with trio.move_on_after(timeout):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.002)
    assert condition()


def configuration(
    routes: Sequence[dict[str, Any]] = (), *, bind: str = "127.0.0.1:0", tls: Certificates | None = None, **more: Any
) -> Config:
    """A configuration on free ports."""
    listener: dict[str, Any] = {"bind": bind}
    if tls is not None:
        listener["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    return Config.model_validate(
        {
            "broker": {"url": ["memory://"]},
            "listen": [listener],
            "admin": {"bind": "127.0.0.1:0"},
            "drain": {"within": 0.1},
            "routes": list(routes) or [NEWS],
            **more,
        }
    )


@asynccontextmanager
async def serving(
    config: Config | None = None, *, broker: MemoryBroker | None = None, farewell: float = 0.02
) -> AsyncIterator[Serving]:
    """Run a service, with a topic exchange named news; at the end it must stop by itself and leave nothing."""
    broker = broker if broker is not None else MemoryBroker()
    broker.declare("news", Declaration("topic"))
    service = Service(config if config is not None else configuration(), broker=broker)
    async with trio.open_nursery() as outer:
        await outer.start(service.run)
        async with trio.open_nursery() as nursery:
            yield Serving(service, broker, nursery)
            nursery.cancel_scope.cancel()
        service.stop()
        with trio.fail_after(PATIENCE), mock.patch.object(listener, "FAREWELL", farewell):
            await service.stopped.wait()


def news(**more: Any) -> dict[str, Any]:
    """The route of `NEWS` with further keys."""
    return {**NEWS, **more}


class Raw:
    """A client that writes and reads bytes as a test says; nothing is read that was not asked for."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.received = bytearray()

    async def send(self, *lines: str | bytes) -> None:
        """Write lines, each with its CRLF; bytes as they are."""
        for line in lines:
            await self.stream.send_all(line if isinstance(line, bytes) else line.encode() + b"\r\n")

    async def get(self, path: str, *fields: str, version: str = "1.1") -> None:
        """Ask."""
        await self.send(f"GET {path} HTTP/{version}", "Host: localhost", *fields, "")

    async def until(self, marker: bytes, times: int = 1) -> bytes:
        """Read until a marker has come so many times; return and forget everything read."""
        with trio.fail_after(PATIENCE):
            while self.received.count(marker) < times:
                data = await self.stream.receive_some(65536)
                assert data, f"ended before {marker!r}: {bytes(self.received)!r}"
                self.received += data
        taken = bytes(self.received)
        self.received.clear()
        return taken

    async def rest(self) -> bytes:
        """Read to the end of the connection; return everything not yet returned."""
        with trio.fail_after(PATIENCE):
            while data := await self.stream.receive_some(65536):
                self.received += data
        return bytes(self.received)

    async def answer(self) -> tuple[int, bytes]:
        """Read one answer with a Content-Length; return status and body."""
        head = b""
        with trio.fail_after(PATIENCE):
            while b"\r\n\r\n" not in self.received:
                data = await self.stream.receive_some(65536)
                assert data, bytes(self.received)
                self.received += data
            head, _, body = bytes(self.received).partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            while len(body) < length:
                data = await self.stream.receive_some(65536)
                assert data, bytes(self.received)
                body += data
        self.received = bytearray(body[length:])
        return int(head.split()[1]), body[:length]
