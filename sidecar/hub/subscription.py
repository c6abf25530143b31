"""A subscription: a route with its parameters filled in, shared by everybody who listens to the same.

Strategy: it knows what it wants of the broker (a source and bindings), how a message becomes a block (its encoder),
and who hears it (lanes of outlets). Writing a batch is one call per lane. What a returning subscriber gets is the
business of its kind: a live subscription has no past, the others are in `sidecar.hub.memory` and `sidecar.hub.tail`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import Binding, WorkQueue
from sidecar.deadlines import Deadline
from sidecar.hub.encoder import Encoder
from sidecar.hub.port import Lane, Outlet
from sidecar.hub.source import Spec
from sidecar.observe.metrics import RouteMetrics
from sidecar.observe.reasons import CloseReason, ResetReason


class Subscriber(Protocol):
    """One event stream, as a subscription sees it."""

    @property
    def outlet(self) -> Outlet:
        """Where its bytes go."""

    @property
    def ended(self) -> bool:
        """Whether it hears nothing any more."""

    def end(self, reason: CloseReason) -> None:
        """End the stream cleanly, at once and without waiting."""

    def reset(self, reason: ResetReason, place: str = "") -> None:
        """Say in band that events may have been missed; then, where one is given, the id to resume from."""

    def replay(self, blocks: Sequence[bytes]) -> None:
        """Write past events."""

    def settled(self) -> bool:
        """Whether all that was written is in the socket; if not, `Subscription.caught_up` is called when it is."""

    async def room(self) -> None:
        """Wait until everything written has been taken, or the stream has ended."""

    def spawn(self, call: Callable[..., object], *args: object) -> None:
        """Start a task in the connection's nursery."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a client wants to begin: after an id, at a time, or from the earliest; else live."""

    last_event_id: str = ""
    earliest: bool = False
    since: datetime | None = None

    @property
    def live(self) -> bool:
        """Whether nothing of the past is asked for."""
        return not (self.last_event_id or self.earliest or self.since)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a stream asks of the hub. Wants with equal ``identity`` share one subscription."""

    identity: Hashable
    source: Spec | WorkQueue
    bindings: tuple[Binding, ...]
    make_encoder: Callable[[], Encoder]
    metrics: RouteMetrics
    exchange: str | None = None
    """On a stream: the exchange whose messages are meant; None: all."""
    filters: tuple[str, ...] = ()
    """On a stream: the filter values whose messages are meant; none: all, those without a value too."""
    remember: int = 0
    """Events kept in memory for those who come back."""
    prefetch: int = 0
    """On a queue: messages the broker may send ahead of their acknowledgement."""
    keep_for: float = 0.0
    """Seconds to stand after the last subscriber has left, if longer than the hub's own time."""
    lapsed: Callable[[], bool] = lambda: False
    """Whether nobody will want it again."""


class Subscription:
    """Who hears one selection of messages of one route."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.metrics = wanted.metrics
        self._encoder = wanted.make_encoder()
        self.sent = 0
        """Events written to the lanes so far."""
        self.last_written = 0.0
        """When the last batch was written (trio's clock): real traffic postpones heartbeats."""
        self.retiring: Deadline | None = None
        """When it goes, while nobody has a lease."""
        self._lanes: dict[Hashable, Lane] = {}
        self._subscribers: dict[Subscriber, None] = {}
        self._leases = 0
        self.over: CloseReason | None = None
        """Why nothing will come any more; None while something may."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.metrics.path} {len(self._subscribers)} subscribers>"

    @property
    def subscribers(self) -> Collection[Subscriber]:
        """Who is attached now."""
        return self._subscribers

    @property
    def heard(self) -> bool:
        """Whether encoding a message is worth while."""
        return bool(self._subscribers)

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

    # ------------------------------------------------------------------ who hears

    def greeting(self, start: Start) -> bytes:
        """What follows the first bytes: the id block of a stream that can be resumed; nothing here."""
        return b""

    def join(self, subscriber: Subscriber, start: Start) -> None:
        """Let a subscriber hear, beginning where it wants to. Does not wait."""
        self.attach(subscriber)
        if start.last_event_id:  # it believes it can resume, and here nobody can
            subscriber.reset(ResetReason.UNKNOWN_ID)

    def fell_behind(self, subscriber: Subscriber) -> None:
        """Its socket takes no more: where there is a past, it goes on from there when it reads again."""

    def caught_up(self) -> None:
        """A subscriber's socket has taken everything."""

    def retire(self) -> None:
        """Nobody has a lease on it any more."""

    def attach(self, subscriber: Subscriber) -> None:
        """Let a subscriber hear everything that is written from now on."""
        if self.over is not None:
            subscriber.end(self.over)
            return
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

    # ------------------------------------------------------------------ what they hear

    def encode(self, delivery: Delivery, event_id: str | None = None) -> bytes | None:
        """Return the block for a message; None where the route's filter holds it back."""
        return self._encoder.encode(delivery, event_id)

    def write(self, blocks: Sequence[bytes]) -> None:
        """Write a batch of blocks to every subscriber, without waiting."""
        self.last_written = trio.current_time()
        self.sent += len(blocks)
        for lane in tuple(self._lanes.values()):
            self.metrics.sent += len(blocks) * lane.write(blocks)

    def reset(self, reason: ResetReason, place: str = "") -> None:
        """Tell every subscriber that events may have been missed, and where to resume from if that is new."""
        for subscriber in tuple(self._subscribers):
            subscriber.reset(reason, place)

    def end(self, reason: CloseReason) -> None:
        """End every subscriber's stream, and of those who are on their way to the live edge when they come there."""
        self.over = reason
        for subscriber in tuple(self._subscribers):
            subscriber.end(reason)
