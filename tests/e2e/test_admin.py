"""The operators' listener, and that nothing of it is on the public one."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.e2e.conftest import ROUTES, Client, topic_route
from tests.lab import wire
from tests.lab.process import LogLine, Service, running
from tests.lab.publisher import Publisher

METRICS = {
    "sidecar_subscribers": "gauge",
    "sidecar_messages_received": "counter",
    "sidecar_events_sent": "counter",
    "sidecar_events_dropped": "counter",
    "sidecar_streams_closed": "counter",
    "sidecar_resets": "counter",
    "sidecar_delivery_seconds": "histogram",
    "sidecar_backlog_bytes": "gauge",
    "sidecar_broker_connected": "gauge",
    "sidecar_broker_reconnects": "counter",
}


def test_health(service: Service) -> None:
    assert service.sidecar.ask("/livez").status == 200
    assert service.sidecar.ask("/readyz").status == 200
    assert service.sidecar.ask("/readyz", "HEAD").body == ""
    assert service.sidecar.ask("/nothing").status == 404
    refused = service.sidecar.ask("/livez", "DELETE")
    assert (refused.status, "GET" in refused.headers["allow"]) == (405, True)


def test_metrics_have_the_names_of_the_contract(service: Service) -> None:
    answer = service.sidecar.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    types = dict(line.split()[2:4] for line in answer.body.splitlines() if line.startswith("# TYPE"))
    for name, kind in METRICS.items():
        assert types[f"{name}_total" if kind == "counter" else name] == kind


async def test_metrics_count(client: Client, publisher: Publisher, name: str) -> None:
    metric, route = client.service.sidecar.metric, "/named/{name}"
    before = {key: metric(key, route=route) for key in COUNTED}
    streams = [await client.listen(f"/named/{name}") for _ in range(3)]
    for _ in range(4):
        publisher.publish("e2e.topic", f"plain.{name}", "x")
    for stream in streams:
        await stream.until_events(4)
    assert metric("sidecar_subscribers", route=route) == 3
    assert {key: metric(key, route=route) - before[key] for key in COUNTED} == COUNTED
    assert name not in client.service.sidecar.ask("/metrics").body  # a label never holds a parameter


COUNTED = {"sidecar_messages_received_total": 4, "sidecar_events_sent_total": 12, "sidecar_delivery_seconds_count": 4}


async def test_routes_are_listed_with_their_subscribers(client: Client, name: str) -> None:
    await client.listen(f"/typed/{name}")
    listed = client.service.sidecar.ask("/routes")
    assert listed.headers["content-type"].startswith("application/json")
    routes = listed.json()
    routes = routes["routes"] if isinstance(routes, dict) else routes
    assert [route["path"] for route in routes] == [route["path"] for route in ROUTES]
    assert next(route for route in routes if route["path"] == "/typed/{name}")["subscribers"] == 1


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/routes", "/drain", "/publish/e2e.topic/a"])
async def test_nothing_of_it_is_public(client: Client, path: str) -> None:
    assert (await client.get(path)).status == 404
    assert (await client.get(path, method="POST", headers=[("content-length", "0")])).status == 404


def test_publishing_is_off_unless_asked_for(service: Service) -> None:
    assert service.sidecar.ask("/publish/e2e.topic/a", "POST", b"x").status in (403, 404)


async def test_publishing_into_the_embedded_broker(nursery: trio.Nursery, tmp_path: Path) -> None:
    config = {"broker": {"url": "memory://"}, "routes": [topic_route("/plain/{name}", event="{type}")]}
    with running(tmp_path, config, publish=True) as service:
        stream = (await wire.open_http1(nursery, service.http, "/plain/a")).response
        await stream.until_open()
        answer = service.sidecar.ask("/publish/e2e.topic/plain.a?type=paid", "POST", b"hello")
        assert answer.status < 300, answer
        (event,) = await stream.until_events(1)
        assert (event.type, event.data) == ("paid", "hello")
        assert service.sidecar.ask("/publish/nowhere/plain.a", "POST", b"hello").status >= 400
        nursery.cancel_scope.cancel()


async def test_every_closed_stream_is_a_line_of_the_log(client: Client, name: str) -> None:
    stream = await wire.open_http1(client.nursery, client.service.http, f"/tenant/{name}")
    await stream.response.until_open()
    await stream.aclose()

    def left(line: LogLine) -> bool:
        return line.get("route") == "/tenant/{name}" and line.get("reason") == "client_left"

    await trio.to_thread.run_sync(client.service.sidecar.log.wait, left)
