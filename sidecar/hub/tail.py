"""A stream's live edge: one reader for the whole process, and its last messages in memory.

Strategy: the reader follows the stream from its last message on and puts everything into a ring; subscriptions hear
it through an index, as they would hear an exchange. Where the reading breaks, the next one begins at the message it
had last, *inclusive*, and compares: the same message means nothing was lost; a later one means retention has cut the
stream; another one means that the stream was deleted and made anew. Clients that come back are followed from the ring
(`sidecar.hub.resume`); the ring grows backwards, with one extra reader for all of them, where its room allows.

A broker does not say that a stream is empty, or shorter than it was: nothing comes, as from a slow one. So silence
alone is never taken for a new stream; only silence at our place together with a message at the stream's beginning is.
Nor does it say that retention has overtaken its own reading while that had to wait for us: RabbitMQ 3.10 may then look
for a segment that is gone, and never send anything more. So after many messages, silence is compared with the end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import structlog
import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import Binding, BrokerAway, BrokerError, BrokerRefused, Offset, StreamQueue
from sidecar.cursor import Cursor, check_of, offset_of, tag_of
from sidecar.hub.batch import Batch
from sidecar.hub.hearers import Hearers
from sidecar.hub.reading import HOLES, WINDOW, Reading, before_leap, reading
from sidecar.hub.ring import Ring
from sidecar.hub.source import Ground
from sidecar.hub.subscription import Subscription, Wanted
from sidecar.observe.reasons import ResetReason

RING_EVENTS: Final = 50_000
"""Messages of one stream kept in memory."""
RING_BYTES: Final = 32 * 1024 * 1024
"""Bytes of one stream kept in memory."""
READERS: Final = 8
"""Readers of one stream, beside the live one, at a time: clients too far behind for the ring take turns."""
EMPTY_AFTER: Final = 0.5
"""Seconds without a message after which a stream counts as empty, at the start."""
SETTLE: Final = 0.05
"""Seconds without a message after which a stream's end counts as reached, at the start."""
QUIET: Final = 2.0
"""Seconds without a message after which the live reader's place is compared with the stream's end, once."""
PATIENCE: Final = 2.0
"""Seconds to wait for a message that should exist."""
REACH: Final = 0.25
"""Seconds by which another replica's live edge may be ahead of ours."""
PAUSE: Final = 0.1
"""Seconds between a reading that broke and the next, doubled each time that it fails again."""
LONGEST_PAUSE: Final = 2.0
"""Seconds between tries at most."""
REFUSALS: Final = 3
"""Failures in a row after which a refusal is final: a stream that was deleted may be declared again before."""

_log = structlog.get_logger("sidecar.hub")


