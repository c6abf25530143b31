"""From a client's last event ID to the live edge of a stream: proven, complete, once.

Strategy: a place is a cursor. While the ring covers it, events come from memory; where it does not, the ring is made
to reach back if its room allows, else the client gets a reader of its own, for a turn at a time, until it meets the
ring. Wherever a reading begins at a place the message there is read again and compared, so nothing that happened to
the stream meanwhile goes unnoticed. A route with a filter lets the broker hold back what is not for it, from one
landmark to another (`sidecar.hub.landmarks`); where that leads nowhere, the rest is read as everybody reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import BrokerError, BrokerRefused, Offset
from sidecar.cursor import Cursor, check_of, offset_of
from sidecar.hub.landmarks import Way, way_on
from sidecar.hub.reading import HOLES, Reading, before_leap, oldest, reading
from sidecar.hub.replay import PAGE, follow
from sidecar.hub.subscription import Subscriber
from sidecar.hub.tail import PATIENCE, judge
from sidecar.observe.reasons import CloseReason, ResetReason

if TYPE_CHECKING:
    from sidecar.hub.stream import StreamSubscription

TURN: Final = 10.0
"""Seconds that one client may hold a reader of its own while others wait for one."""
SILENCE: Final = 5.0
"""Seconds for which a broker may look through what is not meant, without a message; then a filter does not help."""
TRIAL: Final = 20
"""Questions for a stream's oldest message that a filter may cost before it must be worth them."""
WORTH: Final = 256
"""Messages held back for each question, so that it is."""
PAUSE: Final = 0.2
"""Seconds before a reading that broke is tried again."""


