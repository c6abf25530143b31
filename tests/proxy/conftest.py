"""A sidecar in this process, in front of an application that a test scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from sidecar.broker.memory import MemoryBroker
from sidecar.config.model import Config
from sidecar.service import Service
from tests.lab.certificates import Certificates
from tests.proxy.client import Client1
from tests.proxy.origin import Origin, Script, origin


class Beside:
    """A sidecar beside an application."""

    def __init__(self, nursery: trio.Nursery, service: Service, application: Origin) -> None:
        self.nursery = nursery
        self.service = service
        self.application = application

    @property
    def address(self) -> tuple[str, int]:
        """Where the sidecar listens."""
        host, _, port = self.service.addresses[0].rpartition("//")[2].rpartition(":")
        return host, int(port)

    @property
    def codes(self) -> dict[int, int]:
        """What `sidecar_upstream_requests_total` counts."""
        return self.service.metrics.upstream_requests

    async def client(self) -> Client1:
        """A client's connection."""
        return Client1(await trio.open_tcp_stream(*self.address))

    async def ask(self, request: bytes) -> bytes:
        """Everything that is answered to these bytes, on a connection that is closed after it."""
        async with await self.client() as client:
            await client.send(request)
            return await client.rest()


Beginning = Callable[..., Awaitable[Beside]]


@pytest.fixture
async def beside(nursery: trio.Nursery, tmp_path: Path) -> AsyncIterator[Beginning]:
    """What starts a sidecar beside a script; further arguments are limits of `upstream`."""
    services: list[Service] = []

    async def start(
        script: Script,
        *,
        unix: bool = False,
        away: bool = False,
        trusted: list[str] | None = None,
        tls: Certificates | None = None,
        **limits: Any,
    ) -> Beside:
        application = await origin(nursery, script, tmp_path / "app.sock" if unix else None)
        if away:
            await application.stop()
        files = {"certificate": tls.certificate, "key": tls.key} if tls is not None else None
        config = Config.model_validate(
            {
                "broker": {"url": "memory://"},
                "listen": [{"bind": "127.0.0.1:0", **({"tls": files} if files else {})}],
                "admin": {"bind": "127.0.0.1:0"},
                "drain": {"within": limits.pop("within", 0.2)},
                "upstream": {"url": application.url, **limits},
                "trusted_proxies": trusted or [],
                "routes": [{"path": "/events", "exchange": "e", "declare": {"type": "topic"}}],
            }
        )
        service = Service(config, broker=MemoryBroker())
        await nursery.start(service.run)
        services.append(service)
        return Beside(nursery, service, application)

    yield start
    for service in services:
        service.stop()
        with trio.fail_after(10):
            await service.stopped.wait()
