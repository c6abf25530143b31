"""``sidecar demo``: everything in one process, without a file and without a broker.

Strategy: the configuration below is an ordinary one; only its broker is the embedded one, and a few tasks beside the
service publish into it what a real application might. What is printed can be typed as it stands.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, TypeAlias

import trio
import typer
from rich.console import Console

from sidecar.amqp import Delivery, Properties
from sidecar.broker.port import Broker, BrokerAway, BrokerRefused
from sidecar.cli.run import serve
from sidecar.config import Config
from sidecar.config.model import Route
from sidecar.http.routes import exchange_of
from sidecar.service import Service

Payload: TypeAlias = dict[str, Any] | str


@dataclass(frozen=True, slots=True)
class Sample:
    """One message of the demo; ``type`` is AMQP's message type, and becomes the event's."""

    routing_key: str
    payload: Payload
    type: str


@dataclass(frozen=True, slots=True)
class Traffic:
    """An endless row of messages to one exchange, one every so many seconds."""

    exchange: str
    every: float
    samples: Callable[[Random], Iterator[Sample]]


def orders(random: Random) -> Iterator[Sample]:
    """Nine orders that go through their states, and begin again."""
    states = ("placed", "paid", "packed", "shipped", "delivered")
    progress = dict.fromkeys(range(1, 10), 0)
    while True:
        order = random.choice(list(progress))
        state = states[progress[order] % len(states)]
        progress[order] += 1
        yield Sample(f"order.{order}.{state}", {"order": order, "state": state, "time": _now()}, state)


def prices(random: Random) -> Iterator[Sample]:
    """Three shares' prices on a random walk."""
    price = {"ACME": 120.0, "INIT": 45.0, "HOOL": 310.0}
    while True:
        symbol = random.choice(list(price))
        price[symbol] = round(price[symbol] * random.uniform(0.995, 1.005), 2)
        yield Sample(symbol, {"symbol": symbol, "price": price[symbol], "time": _now()}, "price")


def chat(random: Random) -> Iterator[Sample]:
    """Small talk in the lobby; join it with POST /publish."""
    lines = ("Good morning!", "Did anybody restart the broker?", "All streams are still open here.", "Coffee?", "+1")
    while True:
        name = random.choice(("ada", "grace", "linus"))
        yield Sample("lobby", f"{name}: {random.choice(lines)}", "message")


def _now() -> float:
    """Seconds since 1970, from which the debug page shows a delay."""
    return round(time.time(), 4)


def load_averages(_: Random) -> Iterator[Sample]:
    """How busy this machine really is."""
    while True:
        averages = zip(("1m", "5m", "15m"), os.getloadavg(), strict=True)
        yield Sample("", {name: round(value, 2) for name, value in averages}, "load")


TRAFFIC = (
    Traffic("orders", 0.3, orders),
    Traffic("ticker", 0.2, prices),
    Traffic("chat", 3.0, chat),
    Traffic("load", 1.0, load_averages),
)


def configuration(port: int) -> Config:
    """The demo's configuration: public at ``port``, the operators' listener at the next one (0: any free ones)."""

    def route(path: str, exchange: str, kind: str, binding_key: str, **options: Any) -> dict[str, Any]:
        declare = {"type": kind, "durable": False}
        return {
            "path": path,
            "exchange": exchange,
            "declare": declare,
            "binding_key": [binding_key],
            "event": "{type}",
            **options,
        }

    return Config.model_validate(
        {
            "broker": {"url": ["memory://"]},
            "listen": [{"bind": f"127.0.0.1:{port}"}],
            "admin": {"bind": f"127.0.0.1:{port and port + 1}", "publish": True},
            "drain": {"within": 1.0},
            "routes": [
                route("/events/orders", "orders", "topic", "order.#", replay={"memory": 100}),
                route("/events/orders/{order}", "orders", "topic", "order.{order}.*"),
                route("/events/ticker/{symbol}", "ticker", "direct", "{symbol}"),
                route("/events/chat/{room}", "chat", "direct", "{room}"),
                route("/events/load", "load", "fanout", "#"),
            ],
        }
    )


def demo(
    port: Annotated[
        int, typer.Option("--port", min=0, max=65534, help="Serve here; the operators' pages are at the next port.")
    ] = 8080,
) -> None:
    """Try it: sample routes with live traffic, without a file and without a broker; what it prints can be typed."""
    taken = "another process has it; --port takes another, and the next one with it"
    raise typer.Exit(serve(configuration(port), companion=accompany, elsewhere=taken))


async def accompany(service: Service) -> None:
    """Print what to try, then publish the sample traffic until cancelled."""
    introduce(Console(highlight=False, soft_wrap=True), service.addresses[0], service.admin_address)
    await service.broker.wait_connected()
    await declare(service.broker, service.config.routes)
    async with trio.open_nursery() as nursery:
        for traffic in TRAFFIC:
            nursery.start_soon(play, service.broker, traffic, Random())


async def declare(broker: Broker, routes: Iterable[Route]) -> None:
    """Declare the routes' exchanges now; a route by itself does it when its first reader comes."""
    for route in routes:
        exchange = exchange_of(route)
        if exchange is not None and exchange.declare is not None:
            await (await broker.tap(exchange, _Deaf())).aclose()


class _Deaf:
    """A sink for a tap that is not meant to hear anything."""

    def deliver(self, deliveries: Sequence[Delivery]) -> None: ...

    def lost(self) -> None: ...

    def restored(self) -> None: ...

    def refused(self, error: BrokerRefused) -> None: ...


def introduce(console: Console, address: str, admin: str) -> None:
    """Print the addresses (URLs without a path) and the lines to type."""
    console.print(f"[bold]sidecar demo[/] – the debug page: [bold cyan]{admin}/[/]\n")
    for meaning, line in (
        ("A share's price, as plain curl sees it", f"curl -N {address}/events/ticker/ACME"),
        ("Orders, all or one", f"curl -N {address}/events/orders"),
        ("", f"curl -N {address}/events/orders/7"),
        ("With a client that reconnects", f"{_command()} tail {address}/events/load"),
        ("Read the chat, and join it", f"{_command()} tail {address}/events/chat/lobby"),
        ("", f"curl -d 'hello' '{admin}/publish/chat/lobby?type=message'"),
    ):
        if meaning:
            console.print(f"[dim]# {meaning}[/]")
        console.print(f"  [green]{line}[/]")
    console.print("\n[dim]Ctrl-C ends it.[/]")


def _command() -> str:
    # In a virtual environment that is not active, the short name would not be found.
    return "sidecar" if shutil.which("sidecar") else f"{sys.executable} -m sidecar"


async def play(broker: Broker, traffic: Traffic, random: Random) -> None:
    """Publish one row of samples, until cancelled or until the broker has gone with its service."""
    with suppress(BrokerAway):
        for sample in traffic.samples(random):
            await broker.publish(traffic.exchange, sample.routing_key, *_message(sample))
            await trio.sleep(traffic.every)


def _message(sample: Sample) -> tuple[bytes, Properties]:
    if isinstance(sample.payload, str):
        return sample.payload.encode(), Properties(type=sample.type, content_type="text/plain")
    return json.dumps(sample.payload).encode(), Properties(type=sample.type, content_type="application/json")
