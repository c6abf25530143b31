"""What stands around a hub in its tests: listeners that remember, and a broker that counts and can stall."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from sidecar.amqp import Properties
from sidecar.broker.memory import MemoryBroker
from sidecar.broker.memory_exchange import MemoryTap
from sidecar.broker.port import Binding, BrokerAway, BrokerError, BrokerRefused, Declaration, Exchange, Sink, Tap
from sidecar.deadlines import Deadlines
from sidecar.hub.encoder import Encoder
from sidecar.hub.hub import Hub
from sidecar.hub.port import Lane, Outlet
from sidecar.hub.subscription import Start, Subscription, Wanted
from sidecar.observe.metrics import Metrics
from sidecar.observe.reasons import CloseReason, ResetReason
from sidecar.template import Template
from tests.lab.eventstream import Event, Parser

NEWS = Exchange("news", Declaration("topic"))


class OneLane:
    """Outlets in the order in which they were added."""

    def __init__(self) -> None:
        self.outlets: dict[Outlet, None] = {}

    def __len__(self) -> int:
        return len(self.outlets)

    def write(self, blocks: Sequence[bytes]) -> int:
        for outlet in tuple(self.outlets):
            outlet.write(blocks)
        return len(self.outlets)

    def add(self, outlet: Outlet) -> None:
        self.outlets[outlet] = None

    def discard(self, outlet: Outlet) -> None:
        self.outlets.pop(outlet, None)


class Outbox:
    """An outlet that always has room."""

    def __init__(self, framing: Hashable = "plain") -> None:
        self.framing = framing
        self.blocks: list[bytes] = []

    def open_lane(self) -> Lane:
        return OneLane()

    def write(self, blocks: Sequence[bytes]) -> None:
        self.blocks += blocks


class Listener:
    """A subscriber that keeps what it hears."""

    def __init__(self, framing: Hashable = "plain") -> None:
        self.outlet = Outbox(framing)
        self.reasons: list[CloseReason] = []
        self.resets: list[ResetReason] = []
        self.subscription: Subscription | None = None

    def join(self, subscription: Subscription) -> Listener:
        self.subscription = subscription
        subscription.join(self, Start())
        return self

    @property
    def events(self) -> list[Event]:
        parser = Parser()
        parser.feed(b"".join(self.outlet.blocks))
        return parser.events

    @property
    def data(self) -> list[str]:
        return [event.data for event in self.events]

    @property
    def ended(self) -> bool:
        return bool(self.reasons)

    def end(self, reason: CloseReason) -> None:
        self.reasons.append(reason)
        assert self.subscription is not None
        self.subscription.detach(self)

    def reset(self, reason: ResetReason, place: str = "") -> None:
        self.resets.append(reason)

    def replay(self, blocks: Sequence[bytes]) -> None:
        self.outlet.write(blocks)

    def settled(self) -> bool:
        return True

    async def room(self) -> None:
        await trio.lowlevel.checkpoint()

    def spawn(self, call: Callable[..., object], *args: object) -> None:
        raise AssertionError("a live subscription starts no tasks")


class CountingTap:
    """A tap that keeps a list of what is asked of it."""

    def __init__(self, broker: CountingBroker, tap: MemoryTap, sink: Sink) -> None:
        self.sink = sink
        self._broker = broker
        self._tap = tap
        self.standing: set[Binding] = set()

    @property
    def exchange_type(self) -> str:
        return self._tap.exchange_type

    async def bind(self, binding: Binding) -> None:
        self._broker.asked.append(("bind", binding.key))
        await self._broker.pause("bind")
        await self._tap.bind(binding)
        self.standing.add(binding)

    async def unbind(self, binding: Binding) -> None:
        self._broker.asked.append(("unbind", binding.key))
        self.standing.discard(binding)
        await self._broker.pause("unbind")
        await self._tap.unbind(binding)

    async def aclose(self) -> None:
        self._broker.asked.append(("close", ""))
        self._broker.open_taps.discard(self)
        await self._tap.aclose()


class CountingBroker(MemoryBroker):
    """The embedded broker; a test may let one kind of call stall, or fail once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []
        self.open_taps: set[CountingTap] = set()
        self.sinks: list[Sink] = []
        self.gates: dict[str, trio.Event] = {}
        self.failures: dict[str, BrokerError] = {}
        self.away = False

    @property
    def connected(self) -> bool:
        return super().connected and not self.away

    async def tap(self, exchange: Exchange, sink: Sink) -> Tap:  # type: ignore[override]
        self.asked.append(("tap", exchange.name))
        await self.pause("tap")
        tap = CountingTap(self, await super().tap(exchange, sink), sink)
        self.open_taps.add(tap)
        self.sinks.append(sink)
        return tap

    async def pause(self, verb: str) -> None:
        if verb in self.gates:
            await self.gates[verb].wait()
        if verb in self.failures:
            raise self.failures.pop(verb)
        if self.away:
            raise BrokerAway("the test's broker is away")

    def stall(self, verb: str) -> trio.Event:
        """Let calls of this kind wait for the event returned."""
        gate = self.gates[verb] = trio.Event()
        return gate

    def lose(self) -> None:
        """The connection breaks."""
        self.away = True
        for sink in self.sinks:
            sink.lost()

    def refuse(self, problem: str) -> None:
        """The first exchange is gone: its tap is closed."""
        sink = self.sinks.pop(0)
        for tap in [tap for tap in self.open_taps if tap.sink is sink]:
            self.open_taps.discard(tap)
        sink.refused(BrokerRefused(problem))

    def restore(self) -> None:
        """It is back, with all bindings."""
        self.away = False
        for sink in self.sinks:
            sink.restored()

    @property
    def keys(self) -> set[str]:
        """The binding keys that stand on the taps that are open."""
        return {binding.key for tap in self.open_taps for binding in tap.standing}