class Resume:
    """One subscriber's way to the live edge: a `History` of the ring as its subscription sees it."""

    def __init__(
        self,
        subscription: StreamSubscription,
        subscriber: Subscriber,
        place: Cursor | None,
        *,
        since: datetime | None = None,
        proven: bool = False,
    ) -> None:
        """Begin after ``place``; without one at a time, or with the oldest message."""
        self._subscription = subscription
        self._subscriber = subscriber
        self._source = subscription.source
        self._generation = self._source.generation
        self._place = place or Cursor(self._source.tag, -1, "")
        self._begin = since if place is None else None
        """The time to begin at, while no reading has begun there."""
        self._since = self._begin
        """The time before which messages are left out, until one is later."""
        self._lenient = place is None
        """Whether it had nothing of this stream yet: whatever comes first, nothing was cut off before it."""
        self._proven = proven
        self._told = False
        """Whether it was told that the stream was made anew, and has heard nothing since."""
        self._filters = subscription.wanted.filters
        """What the broker may be asked to hold others back for, while that helps."""
        self._had: Sequence[Delivery] = ()
        """What was read last, up to the place."""

    async def run(self) -> None:
        """Go on until the subscriber hears live, or has ended."""
        while not self._subscriber.ended:
            try:
                if await self._step():
                    return
            except (BrokerError, trio.TooSlowError):
                if self._source.over is not None:
                    self._subscriber.end(CloseReason.BROKER_REFUSED)
                await trio.sleep(PAUSE)
                await self._source.broker.wait_connected()

    async def _step(self) -> bool:
        """Come closer by one way of going; returns whether nothing is left to do."""
        ring, offset = self._source.ring, self._place.offset
        if self._generation != self._source.generation:
            self._doubt()
        elif self._begin is not None:
            await self._read(self._begin)
        elif self._proven and self.covers():
            return await follow(self._subscriber, self._subscription, self)
        elif offset > ring.high:
            if not await self._source.reaches(offset):
                await self._read(offset)
        elif offset + 1 < self._source.oldest or (max(offset, 0) < self._source.oldest and not self._lenient):
            self._truncated()
        elif offset > ring.low or offset == ring.low == -1:
            if self._proven:  # by the broker itself: the live reader is about to notice
                raise trio.TooSlowError
            self._prove(ring.at(offset) if offset >= 0 else None)
        else:
            await self._go_back(offset + 1 if self._lenient else max(offset, 0))
        return False

    def _prove(self, found: Delivery | None) -> None:
        if judge(self._place, found) is None:
            self._proven = True
        else:
            self._recreated()

    def _doubt(self) -> None:
        """The live reader has found the stream made anew; our place may be in the new one already."""
        if self._place.offset >= 0 or self._told:
            self._generation, self._proven = self._source.generation, False
        else:
            self._recreated()

    def _recreated(self) -> None:
        self._generation = self._source.generation
        self._place = Cursor(self._source.tag, -1, "")
        self._lenient, self._proven, self._begin, self._told = True, False, None, True
        self._subscription.forget_past()
        self._subscriber.reset(ResetReason.RECREATED, str(self._place))

    def _truncated(self) -> None:
        """Retention is known to have passed the place: go on with the oldest message, as everybody who comes late."""
        if not self._lenient:
            self._subscriber.reset(ResetReason.TRUNCATED)
        self._place = Cursor(self._source.tag, self._source.oldest - 1, "")
        self._lenient = self._proven = True

    async def _go_back(self, begin: int) -> None:
        """Memory does not reach that far."""
        if self._source.has_room(begin):
            await self._source.fill(begin)
            if begin < self._source.oldest or self._source.ring.low < begin:
                return
        await self._read(begin)

    async def _read(self, offset: Offset) -> None:
        """Read the stream for a turn, or until the ring covers what is left."""
        await self._subscriber.room()
        async with self._source.readers:
            with trio.move_on_after(TURN):
                await self._read_all(offset)
                while (way := self._way()) is not None:
                    await self._read_filtered(way)

    async def _read_all(self, offset: Offset) -> None:
        edge = self._source.cursor
        async with reading(self._source.broker, self._source.spec.name, offset) as read:
            arrived = await read.within(PATIENCE)
            if arrived:
                await self._replay(read, arrived)
            else:
                await self._nothing_there(edge)

    async def _replay(self, read: Reading, arrived: Sequence[Delivery]) -> None:
        count = len(arrived)
        arrived = self._judged(arrived)
        stands = self._place.offset
        while self._goes_on():
            closely = before_leap(None if self._place.offset == stands else self._place.offset, arrived)
            await self._write(closely)
            if self.covers() or len(closely) < len(arrived) or self._way() is not None:
                return
            read.done(count)
            with trio.fail_after(PATIENCE):
                arrived = await read.next()
            count = len(arrived)

    def _way(self) -> Way | None:
        """How to go on by the broker's filter; None where there is no filter, or it would not help."""
        known = self._had and offset_of(self._had[-1]) == self._place.offset
        if not known or self._since is not None or not self._goes_on():
            return None
        return way_on(self._filters, self._had, self._source.ring)

    def _goes_on(self) -> bool:
        return self._proven and not self._subscriber.ended and self._generation == self._source.generation

    async def _read_filtered(self, way: Way) -> None:
        """Read the way that a filter leaves; where it does not help, none is asked for any more."""
        begin = offset_of(way.begin)
        try:
            async with reading(self._source.broker, self._source.spec.name, begin, filters=way.filters) as read:
                helps = await self._replay_filtered(read, way)
        except (BrokerRefused, trio.TooSlowError):
            self._filters = ()
            raise
        if not helps:
            self._filters = ()

    async def _replay_filtered(self, read: Reading, way: Way) -> bool:
        """Write what is let through, up to the way's end or the ring; returns whether the filter helps."""
        arrived, had = await read.within(SILENCE), 1
        if arrived:
            self._begin_again(way.begin, arrived[0])
        asked = held_back = 0
        while arrived and self._goes_on():
            held_back += offset_of(arrived[-1]) - self._place.offset - len(arrived) + had
            read.done(len(arrived))  # a window more may come meanwhile, for which one question will do
            asked += await self._write_checked(arrived[had:])
            if self.covers() or self._place.offset >= way.end:
                break
            if asked > TRIAL and held_back < asked * WORTH:
                return False
            arrived, had = await read.within(SILENCE), 0
        return bool(arrived)

    def _begin_again(self, landmark: Delivery, found: Delivery) -> None:
        """Compare what stands at a landmark, and go back there: nothing after it and up to the place was meant."""
        self._proven = judge(Cursor(self._source.tag, offset_of(landmark), check_of(landmark)), found) is None
        if self._proven:
            self._advance([found])

    async def _write_checked(self, deliveries: Sequence[Delivery]) -> bool:
        """Write what a filter has let through, unless what is missing in it may have been cut off by retention.

        The stream's oldest message is asked for after all of them have come: what stands now stood then. Returns
        whether it was.
        """
        closely = before_leap(self._place.offset, deliveries)
        await self._write(closely)
        if len(closely) < len(deliveries):
            self._proven = await self._oldest() <= self._place.offset + 1 + HOLES
            await self._write(deliveries[len(closely) :] if self._proven else ())
        return len(closely) < len(deliveries)

    async def _nothing_there(self, edge: Cursor) -> None:
        """No message came: none stands there, or the broker is slow, which is told from another that does come."""
        if self._begin is not None:  # none since then: what comes now comes after the edge we knew
            self._place, self._proven, self._lenient, self._begin = edge, True, False, None
        elif self._place.offset > self._source.ring.high:
            await self._oldest()
            self._recreated()
        else:
            raise trio.TooSlowError

    async def _oldest(self) -> int:
        """The offset of the stream's oldest message. Raises `BrokerError`, `trio.TooSlowError`."""
        with trio.fail_after(PATIENCE):
            return await oldest(self._source.broker, self._source.spec.name)

    def _judged(self, arrived: Sequence[Delivery]) -> Sequence[Delivery]:
        """Look at the first message; returns those that come after the place."""
        verdict = None if self._lenient else judge(self._place, arrived[0])
        if verdict is ResetReason.RECREATED:
            self._recreated()
            return []
        if verdict is ResetReason.TRUNCATED:
            self._subscriber.reset(verdict)
        had = verdict is None and not self._lenient and self._place.offset >= 0
        self._proven, self._begin = True, None
        return arrived[1:] if had else arrived

    async def _write(self, deliveries: Sequence[Delivery]) -> None:
        for begin in range(0, len(deliveries), PAGE):
            page = deliveries[begin : begin + PAGE]
            await self._subscriber.room()
            if self._subscriber.ended or self._generation != self._source.generation:
                return
            blocks = self._blocks(page)
            if blocks:
                self._subscriber.replay(blocks)
            self._advance(page)

    def _blocks(self, deliveries: Sequence[Delivery]) -> Sequence[bytes]:
        if self._since is not None:
            deliveries = self._later(self._since, deliveries)
        return [block for delivery in deliveries if (block := self._subscription.block(delivery)) is not None]

    def _later(self, since: datetime, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """The broker begins with the chunk a time falls into: leave out what says that it is older."""
        for index, delivery in enumerate(deliveries):
            stamp = delivery.properties.timestamp
            if stamp is None or stamp >= since:
                self._since = None
                return deliveries[index:]
        return []

    def _advance(self, had: Sequence[Delivery]) -> None:
        last, self._had = had[-1], had
        self._place = replace(self._place, offset=offset_of(last), check=check_of(last))
        self._lenient = self._told = False

    # ------------------------------------------------------------------ the ring, as this subscriber's history

    def covers(self) -> bool:
        """Whether everything after the place is in the ring, and both are of the same stream."""
        ring = self._source.ring
        return (
            ring.low <= self._place.offset <= ring.high
            and self._generation == self._source.generation
            and self._ring_has_place()
        )

    def _ring_has_place(self) -> bool:
        """Whether the ring has the message that was had last, where there is one.

        The stream may have been made anew, and the live reader not have noticed: what it has belongs to the old one.
        """
        place = self._place
        if place.offset < 0 or not place.check or place == self._source.cursor:
            return True
        return judge(place, self._source.ring.at(place.offset)) is None

    def page(self) -> Sequence[bytes] | None:
        """Return the next blocks after the place."""
        entries = self._source.ring.after(self._place.offset, PAGE)
        if not entries:
            return None
        deliveries = [delivery for _, delivery in entries]
        self._advance(deliveries)
        return self._blocks(deliveries)
