"""The hub: which subscription stands, on which source, and for how long.

Strategy: what streams want is shared: equal wants are one subscription, subscriptions on one exchange or stream share
one source. Making a subscription may wait and happens in the task of the stream that asks. A subscription whose last
subscriber has left stays for `LINGER`, so that reconnecting clients do not churn bindings.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

import structlog
import trio

from sidecar.broker.port import Broker, BrokerAway, BrokerError, BrokerRefused, Exchange, StreamQueue, WorkQueue
from sidecar.deadlines import Deadlines
from sidecar.hub.exchange import ExchangeSource
from sidecar.hub.queue import QueueSubscription
from sidecar.hub.source import Source, Spec
from sidecar.hub.subscription import Subscription, Wanted
from sidecar.hub.tail import StreamSource
from sidecar.observe.reasons import CloseReason

LINGER = 30.0
"""Seconds that a binding stays after its last subscriber has left."""
PAUSE = 0.5
"""Seconds between tries to declare a stream that nobody reads yet."""

_log = structlog.get_logger("sidecar.hub")


class Hub:
    """All subscriptions of this process on one broker."""

    def __init__(
        self, broker: Broker, deadlines: Deadlines, *, flush: Callable[[], None], linger: float = LINGER
    ) -> None:
        """``flush`` writes what the lanes have corked, after each batch."""
        self.broker = broker
        self.deadlines = deadlines
        self._flush = flush
        self._linger = linger
        self._sources: dict[Spec, Source] = {}
        self._subscriptions: dict[Hashable, Subscription] = {}
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<Hub {len(self._subscriptions)} subscriptions on {len(self._sources)} sources>"

    @property
    def subscriptions(self) -> Sequence[Subscription]:
        """Every subscription that stands, with subscribers or lingering."""
        return tuple(self._subscriptions.values())

    def collect(self, streams: Iterable[StreamQueue]) -> None:
        """Have these streams declared and bound once the broker is there: what they collect is there for who comes."""
        for stream in streams:
            self.later(self._declare, stream)

    async def _declare(self, stream: StreamQueue) -> None:
        while True:
            await self.broker.wait_connected()
            try:
                await self.broker.open_stream(stream)
                return
            except BrokerRefused as error:  # its first reader will try again
                _log.warning("a stream does not collect yet", stream=stream.name, problem=str(error))
                return
            except BrokerAway:
                await trio.sleep(PAUSE)

    def standing(self, wanted: Wanted) -> Subscription | None:
        """Take a lease on a subscription whose bindings stand already; None where `subscribe` must make it.

        The quick way of a thousand clients that come back at once: nothing is awaited.
        """
        subscription = self._subscriptions.get(wanted.identity)
        if subscription is None or not self.broker.connected:
            return None
        return subscription.lease()

    async def subscribe(self, wanted: Wanted) -> Subscription:
        """Take a lease on the subscription, whose bindings stand when this returns; give it back with `release`.

        Raises `BrokerAway` and `BrokerRefused`. The caller holds the timeout.
        """
        if not self.broker.connected:
            raise BrokerAway(self.broker.problem or "the broker is away")
        if isinstance(wanted.source, WorkQueue):
            return await self._consume(wanted)
        source = self._sources.get(wanted.source)
        if source is None:
            source = self._sources[wanted.source] = self._make(wanted.source)
        source.users += 1
        try:
            await source.open()
            await source.hold(wanted.bindings)
        except BaseException:
            self._leave(source)
            raise
        return self._admit(source, wanted)

    async def _consume(self, wanted: Wanted) -> Subscription:
        subscription = QueueSubscription(wanted, self)
        await subscription.open()
        return subscription.lease()

    def _make(self, spec: Spec) -> Source:
        return ExchangeSource(self, spec) if isinstance(spec, Exchange) else StreamSource(self, spec)

    def _admit(self, source: Source, wanted: Wanted) -> Subscription:
        subscription = self._subscriptions.get(wanted.identity)
        if subscription is not None:  # somebody else made the same one meanwhile
            source.drop(wanted.bindings)
            self._leave(source)
        elif self._sources.get(source.spec) is source:
            subscription = self._subscriptions[wanted.identity] = source.make(wanted)
            source.enlist(subscription)
        else:
            raise BrokerRefused(f"{source.spec.name!r} was lost while it was being bound")
        return subscription.lease()

    def release(self, subscription: Subscription) -> None:
        """Give a lease back; after a while without one the bindings go."""
        if not subscription.give_back():
            return
        if isinstance(subscription.wanted.source, WorkQueue):
            subscription.retire()
        elif subscription.wanted.lapsed():
            self._retire(subscription)
        else:
            linger = max(self._linger, subscription.wanted.keep_for)
            subscription.retiring = self.deadlines.after(linger, lambda: self._retire(subscription))

    def sweep(self) -> None:
        """Let go of what stands only for those who might come back, and cannot any more."""
        for subscription in self.subscriptions:
            if subscription.retiring is not None and subscription.wanted.lapsed():
                subscription.retiring.cancel()
                self._retire(subscription)

    def _retire(self, subscription: Subscription) -> None:
        wanted = subscription.wanted
        if self._subscriptions.get(wanted.identity) is not subscription:
            return  # its source was refused meanwhile
        assert not isinstance(wanted.source, WorkQueue)
        del self._subscriptions[wanted.identity]
        source = self._sources[wanted.source]
        source.strike(subscription)
        source.drop(wanted.bindings)
        self._leave(source)

    def _leave(self, source: Source) -> None:
        source.users -= 1
        if not source.users and self._sources.get(source.spec) is source:
            del self._sources[source.spec]
            source.spoil()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what sources leave for later (unbinding, closing, following a stream), until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    # ------------------------------------------------------------------ what sources are lent

    def later(self, call: Callable[..., object], *args: object) -> None:
        """Do something that may wait, in the hub's own nursery; its failures are logged.

        At the end of everything it is left undone: the broker's connection ends too.
        """
        if self._nursery is not None:
            self._nursery.start_soon(_quietly, call, *args)

    def flush(self) -> None:
        """Write what the lanes have corked."""
        self._flush()

    def forget(self, source: Source, error: BrokerError) -> None:
        """The broker refuses this source: its streams end, and a later subscriber begins anew."""
        _log.warning("the broker refuses", source=source.spec.name, problem=str(error))
        if self._sources.get(source.spec) is source:
            del self._sources[source.spec]
        for subscription in tuple(source.subscriptions):
            self._subscriptions.pop(subscription.wanted.identity, None)
            subscription.end(CloseReason.BROKER_REFUSED)


async def _quietly(call: Callable[..., object], *args: object) -> None:
    try:
        await call(*args)  # type: ignore[misc]  # only coroutine functions come here
    except BrokerError as error:
        _log.debug("left to the broker", problem=str(error))
