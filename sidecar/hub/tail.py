"""A stream's live edge: one reader for the whole process, and its last messages in memory.

Strategy: the reader follows the stream from its last message on and puts everything into a ring; subscriptions hear
it through an index, as they would hear an exchange. Where the connection breaks, the reader goes on at the message it
had last, *inclusive*, and compares: the same message means nothing was lost; a later one means retention has cut the
stream; another one, or none, means that the stream was deleted and made anew. Clients that come back are followed
from the ring (`sidecar.hub.resume`); the ring grows backwards, with one extra reader for all of them, where its room
allows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog
import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import Binding, BrokerAway, BrokerRefused, Offset, StreamQueue
from sidecar.cursor import Cursor, check_of, offset_of, tag_of
from sidecar.hub.batch import Batch
from sidecar.hub.reading import Reading, reading
from sidecar.hub.ring import Ring
from sidecar.hub.source import Ground
from sidecar.hub.subscription import Subscription, Wanted
from sidecar.observe.reasons import ResetReason
from sidecar.topic import Index, index_for

RING_EVENTS: Final = 50_000
"""Messages of one stream kept in memory."""
RING_BYTES: Final = 32 * 1024 * 1024
"""Bytes of one stream kept in memory."""
READERS: Final = 8
"""Readers of one stream, beside the live one, at a time: clients too far behind for the ring take turns."""
SETTLE: Final = 0.05
"""Seconds without a message after which the stream's end counts as reached, at the start."""
PATIENCE: Final = 2.0
"""Seconds to wait for a message that must exist, before the stream counts as made anew."""

_log = structlog.get_logger("sidecar.hub")


