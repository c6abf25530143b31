"""Live messages of one exchange: one tap (an exclusive queue) for all subscriptions of the process on it.

Strategy: a binding stands at the broker once per distinct key, counted; an index finds the subscriptions of a message
without looking at those it does not concern. Binding may wait and happens in the task of the stream that asks;
delivering never waits and happens in the task that has read the broker's socket.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import Binding, BrokerRefused, Exchange, Tap
from sidecar.hub.batch import Batch
from sidecar.hub.memory import RememberingSubscription
from sidecar.hub.source import Ground
from sidecar.hub.subscription import Subscription, Wanted
from sidecar.observe.reasons import ResetReason
from sidecar.topic import Index, index_for


class _Held:
    """One binding on a tap: how many subscriptions use it, and whether it stands at the broker."""

    __slots__ = ("lock", "standing", "tried", "users")

    def __init__(self) -> None:
        self.users = 0
        self.standing = False
        self.tried = False
        """It may stand even where we do not know: the call was cut short."""
        self.lock = trio.Lock()


class ExchangeSource:
    """The hub's side of one exchange: the broker's sink."""

    def __init__(self, ground: Ground, exchange: Exchange) -> None:
        self.spec = exchange
        self.users = 0
        self.subscriptions: dict[Subscription, None] = {}
        self._ground = ground
        self._tap: Tap | None = None
        self._index: Index[Subscription] | None = None
        self._held: dict[Binding, _Held] = {}
        self._opening = trio.Lock()

    def __repr__(self) -> str:
        return f"<ExchangeSource {self.spec.name} {len(self._held)} bindings>"

    # ------------------------------------------------------------------ what may wait

    async def open(self) -> None:
        """Open the tap, once. Raises `BrokerError`."""
        async with self._opening:
            if self._tap is None:
                self._tap = await self._ground.broker.tap(self.spec, self)
                self._index = index_for(self._tap.exchange_type)

    async def hold(self, bindings: Sequence[Binding]) -> None:
        """Count one more user of these bindings; they stand when this returns. Raises `BrokerError`."""
        taken: list[Binding] = []
        try:
            for binding in bindings:
                held = self._held.setdefault(binding, _Held())
                held.users += 1
                taken.append(binding)
                await self._stand(binding, held)
        except BaseException:
            self.drop(taken)
            raise

    async def _stand(self, binding: Binding, held: _Held) -> None:
        if held.standing:
            return
        assert self._tap is not None
        async with held.lock:
            if not held.standing:
                held.tried = True
                await self._tap.bind(binding)
                held.standing = True

    def drop(self, bindings: Sequence[Binding]) -> None:
        """Count one user less; a binding without any is removed."""
        for binding in bindings:
            held = self._held[binding]
            held.users -= 1
            if not held.users:
                self._ground.later(self._unbind, binding, held)

    async def _unbind(self, binding: Binding, held: _Held) -> None:
        async with held.lock:  # a bind of the same key may be under way, and one that comes now must wait
            if held.users:
                return
            tried, held.standing, held.tried = held.tried, False, False
            try:
                if tried and self._tap is not None:
                    await self._tap.unbind(binding)
            finally:
                kept = self._held.get(binding)
                if kept is held and not kept.users:  # nobody came while we waited
                    del self._held[binding]

    def spoil(self) -> None:
        """Nobody uses the exchange any more."""
        if self._tap is not None:
            self._ground.later(self._tap.aclose)

    # ------------------------------------------------------------------ who hears

    def make(self, wanted: Wanted) -> Subscription:
        """A subscription on this exchange."""
        return RememberingSubscription(wanted) if wanted.remember else Subscription(wanted)

    def enlist(self, subscription: Subscription) -> None:
        """Let a subscription hear its messages."""
        assert self._index is not None
        self.subscriptions[subscription] = None
        for binding in subscription.wanted.bindings:
            self._index.add(binding.key, binding.headers, subscription)

    def strike(self, subscription: Subscription) -> None:
        """Let it hear no more."""
        assert self._index is not None
        del self.subscriptions[subscription]
        for binding in subscription.wanted.bindings:
            self._index.discard(binding.key, binding.headers, subscription)

    # ------------------------------------------------------------------ the broker's sink

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Find who hears each message, encode it once, and write each subscription's batch."""
        index = self._index
        if index is None:
            return
        batch = Batch(time.perf_counter())
        for delivery in deliveries:
            for subscription in index.match(delivery.routing_key, lambda: delivery.properties.headers):  # noqa: B023
                batch.add(subscription, delivery)
        batch.write()
        self._ground.flush()
        batch.measure()

    def lost(self) -> None:
        """Streams stay open on heartbeats; `restored` follows."""

    def restored(self) -> None:
        """What was published meanwhile is missing for everybody."""
        for subscription in tuple(self.subscriptions):
            subscription.reset(ResetReason.BROKER_RECONNECTED)
        self._ground.flush()

    def refused(self, error: BrokerRefused) -> None:
        """The exchange is gone, or may not be read any more."""
        self._ground.forget(self, error)
