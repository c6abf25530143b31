"""A subscription: a route with its parameters filled in, shared by everybody who listens to the same.

Strategy: it knows what it wants of the broker (exchange and bindings), how a message becomes a block (its encoder),
and who hears it (lanes of outlets). Writing a batch is one call per lane.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sidecar.broker.port import Binding, Exchange
from sidecar.deadlines import Deadline
from sidecar.hub.encoder import Encoder
from sidecar.hub.port import Lane, Outlet
from sidecar.observe.metrics import RouteMetrics
from sidecar.observe.reasons import CloseReason, ResetReason


class Subscriber(Protocol):
    """One event stream, as a subscription sees it."""

    @property
    def outlet(self) -> Outlet:
        """Where its bytes go."""

    def end(self, reason: CloseReason) -> None:
        """End the stream cleanly, at once and without waiting."""

    def reset(self, reason: ResetReason) -> None:
        """Say in band that events may have been missed."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a stream asks of the hub. Wants with equal ``identity`` share one subscription."""

    identity: Hashable
    exchange: Exchange
    bindings: tuple[Binding, ...]
    make_encoder: Callable[[], Encoder]
    metrics: RouteMetrics


class Subscription:
    """Who hears one selection of messages of one route."""

    __slots__ = ("_lanes", "_leases", "_subscribers", "encode", "last_written", "metrics", "retiring", "sent", "wanted")

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.metrics = wanted.metrics
        self.encode = wanted.make_encoder().encode
        self.sent = 0
        """Events written to the lanes so far."""
        self.last_written = 0.0
        """When the last batch was written (trio's clock): real traffic postpones heartbeats."""
        self._lanes: dict[Hashable, Lane] = {}
        self._subscribers: dict[Subscriber, None] = {}
        self._leases = 0
        self.retiring: Deadline | None = None
        """When it goes, while nobody has a lease."""

    def __repr__(self) -> str:
        return f"<Subscription {self.metrics.path} {len(self._subscribers)} subscribers>"

    @property
    def subscribers(self) -> Collection[Subscriber]:
        """Who is attached now."""
        return self._subscribers

    def lease(self) -> Subscription:
        """Count one more who wants it to stand."""
        self._leases += 1
        if self.retiring is not None:
            self.retiring.cancel()
            self.retiring = None
        return self

    def give_back(self) -> bool:
        """Count one less. Returns whether it was the last."""
        self._leases -= 1
        return not self._leases

    def attach(self, subscriber: Subscriber) -> None:
        """Let a subscriber hear everything that is written from now on."""
        self._subscribers[subscriber] = None
        outlet = subscriber.outlet
        lane = self._lanes.get(outlet.framing)
        if lane is None:
            lane = self._lanes[outlet.framing] = outlet.open_lane()
        lane.add(outlet)

    def detach(self, subscriber: Subscriber) -> None:
        """Let it hear no more; does nothing for one that is not attached."""
        if subscriber in self._subscribers:
            del self._subscribers[subscriber]
            self._lanes[subscriber.outlet.framing].discard(subscriber.outlet)

    def write(self, blocks: Sequence[bytes], now: float) -> None:
        """Write a batch of blocks to every subscriber, without waiting."""
        self.last_written = now
        self.sent += len(blocks)
        for lane in self._lanes.values():
            self.metrics.sent += len(blocks) * lane.write(blocks)

    def reset(self, reason: ResetReason) -> None:
        """Tell every subscriber that events may have been missed."""
        for subscriber in tuple(self._subscribers):
            subscriber.reset(reason)

    def end(self, reason: CloseReason) -> None:
        """End every subscriber's stream."""
        for subscriber in tuple(self._subscribers):
            subscriber.end(reason)
