"""`sidecar demo`: its traffic, its words, and the whole of it as a process whose printed lines are followed."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random

import httpx
import pytest
import trio
from rich.console import Console
from trio.testing import MockClock

from sidecar.amqp import Delivery
from sidecar.broker.memory import MemoryBroker
from sidecar.broker.port import Binding, BrokerRefused, Exchange
from sidecar.cli.demo import TRAFFIC, Traffic, accompany, configuration, declare, introduce, play
from sidecar.service import Service
from sidecar.topic import topic_matches
from tests.lab.ports import free_port
from tests.lab.process import PATIENCE, Sidecar

ADMIN, PUBLIC = "http://127.0.0.1:8081", "http://127.0.0.1:8080"


class Heard:
    """A sink that keeps what it hears."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self.deliveries.extend(deliveries)

    def lost(self) -> None: ...

    def restored(self) -> None: ...

    def refused(self, error: BrokerRefused) -> None: ...


def words() -> str:
    output = io.StringIO()
    introduce(Console(file=output, highlight=False, soft_wrap=True, width=20), PUBLIC, ADMIN)
    return output.getvalue()


@pytest.mark.parametrize("traffic", TRAFFIC, ids=lambda traffic: traffic.exchange)
def test_every_row_of_samples_has_a_route_that_shows_it(traffic: Traffic) -> None:
    routes = [route for route in configuration(8080).routes if route.exchange == traffic.exchange]
    for sample in islice(traffic.samples(Random(1)), 200):
        keys = [re.sub(r"\{\w+\}", "*", key) for route in routes for key in route.binding_key]
        assert any(topic_matches(key, sample.routing_key) for key in keys)
        assert sample.type
        assert sample.payload


def test_orders_go_through_their_states_in_order() -> None:
    [orders] = [traffic for traffic in TRAFFIC if traffic.exchange == "orders"]
    states: dict[int, list[str]] = {}
    for sample in islice(orders.samples(Random(2)), 300):
        assert isinstance(sample.payload, dict)
        states.setdefault(sample.payload["order"], []).append(sample.payload["state"])
        assert sample.routing_key == f"order.{sample.payload['order']}.{sample.type}"
    for seen in states.values():
        assert seen[:6] == ["placed", "paid", "packed", "shipped", "delivered", "placed"]


async def test_the_traffic_arrives_on_the_embedded_broker(autojump_clock: MockClock) -> None:
    broker, heard = MemoryBroker(), Heard()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        await broker.wait_connected()
        await declare(broker, configuration(0).routes)
        for traffic in TRAFFIC:
            tap = await broker.tap(Exchange(traffic.exchange), heard)
            keys = ("ACME", "INIT", "HOOL", "lobby") if tap.exchange_type == "direct" else ("#",)
            for key in keys:
                await tap.bind(Binding(key))
            nursery.start_soon(play, broker, traffic, Random(3))
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    for traffic in TRAFFIC:
        of_it = [delivery for delivery in heard.deliveries if delivery.exchange == traffic.exchange]
        assert len(of_it) == pytest.approx(10 / traffic.every, abs=2)
        for delivery in of_it:
            assert delivery.properties.content_type in ("application/json", "text/plain")
            assert delivery.properties.content_type == "text/plain" or json.loads(delivery.body)


async def test_declaring_leaves_the_exchanges_and_nothing_else() -> None:
    broker = MemoryBroker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        await broker.wait_connected()
        await declare(broker, configuration(0).routes)
        assert not broker.taps
        for exchange in ("orders", "ticker", "chat", "load"):
            await broker.publish(exchange, "lobby", b"")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("port", "binds"), [(9000, ("127.0.0.1:9000", "127.0.0.1:9001")), (0, ("127.0.0.1:0",) * 2)])
def test_the_operators_listener_is_at_the_next_port(port: int, binds: tuple[str, str]) -> None:
    config = configuration(port)
    assert (config.listen[0].bind, config.admin.bind) == binds
    assert config.admin.publish


def test_its_own_page_comes_first_and_lines_are_never_broken() -> None:
    first, *_ = words().splitlines()
    assert first.endswith(f"{ADMIN}/")
    assert f"  curl -N {PUBLIC}/events/ticker/ACME\n" in words()
    assert "\x1b" not in words()


def test_the_command_is_written_so_that_it_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert f"  {sys.executable} -m sidecar tail {PUBLIC}/events/load\n" in words()
    (tmp_path / "sidecar").write_text("#!/bin/sh\n")
    (tmp_path / "sidecar").chmod(0o755)
    assert f"  sidecar tail {PUBLIC}/events/load\n" in words()


def test_every_line_to_type_meets_a_route() -> None:
    shapes = [re.sub(r"\{\w+\}", "[^/]+", route.path) for route in configuration(8080).routes]
    paths = re.findall(rf"{PUBLIC}(/\S+)", words())
    assert len(paths) == 5
    for path in paths:
        assert any(re.fullmatch(shape, path) for shape in shapes), path


async def test_beside_a_service_it_says_where_it_is_and_publishes(capsys: pytest.CaptureFixture[str]) -> None:
    service = Service(configuration(0))
    async with trio.open_nursery() as nursery, httpx.AsyncClient(timeout=PATIENCE) as client:
        await nursery.start(service.run)
        nursery.start_soon(accompany, service)
        async with client.stream("GET", f"{service.addresses[0]}/events/load") as response:
            with trio.fail_after(PATIENCE):
                data = [line async for line in _until_data(response.aiter_lines())]
        nursery.cancel_scope.cancel()
    assert set(json.loads(data[-1].removeprefix("data:"))) == {"1m", "5m", "15m"}
    assert service.admin_address in capsys.readouterr().out.splitlines()[0]


async def _until_data(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    async for line in lines:
        yield line
        if line.startswith("data:"):
            return


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[Sidecar, int]]:
    port = free_port()
    started = Sidecar(["demo", "--port", str(port)], port + 1)
    try:
        started.wait_ready()
        yield started, port
        assert started.terminate() == 0
    finally:
        started.process.kill()
        started.process.wait()


def test_a_printed_curl_line_shows_events_at_once(demo: tuple[Sidecar, int]) -> None:
    started, port = demo
    line = started.log.wait(lambda line: "curl -N" in str(line.get("text")))
    url = str(line["text"]).split()[-1]
    assert f":{port}/" in url
    with httpx.stream("GET", url, timeout=PATIENCE) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        lines = response.iter_lines()
        event = next(line for line in lines if line.startswith("event:"))
        assert event.removeprefix("event:").strip() == "price"
        data = json.loads(next(line for line in lines if line.startswith("data:")).removeprefix("data:"))
    assert data["symbol"] == "ACME"


def test_the_chat_can_be_joined(demo: tuple[Sidecar, int]) -> None:
    started, port = demo
    with httpx.stream("GET", f"http://127.0.0.1:{port}/events/chat/lobby", timeout=PATIENCE) as response:
        lines = response.iter_lines()
        next(line for line in lines if line.startswith("retry"))
        assert started.ask("/publish/chat/lobby?type=message", "POST", b"hello from the test").status == 204
        assert any(line.endswith("hello from the test") for line in lines)


def test_the_operators_pages_are_there(demo: tuple[Sidecar, int]) -> None:
    started, _ = demo
    assert started.ask("/").headers["content-type"] == "text/html; charset=utf-8"
    assert "/publish/{exchange}/{routing_key}" in started.ask("/", Accept="text/plain").body
    paths = [route["path"] for route in started.ask("/routes").json()["routes"]]
    assert "/events/orders/{order}" in paths
    assert started.metric("sidecar_broker_connected") == 1