class StreamSource:
    """One stream of the broker, and the subscriptions of this process on it."""

    def __init__(self, ground: Ground, stream: StreamQueue) -> None:
        self.spec = stream
        self.users = 0
        self.subscriptions: dict[Subscription, None] = {}
        self.tag = tag_of(stream.name)
        self.ring: Ring[Delivery] = Ring(RING_EVENTS, RING_BYTES)
        self.generation = 0
        """Counts how often the stream was found made anew."""
        self.readers = trio.CapacityLimiter(READERS)
        self._ground = ground
        self.broker = ground.broker
        self._last: Cursor | None = None
        self._types: dict[str | None, str] = {}
        self._indexes: dict[str | None, Index[Subscription]] = {}
        self._running: trio.CancelScope | None = None
        self._ready = trio.Event()
        self._moved = trio.Event()
        self._opening = trio.Lock()
        self._filling = trio.Lock()
        self._oldest_wanted = 0

    def __repr__(self) -> str:
        return f"<StreamSource {self.spec.name} {self.ring}>"

    @property
    def cursor(self) -> Cursor:
        """The live edge: the last message that was written to the lanes."""
        return self._last or Cursor(self.tag, -1, "")

    # ------------------------------------------------------------------ the hub's side

    async def open(self) -> None:
        """Begin to follow the stream; return when its end is known. Raises `BrokerError`."""
        if self._running is None:
            async with self._opening:  # a thousand clients that come back at once ask the broker once
                await self._begin_to_follow()
        await self._ready.wait()

    async def _begin_to_follow(self) -> None:
        if self._running is None:
            await self._learn_types()
            await self.broker.open_stream(self.spec)  # a refusal is for the one who asks
            self._running = trio.CancelScope()
            self._ground.later(self._run)

    async def _learn_types(self) -> None:
        for exchange, _ in self.spec.bindings:
            if exchange.name not in self._types:
                tap = await self.broker.tap(exchange, _Deaf())
                self._types[exchange.name] = tap.exchange_type
                await tap.aclose()

    async def hold(self, bindings: Sequence[Binding]) -> None:
        """Nothing: the stream's own bindings take everything its routes may want."""

    def drop(self, bindings: Sequence[Binding]) -> None:
        """Nothing."""

    def make(self, wanted: Wanted) -> Subscription:
        """A subscription that can go back."""
        from sidecar.hub.resume import StreamSubscription  # it needs this module

        return StreamSubscription(wanted, self)

    def type_of(self, exchange: str | None) -> str:
        """How the bindings of a route on this exchange match; on a stream by itself as on a topic exchange."""
        return self._types.get(exchange, "topic")

    def enlist(self, subscription: Subscription) -> None:
        """Let a subscription hear its messages."""
        self.subscriptions[subscription] = None
        wanted = subscription.wanted
        if wanted.exchange not in self._indexes:
            self._indexes[wanted.exchange] = index_for(self.type_of(wanted.exchange))
        for binding in wanted.bindings:
            self._indexes[wanted.exchange].add(binding.key, binding.headers, subscription)

    def strike(self, subscription: Subscription) -> None:
        """Let it hear no more."""
        del self.subscriptions[subscription]
        for binding in subscription.wanted.bindings:
            self._indexes[subscription.wanted.exchange].discard(binding.key, binding.headers, subscription)

    def spoil(self) -> None:
        """Nobody uses the stream any more: stop reading it."""
        if self._running is not None:
            self._running.cancel()

    # ------------------------------------------------------------------ following the stream

    async def _run(self) -> None:
        assert self._running is not None
        with self._running:
            while True:
                await self.broker.wait_connected()
                try:
                    await self._follow()
                except (BrokerAway, trio.TooSlowError):
                    pass  # it will be back, and we go on where we were
                except BrokerRefused as error:
                    if not self._ready.is_set() or not await self._made_anew():
                        self._ground.forget(self, error)
                        self._ready.set()
                        return
                await trio.sleep(0.1)

    async def _made_anew(self) -> bool:
        """The reader was refused: was the stream deleted, and can it be declared again?"""
        try:
            await self.broker.open_stream(self.spec)
        except BrokerAway:
            return True
        except BrokerRefused:
            return False
        return True

    async def _follow(self) -> None:
        count = await self.broker.open_stream(self.spec)
        if self._last is None:
            await self._begin(count)
        elif not count and self._last.offset >= 0:
            await self._begin_again()
        else:
            await self._go_on(self._last)

    async def _begin(self, count: int) -> None:
        async with self._read("last" if count else "first") as read:
            if count:
                await self._settle(read)
            else:
                self._last = Cursor(self.tag, -1, "")
            self._ready.set()
            await read.hand_on(self._deliver)

    async def _settle(self, read: Reading) -> None:
        """Take in the last chunk, without telling anybody: all of it was published before we came."""
        deadline = trio.current_time() + 5 * SETTLE
        with trio.fail_after(PATIENCE):
            arrived = await read.next()
        self.ring = Ring(RING_EVENTS, RING_BYTES, low=offset_of(arrived[0]) - 1)
        while arrived:
            self._take_in(arrived)
            read.done(len(arrived))
            arrived = []
            with trio.move_on_at(min(deadline, trio.current_time() + SETTLE)):
                arrived = await read.next()

    async def _go_on(self, last: Cursor) -> None:
        async with self._read(max(last.offset, 0)) as read:
            arrived: list[Delivery] = []
            with trio.move_on_after(PATIENCE if last.offset >= 0 else 0):
                arrived = await read.next()
            verdict = judge(last, arrived[0] if arrived else None)
            if verdict is ResetReason.RECREATED:
                self._restart()
                return
            if verdict is ResetReason.TRUNCATED:
                self.ring = Ring(RING_EVENTS, RING_BYTES, low=offset_of(arrived[0]) - 1)
                self._tell(verdict)
            elif arrived and last.offset >= 0:
                arrived = arrived[1:]
                read.done(1)
            self._deliver(arrived)
            read.done(len(arrived))
            await read.hand_on(self._deliver)

    async def _begin_again(self) -> None:
        self._restart()
        async with self._read("first") as read:
            await read.hand_on(self._deliver)

    def _restart(self) -> None:
        """The stream is another one: everybody begins at its oldest message."""
        self.generation += 1
        self.ring = Ring(RING_EVENTS, RING_BYTES)
        self._last = Cursor(self.tag, -1, "")
        self._tell(ResetReason.RECREATED)

    def _tell(self, reason: ResetReason) -> None:
        _log.warning("a stream is not what it was", stream=self.spec.name, reason=str(reason))
        for subscription in tuple(self.subscriptions):
            subscription.reset(reason)
        self._ground.flush()

    def _read(self, offset: Offset) -> AbstractAsyncContextManager[Reading]:
        return reading(self.broker, self.spec.name, offset)

    def _take_in(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.ring.append(offset_of(delivery), delivery, len(delivery.body))
        last = deliveries[-1]
        self._last = Cursor(self.tag, offset_of(last), check_of(last))

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Into the ring, and to whoever hears it; called by the broker's task."""
        if not deliveries:
            return
        began = time.perf_counter()
        self._take_in(deliveries)
        batch = Batch(began)
        for delivery in deliveries:
            hearers = self.hearers(delivery)
            if hearers:
                event_id = str(Cursor(self.tag, offset_of(delivery), check_of(delivery)))
                for subscription in hearers:
                    batch.add(subscription, delivery, event_id)
        batch.write()
        self._ground.flush()
        batch.measure()
        self._moved.set()
        self._moved = trio.Event()

    def hearers(self, delivery: Delivery) -> list[Subscription]:
        """The subscriptions that a message concerns."""
        found: list[Subscription] = []
        for exchange in (delivery.exchange, None):
            index = self._indexes.get(exchange)
            if index is not None:
                found += index.match(delivery.routing_key, lambda: delivery.properties.headers)
        return found

    # ------------------------------------------------------------------ the past

    async def reaches(self, offset: int) -> bool:
        """Wait a moment for the live edge to pass an offset that another replica has given out."""
        with trio.move_on_after(PATIENCE):
            while self.ring.high < offset:
                await self._moved.wait()
        return self.ring.high >= offset

    def has_room(self, offset: int) -> bool:
        """Whether the messages from an offset to the ring's beginning may fit into the ring."""
        events, bytes_ = self.ring.room
        return self.ring.low - offset < events and bytes_ > RING_BYTES // 8

    async def fill(self, offset: int) -> None:
        """Let the ring reach back to an offset (inclusive), with one reader for all who wait. Raises `BrokerError`."""
        self._oldest_wanted = min(self._oldest_wanted, offset) if self._filling.locked() else offset
        async with self._filling:
            if self.ring.low < offset or not self.has_room(offset):
                return
            await trio.sleep(SETTLE)  # others come back in the same moment, some from further behind
            oldest = min(offset, self._oldest_wanted)
            await self._fill_from(oldest if self.has_room(oldest) else offset)

    async def _fill_from(self, offset: int) -> None:
        generation, older = self.generation, list[tuple[int, Delivery, int]]()
        room = self.ring.room[1]
        async with reading(self.broker, self.spec.name, max(offset, 0)) as read:
            while not older or older[-1][0] < self.ring.low:
                with trio.fail_after(PATIENCE):
                    arrived = await read.next()
                older += [(offset_of(delivery), delivery, len(delivery.body)) for delivery in arrived]
                room -= sum(len(delivery.body) for delivery in arrived)
                if room < 0:
                    return  # these are large: their clients get a reader of their own
                read.done(len(arrived))
        if self.generation == generation and older[0][0] <= self.ring.low:
            self.ring.extend_left(older, older[0][0] - 1)


def judge(last: Cursor, found: Delivery | None) -> ResetReason | None:
    """Compare what stands where a message was read before with what that message was; None: it is the same."""
    if last.offset < 0:
        return ResetReason.TRUNCATED if found is not None and offset_of(found) > 0 else None
    if found is None:
        return ResetReason.RECREATED
    if offset_of(found) > last.offset:
        return ResetReason.TRUNCATED
    same = offset_of(found) == last.offset and check_of(found) == last.check
    return None if same else ResetReason.RECREATED


class _Deaf:
    """A sink for a tap that is opened only to learn what an exchange is."""

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing is bound."""

    def lost(self) -> None:
        """It is closed in a moment."""

    def restored(self) -> None:
        """It is closed in a moment."""

    def refused(self, error: BrokerRefused) -> None:
        """It is closed in a moment."""
