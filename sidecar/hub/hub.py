"""The hub: which message is for whom.

Strategy: one tap (an exclusive queue) per exchange and process, one binding on it per distinct key, counted; an index
per exchange finds the subscriptions of a message without looking at those it does not concern. Making a subscription
may wait and happens in the task of the stream that asks; delivering never waits and happens in the task that has read
the broker's socket.

A subscription whose last subscriber has left stays for `LINGER`, so that reconnecting clients do not churn bindings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence

import structlog
import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import Binding, Broker, BrokerAway, BrokerError, BrokerRefused, Exchange, Tap
from sidecar.deadlines import Deadlines
from sidecar.hub.subscription import Subscription, Wanted
from sidecar.observe.reasons import CloseReason, DropReason, ResetReason
from sidecar.topic import Index, index_for

LINGER = 30.0
"""Seconds that a binding stays after its last subscriber has left."""

_log = structlog.get_logger("sidecar.hub")


class Hub:
    """All subscriptions of this process on one broker."""

    def __init__(
        self,
        broker: Broker,
        deadlines: Deadlines,
        *,
        flush: Callable[[], None],
        linger: float = LINGER,
    ) -> None:
        """``flush`` writes what the lanes have corked, after each batch."""
        self._broker = broker
        self._deadlines = deadlines
        self._flush = flush
        self._linger = linger
        self._exchanges: dict[Exchange, _ExchangeTap] = {}
        self._subscriptions: dict[Hashable, Subscription] = {}

    def __repr__(self) -> str:
        return f"<Hub {len(self._subscriptions)} subscriptions on {len(self._exchanges)} exchanges>"

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        """Every subscription that stands, with subscribers or lingering."""
        return tuple(self._subscriptions.values())

    def standing(self, wanted: Wanted) -> Subscription | None:
        """Take a lease on a subscription whose bindings stand already; None where `subscribe` must make it.

        The quick way of a thousand clients that come back at once: nothing is awaited.
        """
        subscription = self._subscriptions.get(wanted.identity)
        if subscription is None or not self._broker.connected:
            return None
        return subscription.lease()

    async def subscribe(self, wanted: Wanted) -> Subscription:
        """Take a lease on the subscription, whose bindings stand when this returns; give it back with `release`.

        Raises `BrokerAway` and `BrokerRefused`. The caller holds the timeout.
        """
        if not self._broker.connected:
            raise BrokerAway(self._broker.problem or "the broker is away")
        tap = self._exchanges.get(wanted.exchange)
        if tap is None:
            tap = self._exchanges[wanted.exchange] = _ExchangeTap(self, wanted.exchange)
        tap.users += 1
        try:
            await tap.open()
            await tap.hold(wanted.bindings)
        except BaseException:
            self._leave(tap)
            raise
        return self._admit(tap, wanted)

    def _admit(self, tap: _ExchangeTap, wanted: Wanted) -> Subscription:
        subscription = self._subscriptions.get(wanted.identity)
        if subscription is not None:  # somebody else made the same one meanwhile
            tap.drop(wanted.bindings)
            self._leave(tap)
        elif self._exchanges.get(wanted.exchange) is tap:
            subscription = self._subscriptions[wanted.identity] = Subscription(wanted)
            tap.enlist(subscription)
        else:
            raise BrokerRefused(f"the exchange {wanted.exchange.name!r} was lost while it was being bound")
        return subscription.lease()

    def release(self, subscription: Subscription) -> None:
        """Give a lease back; after `LINGER` without one the bindings go."""
        if subscription.give_back():
            subscription.retiring = self._deadlines.after(self._linger, lambda: self._retire(subscription))

    def _retire(self, subscription: Subscription) -> None:
        wanted = subscription.wanted
        if self._subscriptions.get(wanted.identity) is not subscription:
            return  # its exchange was refused meanwhile
        del self._subscriptions[wanted.identity]
        tap = self._exchanges[wanted.exchange]
        tap.strike(subscription)
        tap.drop(wanted.bindings)
        self._leave(tap)

    def _leave(self, tap: _ExchangeTap) -> None:
        tap.users -= 1
        if not tap.users and self._exchanges.get(tap.exchange) is tap:
            del self._exchanges[tap.exchange]
            tap.spoil()

    def forget(self, tap: _ExchangeTap) -> None:
        """The broker refuses this exchange: its streams end, and a later subscriber begins anew."""
        if self._exchanges.get(tap.exchange) is tap:
            del self._exchanges[tap.exchange]
        for subscription in tap.subscriptions:
            self._subscriptions.pop(subscription.wanted.identity, None)
            subscription.end(CloseReason.BROKER_REFUSED)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Unbind and close what nobody uses any more, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def later(self, call: Callable[..., object], *args: object) -> None:
        """Do something that may wait, in the hub's own nursery; its failures are logged."""
        self._nursery.start_soon(_quietly, call, *args)

    async def open_tap(self, tap: _ExchangeTap) -> Tap:
        """Open the broker's queue for an exchange."""
        return await self._broker.tap(tap.exchange, tap)

    def flush(self) -> None:
        """Write what the lanes have corked."""
        self._flush()


