"""RabbitMQ killed and started again, or not there at all: event streams outlast it and say what they missed."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.e2e.conftest import Client, topic_route
from tests.lab import wire
from tests.lab.certificates import Certificates
from tests.lab.ports import free_port
from tests.lab.process import Service, running
from tests.lab.publisher import publishing
from tests.lab.rabbitmq import RabbitNode

ROUTES = [
    topic_route("/plain/{name}", heartbeat="500ms"),
    topic_route("/honest/{name}", overload="503"),
]
RECONNECT = {"min": "50ms", "max": "250ms"}
STREAMS = 200


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RabbitNode]:
    """A RabbitMQ that may be killed."""
    directory = tmp_path / "node"
    directory.mkdir()
    node = RabbitNode(directory)
    try:
        node.start()
        yield node
    finally:
        node.stop()


async def open_streams(nursery: trio.Nursery, service: Service) -> list[wire.Response]:
    """Half on HTTP/1.1, half on one HTTP/2 connection, on ten different subscriptions."""
    http2 = await wire.open_http2(nursery, service.http)
    streams = []
    for number in range(STREAMS // 2):
        path = f"/plain/s{number % 10}"
        streams.append((await wire.open_http1(nursery, service.http, path)).response)
        streams.append((await http2.get(path)).response)
    for stream in streams:
        await stream.until_open()
    return streams


async def test_killed_and_started_again_under_200_streams(
    nursery: trio.Nursery, node: RabbitNode, tmp_path: Path
) -> None:
    config = {"broker": {"url": node.url(), "reconnect": RECONNECT}, "routes": ROUTES}
    with running(tmp_path, config) as service:
        in_thread = trio.to_thread.run_sync
        streams = await open_streams(nursery, service)
        await publish_to_each(node, "before")
        for stream in streams:
            await stream.until_events(1)

        node.kill()
        away = await in_thread(lambda: service.sidecar.wait_answer("/readyz", 503))
        assert "broker" in away.body
        assert service.sidecar.ask("/livez").status == 200
        assert service.sidecar.metric("sidecar_broker_connected") == 0
        heartbeats = [len(stream.stream.comments) for stream in streams]
        for stream, before in zip(streams, heartbeats, strict=True):
            await stream.until(functools.partial(has_comments, number=before + 1))
        await newcomers_are_asked_to_come_back(nursery, service)

        await in_thread(node.start)
        await in_thread(service.sidecar.wait_ready)
        for stream in streams:
            await stream.until_events(2)
        await publish_to_each(node, "after")
        for stream in streams:
            await stream.until_events(3)
        for stream in streams:
            assert stream.end is None
            assert [event.type for event in stream.events] == ["message", "sidecar.reset", "message"]
            assert json.loads(stream.events[1].data) == {"reason": "broker_reconnected"}
            assert stream.data[::2] == ["before", "after"]
            assert {event.id for event in stream.events} == {""}
        metric = service.sidecar.metric
        assert metric("sidecar_resets_total", reason="broker_reconnected") == STREAMS
        assert metric("sidecar_broker_reconnects_total") == 1
        assert metric("sidecar_broker_connected") == 1
        nursery.cancel_scope.cancel()


def has_comments(response: wire.Response, number: int) -> bool:
    """Whether so many comments have come."""
    return len(response.stream.comments) >= number


async def publish_to_each(node: RabbitNode, body: str) -> None:
    """One message to each of the ten subscriptions."""

    def publish() -> None:
        with publishing(node.url()) as publisher:
            for number in range(10):
                publisher.publish("e2e.topic", f"plain.s{number}", body, mandatory=True)

    await trio.to_thread.run_sync(publish)


async def newcomers_are_asked_to_come_back(nursery: trio.Nursery, service: Service) -> None:
    """Section 3: what will pass is answered with 200, a retry and a clean end; or honestly, where a route says so."""
    for path in ("/plain/s1", "/plain/new"):
        for version in ("1.0", "1.1"):
            polite = (await wire.open_http1(nursery, service.http, path, version=version)).response
            assert await polite.until_end() == "clean"
            assert (polite.status, polite.events) == (200, [])
            assert polite.header("content-type") == "text/event-stream; charset=utf-8"
            assert polite.stream.retry is not None
    honest = (await wire.open_http1(nursery, service.http, "/honest/new")).response
    await honest.until_end()
    assert honest.status == 503
    bad = (await wire.open_http1(nursery, service.http, "/plain/a.b")).response
    await bad.until_end()
    assert bad.status == 400  # what will not pass is said also now


async def test_a_broker_that_was_never_there(nursery: trio.Nursery, tmp_path: Path) -> None:
    url = f"amqp://guest:a-secret-word@127.0.0.1:{free_port()}/"
    config = {"broker": {"url": url, "reconnect": RECONNECT}, "routes": ROUTES}
    with running(tmp_path, config, ready=False) as service:
        wait = functools.partial(service.sidecar.wait_answer, "/livez", 200)
        await trio.to_thread.run_sync(wait)
        not_ready = service.sidecar.ask("/readyz")
        assert not_ready.status == 503
        assert "broker" in not_ready.body
        await newcomers_are_asked_to_come_back(nursery, service)
        assert "a-secret-word" not in not_ready.body + service.sidecar.log.text
        nursery.cancel_scope.cancel()


async def test_several_urls_are_tried_in_turn(
    nursery: trio.Nursery, rabbitmq: RabbitNode, vhost_url: str, tmp_path: Path
) -> None:
    urls = [f"amqp://guest:guest@127.0.0.1:{free_port()}/", vhost_url]
    config = {"broker": {"url": urls, "reconnect": RECONNECT}, "routes": ROUTES}
    with running(tmp_path, config) as service:
        stream = (await wire.open_http1(nursery, service.http, "/plain/a")).response
        await stream.until_open()
        with publishing(vhost_url) as publisher:
            publisher.publish("e2e.topic", "plain.a", "here")
        await stream.until_events(1)
        nursery.cancel_scope.cancel()


async def test_tls_to_the_broker(
    nursery: trio.Nursery, rabbitmq: RabbitNode, certificates: Certificates, tmp_path: Path
) -> None:
    vhost = rabbitmq.vhost()
    broker = {"url": rabbitmq.url(vhost, tls=True), "tls": {"ca": str(certificates.authority)}}
    with running(tmp_path, {"broker": broker, "routes": ROUTES}) as service:
        stream = (await wire.open_http1(nursery, service.http, "/plain/a")).response
        await stream.until_open()
        with publishing(rabbitmq.url(vhost)) as publisher:
            publisher.publish("e2e.topic", "plain.a", "here")
        await stream.until_events(1)
        nursery.cancel_scope.cancel()


async def test_an_exchange_that_does_not_exist_until_it_does(client: Client) -> None:
    closed = client.service.sidecar.metric("sidecar_streams_closed_total", reason="broker_refused")
    polite = await client.get("/missing")
    assert await polite.until_end() == "clean"
    assert (polite.status, polite.events) == (200, [])
    assert polite.stream.retry is not None
    assert (await client.get("/missing/honest")).status == 503
    refused = functools.partial(client.service.sidecar.metric, "sidecar_streams_closed_total", reason="broker_refused")
    assert refused() == closed + 2
    assert "e2e.missing" in client.service.sidecar.log.text
    assert client.service.sidecar.ask("/readyz").status == 200  # others are served


async def test_an_exchange_that_appears_serves_whoever_comes_back(client: Client, broker_url: str) -> None:
    assert await (await client.get("/late")).until_end() == "clean"
    with publishing(broker_url) as publisher:
        publisher.exchange("e2e.late", "topic")
        stream = await client.listen("/late")
        publisher.publish("e2e.late", "any.key", "here")
        await stream.until_events(1)
