"""The process most tests share, and clients of every kind it must serve."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import trio

from tests.lab import wire
from tests.lab.certificates import Certificates
from tests.lab.process import Service, running
from tests.lab.publisher import Publisher, publishing
from tests.lab.rabbitmq import RabbitNode

TOPIC = {"exchange": "e2e.topic", "declare": {"type": "topic"}}


def topic_route(path: str, **options: Any) -> dict[str, Any]:
    """A route on the shared topic exchange whose binding key is ``plain.`` and the last parameter of its path."""
    return {"path": path, "binding_key": "plain.{name}", **TOPIC, **options}


ROUTES: list[dict[str, Any]] = [
    {"path": "/topic/{order}", "binding_key": "order.{order}.*", "event": "{routing_key}", **TOPIC},
    {
        "path": "/direct/{key}",
        "exchange": "e2e.direct",
        "declare": {"type": "direct"},
        "binding_key": "{key}",
        "event": "{routing_key}",
    },
    {"path": "/fanout", "exchange": "e2e.fanout", "declare": {"type": "fanout"}, "event": "{routing_key}"},
    {
        "path": "/headers/{tenant}",
        "exchange": "e2e.headers",
        "declare": {"type": "headers"},
        "binding_headers": {"x-match": "all", "tenant": "{tenant}", "kind": "order"},
        "event": "{routing_key}",
    },
    topic_route("/plain/{name}"),
    topic_route("/query", binding_key="plain.{query.name}"),
    topic_route("/two/{name}", binding_key=["plain.{name}", "also.{name}.#"]),
    topic_route("/named/{name}", event="{exchange}|{routing_key}|{type}|{message_id}|{app_id}|{headers.tenant}|{name}"),
    topic_route("/typed/{name}", event="{type}"),
    topic_route("/tenant/{name}", event="{headers.tenant}"),
    topic_route("/envelope/{name}", data="envelope"),
    topic_route("/where/{tenant}/{name}", where={"headers.tenant": "{tenant}"}),
    topic_route("/quick/{name}", heartbeat="300ms", retry="100ms-200ms"),
    topic_route("/aged/{name}", max_age="1s"),
    topic_route("/brief/{name}", max_age="300ms", retry="100ms-200ms"),
    topic_route("/small/{name}", backlog={"events": 1000, "bytes": "64KiB"}),
    topic_route("/dropping/{name}", backlog={"events": 1000, "bytes": "64KiB", "when_full": "drop_oldest"}),
    {"path": "/late", "exchange": "e2e.late"},
    {"path": "/missing", "exchange": "e2e.missing"},
    {"path": "/missing/honest", "exchange": "e2e.missing", "overload": "503"},
]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure, show what the shared process wrote at last."""
    report = yield
    service = getattr(item, "funcargs", {}).get("service")
    if report.failed and service is not None:
        report.sections.append(("the last lines of sidecar's log", str(service.sidecar.log)))
    return report


@pytest.fixture(scope="session")
def broker_url(rabbitmq: RabbitNode) -> str:
    """The URL of a virtual host for all of these tests."""
    return rabbitmq.url(rabbitmq.vhost())


@pytest.fixture(scope="session")
def service(broker_url: str, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The process most tests share."""
    tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    config = {"broker": {"url": broker_url}, "routes": ROUTES}
    with running(tmp_path_factory.mktemp("service"), config, tls=tls) as service:
        yield service


@pytest.fixture(scope="session")
def publisher(broker_url: str, service: Service) -> Iterator[Publisher]:
    """A publisher on the same virtual host; the exchanges exist, whoever connects first."""
    with publishing(broker_url) as publisher:
        publisher.exchange("e2e.topic", "topic", durable=True)
        publisher.exchange("e2e.direct", "direct", durable=True)
        publisher.exchange("e2e.fanout", "fanout", durable=True)
        publisher.exchange("e2e.headers", "headers", durable=True)
        yield publisher


@pytest.fixture
def name() -> str:
    """A routing key's word of this test's own."""
    return uuid.uuid4().hex


KINDS = ("http/1.0", "http/1.1", "unix", "h2c", "h2")


@dataclass
class Client:
    """Asks the shared process over one kind of connection."""

    nursery: trio.Nursery
    service: Service
    certificates: Certificates
    kind: str
    _http2: wire.Http2 | None = None

    async def get(
        self, path: str, *, method: str = "GET", headers: wire.Headers = (("accept", "text/event-stream"),)
    ) -> wire.Response:
        """A response, as soon as its head has come."""
        if self.kind in ("h2", "h2c"):
            connection = await self.http2()
            return await (await connection.get(path, method=method, headers=headers)).response.until_head()
        address = self.service.unix if self.kind == "unix" else self.service.http
        version = self.kind[5:] if self.kind.startswith("http/") else "1.1"
        opened = await wire.open_http1(self.nursery, address, path, method=method, headers=headers, version=version)
        return await opened.response.until_head()

    async def listen(self, path: str, headers: wire.Headers = (("accept", "text/event-stream"),)) -> wire.Response:
        """An event stream, as soon as its first bytes have come: nothing published later is missed."""
        response = await self.get(path, headers=headers)
        assert response.status == 200, response
        return await response.until_open()

    async def http2(self) -> wire.Http2:
        """The one HTTP/2 connection of this client."""
        if self._http2 is None:
            secure = self.kind == "h2"
            address = self.service.https if secure else self.service.http
            assert address is not None
            tls = self.certificates.client("h2", "http/1.1") if secure else None
            self._http2 = await wire.open_http2(self.nursery, address, tls=tls)
        return self._http2


@pytest.fixture(params=KINDS)
async def every_client(
    request: pytest.FixtureRequest,
    nursery: trio.Nursery,
    service: Service,
    publisher: Publisher,
    certificates: Certificates,
) -> Client:
    """A client of each kind in turn."""
    return Client(nursery, service, certificates, request.param)


@pytest.fixture
async def client(nursery: trio.Nursery, service: Service, publisher: Publisher, certificates: Certificates) -> Client:
    """A client on HTTP/1.1, for what the kind of connection cannot change."""
    return Client(nursery, service, certificates, "http/1.1")