class _Held:
    """One binding on a tap: how many subscriptions use it, and whether it stands at the broker."""

    __slots__ = ("lock", "standing", "tried", "users")

    def __init__(self) -> None:
        self.users = 0
        self.standing = False
        self.tried = False
        """It may stand even where we do not know: the call was cut short."""
        self.lock = trio.Lock()


class _ExchangeTap:
    """The hub's side of one exchange: the broker's sink."""

    def __init__(self, hub: Hub, exchange: Exchange) -> None:
        self.exchange = exchange
        self.users = 0
        self.subscriptions: dict[Subscription, None] = {}
        self._hub = hub
        self._tap: Tap | None = None
        self._index: Index[Subscription] | None = None
        self._held: dict[Binding, _Held] = {}
        self._opening = trio.Lock()

    def __repr__(self) -> str:
        return f"<_ExchangeTap {self.exchange.name} {len(self._held)} bindings>"

    # ------------------------------------------------------------------ what may wait

    async def open(self) -> None:
        async with self._opening:
            if self._tap is None:
                self._tap = await self._hub.open_tap(self)
                self._index = index_for(self._tap.exchange_type)

    async def hold(self, bindings: Sequence[Binding]) -> None:
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
        for binding in bindings:
            held = self._held[binding]
            held.users -= 1
            if not held.users:
                self._hub.later(self._unbind, binding, held)

    async def _unbind(self, binding: Binding, held: _Held) -> None:
        async with held.lock:  # a bind of the same key may be under way, and one that comes now must wait
            if held.users:
                return
            tried, held.standing, held.tried = held.tried, False, False
            if tried and self._tap is not None:
                await self._tap.unbind(binding)
            if held.users == 0 and self._held.get(binding) is held:  # nobody came while we waited
                del self._held[binding]

    def spoil(self) -> None:
        """Nobody uses the exchange any more."""
        if self._tap is not None:
            self._hub.later(self._tap.aclose)

    # ------------------------------------------------------------------ who hears

    def enlist(self, subscription: Subscription) -> None:
        assert self._index is not None
        self.subscriptions[subscription] = None
        for binding in subscription.wanted.bindings:
            self._index.add(binding.key, binding.headers, subscription)

    def strike(self, subscription: Subscription) -> None:
        assert self._index is not None
        del self.subscriptions[subscription]
        for binding in subscription.wanted.bindings:
            self._index.discard(binding.key, binding.headers, subscription)

    # ------------------------------------------------------------------ the broker's sink

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Find who hears each message, encode it once, and write each subscription's batch."""
        began = time.perf_counter()
        index = self._index
        if index is None:
            return
        batches: dict[Subscription, list[bytes]] = {}
        for delivery in deliveries:
            for subscription in index.match(delivery.routing_key, lambda: delivery.properties.headers):  # noqa: B023
                subscription.metrics.received += 1
                if not subscription.subscribers:
                    continue
                block = _encoded(subscription, delivery)
                if block is not None:
                    batches.setdefault(subscription, []).append(block)
        self._write(batches)
        took = time.perf_counter() - began
        for subscription, blocks in batches.items():
            subscription.metrics.observe_delivery(took, len(blocks))

    def _write(self, batches: dict[Subscription, list[bytes]]) -> None:
        now = trio.current_time()
        for subscription, blocks in batches.items():
            subscription.write(blocks, now)
        self._hub.flush()

    def lost(self) -> None:
        """Streams stay open on heartbeats; `restored` follows."""

    def restored(self) -> None:
        """What was published meanwhile is missing for everybody."""
        for subscription in tuple(self.subscriptions):
            subscription.reset(ResetReason.BROKER_RECONNECTED)
        self._hub.flush()

    def refused(self, error: BrokerRefused) -> None:
        """The exchange is gone, or may not be read any more."""
        _log.warning("the broker refuses an exchange", exchange=self.exchange.name, problem=str(error))
        self._hub.forget(self)


def _encoded(subscription: Subscription, delivery: Delivery) -> bytes | None:
    try:
        return subscription.encode(delivery)
    except Exception:  # one message that cannot be encoded must not cost the others of its batch
        _log.exception("a message could not be encoded", route=subscription.metrics.path)
        subscription.metrics.dropped(DropReason.UNENCODABLE, len(subscription.subscribers))
        return None


async def _quietly(call: Callable[..., object], *args: object) -> None:
    try:
        await call(*args)  # type: ignore[misc]  # only coroutine functions come here
    except BrokerError as error:
        _log.debug("left to the broker", problem=str(error))