class StreamSource:
    """One stream of the broker, and the subscriptions of this process on it."""

    def __init__(self, ground: Ground, stream: StreamQueue) -> None:
        self.spec = stream
        self.users = 0
        self.subscriptions: dict[Subscription, None] = {}
        self.tag = tag_of(stream.name)
        self.broker = ground.broker
        self.ring: Ring[Delivery] = Ring(RING_EVENTS, RING_BYTES)
        self.generation = 0
        """Counts how often the stream was found made anew."""
        self.oldest = 0
        """What is known of retention: nothing stands before this offset."""
        self.over: BrokerRefused | None = None
        """Why it is not followed any more."""
        self.readers = trio.CapacityLimiter(READERS)
        self.cursor = Cursor(self.tag, -1, "")
        """The live edge: the last message that was had."""
        self._ground = ground
        self._types: dict[str | None, str] = {}
        self._hearers = Hearers(self.type_of)
        self._stands = -1
        """The place at which a reading has begun: however far the next message is, nothing between was cut off."""
        self._unwatched = 0
        """Messages since the live reader was last known to keep up."""
        self._looked_at = self.cursor
        self._anew = False
        self._doubtful = False
        self._failures = 0
        self._running: trio.CancelScope | None = None
        self._ready = trio.Event()
        self._moved = trio.Event()
        self._opening = trio.Lock()
        self._filling = trio.Lock()
        self._wanted_oldest = 0

    def __repr__(self) -> str:
        return f"<StreamSource {self.spec.name} {self.ring}>"

    # ------------------------------------------------------------------ the hub's side

    async def open(self) -> None:
        """Begin to follow the stream; return when its end is known. Raises `BrokerError`."""
        if self._running is None:
            async with self._opening:  # a thousand clients that come back at once ask the broker once
                await self._begin_to_follow()
        await self._ready.wait()
        if self.over is not None:
            raise self.over

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
        from sidecar.hub.stream import StreamSubscription  # it needs this module

        return StreamSubscription(wanted, self)

    def type_of(self, exchange: str | None) -> str:
        """How the bindings of a route on this exchange match; on a stream by itself as on a topic exchange."""
        return self._types.get(exchange, "topic")

    def enlist(self, subscription: Subscription) -> None:
        """Let a subscription hear its messages."""
        self.subscriptions[subscription] = None
        self._hearers.add(subscription)

    def strike(self, subscription: Subscription) -> None:
        """Let it hear no more."""
        del self.subscriptions[subscription]
        self._hearers.discard(subscription)

    def spoil(self) -> None:
        """Nobody uses the stream any more: stop reading it."""
        if self._running is not None:
            self._running.cancel()

    # ------------------------------------------------------------------ following the stream

    async def _run(self) -> None:
        assert self._running is not None
        with self._running:
            while self.over is None:
                await self.broker.wait_connected()
                try:
                    await self._follow()
                except BrokerAway as error:
                    self._failed(error)  # it will be back, and we go on where we were
                except BrokerRefused as error:
                    self._failed(error)
                    self._give_up(error)
                await trio.sleep(min(PAUSE * 2 ** min(self._failures, 8), LONGEST_PAUSE))

    def _failed(self, error: BrokerError) -> None:
        self._failures += 1
        if self.broker.connected:
            _log.warning("a stream cannot be followed now", stream=self.spec.name, problem=str(error))

    def _give_up(self, error: BrokerRefused) -> None:
        """Let the stream go, unless it was only deleted and can be declared again."""
        if self._failures >= REFUSALS or not self._ready.is_set():
            self.over = error
            self._ready.set()
            self._ground.forget(self, error)

    async def _follow(self) -> None:
        await self.broker.open_stream(self.spec)
        if not self._ready.is_set():
            await self._begin()
        elif self.cursor.offset < 0:
            async with self._read("first") as read:
                await self._go_on(read, await read.next())
        else:
            async with self._read(self.cursor.offset) as read:
                arrived = await read.within(PATIENCE)
                if arrived:
                    await self._go_on(read, arrived)
            if not arrived:
                await self._doubt()

    async def _begin(self) -> None:
        self.ring = Ring(RING_EVENTS, RING_BYTES)  # what a beginning that broke took in does not join what comes now
        self.cursor = Cursor(self.tag, -1, "")
        async with self._read("last") as read:
            await self._settle(read)
            self._ready.set()
            await self._hand_on(read)

    async def _hand_on(self, read: Reading) -> None:
        """Follow a reading, until it must be looked at what stands there."""
        read.hand_on(self._follow_on)
        while not await read.handed_on(QUIET):
            if await self._stands_still():
                _log.warning("a reading of a stream stands still and is begun again", stream=self.spec.name)
                return

    async def _stands_still(self) -> bool:
        """Whether the broker has stopped sending in silence, though there is more.

        Only where it has had to wait for credit can it have been overtaken, so few messages cost no question.
        """
        before, self._looked_at = self._looked_at, self.cursor
        if self._unwatched < WINDOW or before != self.cursor:
            return False
        self._unwatched = 0
        async with self._read("last") as read:
            newest = await read.within(PATIENCE)
        return bool(newest) and offset_of(newest[0]) > self.cursor.offset

    async def _settle(self, read: Reading) -> None:
        """Take in the last chunk, without telling anybody: all of it was published before we came."""
        deadline = trio.current_time() + EMPTY_AFTER
        arrived = await read.within(EMPTY_AFTER)
        while arrived:
            self._take_in(arrived)
            read.done(len(arrived))
            arrived = await read.within(min(SETTLE, max(0.0, deadline - trio.current_time())))

    async def _go_on(self, read: Reading, arrived: Sequence[Delivery]) -> None:
        """Compare the first message of a new reading with the last that was had, and follow it to its end."""
        count, self._doubtful, last = len(arrived), False, self.cursor
        verdict = None if self._anew else judge(last, arrived[0])
        if verdict is ResetReason.RECREATED:
            self._restart()
            return
        if verdict is ResetReason.TRUNCATED:
            self._cut(offset_of(arrived[0]))
        self._stands = last.offset
        closely = self._follow_on(arrived if verdict or last.offset < 0 else arrived[1:])
        read.done(count)
        if closely:
            await self._hand_on(read)

    async def _doubt(self) -> None:
        """Nothing stands at our place. Where anything stands in the stream at all, and still not there, it is new."""
        if self._doubtful:
            self._restart()
        else:
            async with self._read("first") as read:
                await read.next()
            self._doubtful = True

    def _restart(self) -> None:
        """The stream is another one: everybody begins at its oldest message."""
        self.generation += 1
        self.oldest = 0
        self.ring = Ring(RING_EVENTS, RING_BYTES)
        self.cursor = Cursor(self.tag, -1, "")
        self._anew, self._doubtful, self._stands = True, False, -1
        self._tell(ResetReason.RECREATED, str(self.cursor))  # who leaves before the next event comes back with that

    def _cut(self, oldest: int) -> None:
        """Retention has passed our place."""
        self.oldest = oldest
        self.ring = Ring(RING_EVENTS, RING_BYTES, low=oldest - 1)
        self._tell(ResetReason.TRUNCATED)

    def _tell(self, reason: ResetReason, place: str = "") -> None:
        _log.warning("a stream is not what it was", stream=self.spec.name, reason=str(reason))
        for subscription in tuple(self.subscriptions):
            subscription.reset(reason, place)
        self._ground.flush()

    def _read(self, offset: Offset) -> AbstractAsyncContextManager[Reading]:
        return reading(self.broker, self.spec.name, offset)

    def _take_in(self, deliveries: Sequence[Delivery]) -> None:
        if self.cursor.offset < 0 and not self._anew:  # where it was not empty after all, something stands before this
            self.ring = Ring(RING_EVENTS, RING_BYTES, low=offset_of(deliveries[0]) - 1)
        for delivery in deliveries:
            self.ring.append(offset_of(delivery), delivery, _weight(delivery))
        last = deliveries[-1]
        self.cursor = Cursor(self.tag, offset_of(last), check_of(last))
        self._anew, self._failures = False, 0
        self._unwatched += len(deliveries)

    def _follow_on(self, deliveries: Sequence[Delivery]) -> bool:
        """Deliver; False where retention may have overtaken the reader, so that it must look what stands there."""
        closely = before_leap(None if self.cursor.offset == self._stands else self.cursor.offset, deliveries)
        self._deliver(closely)
        return len(closely) == len(deliveries)

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Into the ring, and to whoever hears it; called by the broker's task."""
        if not deliveries:
            return
        began = time.perf_counter()
        self._take_in(deliveries)
        batch = Batch(began)
        for delivery in deliveries:
            hearers = self._hearers.of(delivery)
            if hearers:
                event_id = str(Cursor(self.tag, offset_of(delivery), check_of(delivery)))
                for subscription in hearers:
                    batch.add(subscription, delivery, event_id)
        batch.write()
        self._ground.flush()
        batch.measure()
        self._moved.set()
        self._moved = trio.Event()

    # ------------------------------------------------------------------ the past

    async def reaches(self, offset: int) -> bool:
        """Wait a moment for the live edge to pass an offset that another replica has given out."""
        with trio.move_on_after(REACH):
            while self.ring.high < offset:
                await self._moved.wait()
        return self.ring.high >= offset

    def has_room(self, offset: int) -> bool:
        """Whether the messages from an offset to the ring's beginning may fit into the ring."""
        events, bytes_ = self.ring.room
        return self.ring.low - offset < events and bytes_ > RING_BYTES // 8

    async def fill(self, offset: int) -> None:
        """Let the ring reach back to an offset (inclusive), with one reader for all who wait.

        Where retention has passed it, `oldest` is known afterwards. Raises `BrokerError`, `trio.TooSlowError`.
        """
        self._wanted_oldest = min(self._wanted_oldest, offset) if self._filling.locked() else offset
        async with self._filling:
            if self._reaches_back(offset):
                return
            await trio.sleep(SETTLE)  # others come back in the same moment, some from further behind
            oldest = min(offset, self._wanted_oldest)
            await self._fill_from(oldest if self.has_room(oldest) else offset)

    def _reaches_back(self, offset: int) -> bool:
        return self.ring.low < offset or offset < self.oldest

    async def _fill_from(self, offset: int) -> None:
        generation, older, room = self.generation, list[Delivery](), self.ring.room[1]
        async with self._read(offset) as read:
            while not older or offset_of(older[-1]) <= self.ring.low:  # and one more, to compare
                arrived = await read.within(PATIENCE)
                room -= sum(map(_weight, arrived))
                if not arrived or room < 0 or (older and before_leap(offset_of(older[-1]), arrived) != arrived):
                    return  # the client's own reader finds out why, or deals with messages this large
                older += arrived
                read.done(len(arrived))
        if self.generation == generation:
            self._extend(offset, older)

    def _extend(self, offset: int, older: Sequence[Delivery]) -> None:
        first = offset_of(older[0])
        if not self._joins(older):  # made anew, and the live reader has not noticed yet
            return
        if first > offset + HOLES:
            self.oldest = max(self.oldest, min(first, self.ring.low + 1))  # memory may reach further back
        if first <= self.ring.low < offset_of(older[-1]):  # the ring may have moved on while the reader was closed
            entries = [(offset_of(delivery), delivery, _weight(delivery)) for delivery in older]
            self.ring.extend_left(entries, first - 1)

    def _joins(self, older: Sequence[Delivery]) -> bool:
        """Whether what was read is of the ring's own stream: what both have is the same."""
        common = ((each, self.ring.at(offset_of(each))) for each in older if offset_of(each) > self.ring.low)
        return all(own is None or check_of(own) == check_of(each) for each, own in common)


def _weight(delivery: Delivery) -> int:
    """Bytes that a message counts in memory, its headers included."""
    return len(delivery.body) + len(delivery.raw_properties or repr(delivery.properties))


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