@dataclass
class Room:
    """A hub at work."""

    hub: Hub
    broker: CountingBroker
    nursery: trio.Nursery
    metrics: Metrics = field(default_factory=Metrics)

    def wanted(
        self,
        *keys: str,
        source: Exchange = NEWS,
        headers: tuple[tuple[str, Any], ...] | None = None,
        event: str | None = None,
        envelope: bool = False,
        where: dict[str, str] | None = None,
        route: str = "/x",
    ) -> Wanted:
        """What a stream asks for."""
        bindings = tuple(Binding(key) for key in keys) if headers is None else (Binding("", headers),)
        template = Template.parse(event) if event is not None else None
        return Wanted(
            identity=(route, source, bindings, event, envelope, tuple((where or {}).items())),
            source=source,
            bindings=bindings,
            make_encoder=lambda: Encoder(event=template, envelope=envelope, where=where or {}, parameters={}),
            metrics=self.metrics.route(route),
        )

    async def listen(self, *keys: str, framing: Hashable = "plain", **more: Any) -> Listener:
        """Subscribe a new listener."""
        return Listener(framing).join(await self.hub.subscribe(self.wanted(*keys, **more)))

    def leave(self, listener: Listener) -> None:
        """A listener goes."""
        assert listener.subscription is not None
        listener.subscription.detach(listener)
        self.hub.release(listener.subscription)

    async def publish(self, key: str, body: bytes | str = b"x", exchange: str = "news", **properties: Any) -> None:
        """Publish one message."""
        data = body.encode() if isinstance(body, str) else body
        await self.broker.publish(exchange, key, data, Properties(**properties))


@asynccontextmanager
async def room() -> AsyncIterator[Room]:
    """A hub on the embedded broker."""
    broker, deadlines = CountingBroker(), Deadlines()
    broker.declare("news", Declaration("topic"))
    hub = Hub(broker, deadlines, flush=lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deadlines.run)
        nursery.start_soon(broker.run)
        await nursery.start(hub.run)
        await broker.wait_connected()
        yield Room(hub, broker, nursery)
        nursery.cancel_scope.cancel()
