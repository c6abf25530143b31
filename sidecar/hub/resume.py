"""From a client's last event ID to the live edge of a stream: proven, complete, once.

Strategy: a place is a cursor. While the ring covers it, events come from memory; where it does not, the ring is made
to reach back if its room allows, else the client gets a reader of its own until it meets the ring. Wherever a place
was not had from this very stream it is proven first: the message there is read again and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import BrokerAway, BrokerError, Offset
from sidecar.cursor import Cursor, check_of, offset_of
from sidecar.hub.batch import encoded
from sidecar.hub.reading import reading
from sidecar.hub.replay import PAGE, follow
from sidecar.hub.subscription import Start, Subscriber, Subscription, Wanted
from sidecar.hub.tail import PATIENCE, StreamSource, judge
from sidecar.observe.reasons import CloseReason, ResetReason
from sidecar.topic import Index, index_for

ENCODED: Final = 8192
"""Replayed blocks that a subscription keeps, for the others who come back in the same moment."""


class StreamSubscription(Subscription):
    """A subscription on a stream."""

    def __init__(self, wanted: Wanted, source: StreamSource) -> None:
        super().__init__(wanted)
        self.source = source
        self._selector: Index[bool] = index_for(source.type_of(wanted.exchange))
        for binding in wanted.bindings:
            self._selector.add(binding.key, binding.headers, True)
        self._encoded: dict[int, bytes | None] = {}

    def greeting(self, start: Start) -> bytes:
        """The id of the present, or of the beginning: who has received nothing can resume from there."""
        if start.since or (start.last_event_id and self._readable(start.last_event_id)):
            return b""  # it has an id that is better, or will have one with the first event
        place = Cursor(self.source.tag, -1, "") if start.earliest else self.source.cursor
        return b"id: %b\n\n" % str(place).encode()

    def _readable(self, text: str) -> Cursor | None:
        cursor = Cursor.parse(text)
        return cursor if cursor is not None and cursor.tag == self.source.tag else None

    def join(self, subscriber: Subscriber, start: Start) -> None:
        """Let it hear from where it wants to begin."""
        cursor = self._readable(start.last_event_id)
        if start.last_event_id and cursor is None:
            self.attach(subscriber)
            subscriber.reset(ResetReason.UNKNOWN_ID)
        elif start.live:
            self.attach(subscriber)
        else:
            subscriber.spawn(Resume(self, subscriber, start, cursor).run)

    def fell_behind(self, subscriber: Subscriber) -> bool:
        """Let it go on from the stream when it reads again: everything up to the live edge has been written to it."""
        self.detach(subscriber)
        subscriber.spawn(Resume(self, subscriber, Start(), self.source.cursor, proven=True).run)
        return True

    def block(self, delivery: Delivery) -> bytes | None:
        """Return the block of a past message; None where it is not for this subscription."""
        offset = offset_of(delivery)
        if offset in self._encoded:
            return self._encoded[offset]
        if len(self._encoded) >= ENCODED:
            self._encoded.clear()
        block = self._encoded[offset] = self._encode_past(offset, delivery)
        return block

    def _encode_past(self, offset: int, delivery: Delivery) -> bytes | None:
        if self.wanted.exchange not in (None, delivery.exchange):
            return None
        if not self._selector.match(delivery.routing_key, lambda: delivery.properties.headers):
            return None
        return encoded(self, delivery, str(Cursor(self.source.tag, offset, check_of(delivery))))

    def forget_past(self) -> None:
        """The stream is another one: what was encoded stands for nothing."""
        self._encoded.clear()

    def reset(self, reason: ResetReason) -> None:
        """Tell every subscriber; after a new beginning the old blocks are void."""
        self.forget_past()
        super().reset(reason)


class Resume:
    """One subscriber's way to the live edge: a `History` of the ring as its subscription sees it."""

    def __init__(
        self,
        subscription: StreamSubscription,
        subscriber: Subscriber,
        start: Start,
        place: Cursor | None,
        *,
        proven: bool = False,
    ) -> None:
        """Begin after ``place`` where there is one, else where ``start`` says."""
        self._subscription = subscription
        self._subscriber = subscriber
        self._source = subscription.source
        self._place = place or Cursor(self._source.tag, -1, "")
        self._begin: Offset | None = start.since if place is None else None
        self._lenient = place is None
        """Beginning with the oldest message there is: nothing can have been cut off before it."""
        self._proven = proven
        self._generation = self._source.generation

    async def run(self) -> None:
        """Go on until the subscriber hears live, or has ended."""
        while not self._subscriber.ended:
            try:
                if await self._step():
                    return
            except (BrokerAway, trio.TooSlowError):
                self._proven = False
                await trio.sleep(0.2)
                await self._source.broker.wait_connected()
            except BrokerError:
                self._subscriber.end(CloseReason.BROKER_REFUSED)

    async def _step(self) -> bool:
        """Come closer by one way of going; returns whether the subscriber hears live."""
        ring, offset = self._source.ring, self._place.offset
        if self._generation != self._source.generation:
            self._recreated()
        elif self._begin is not None:
            await self._read(self._begin)
        elif self._proven and self.covers(offset):
            return await follow(self._subscriber, self._subscription, self, offset) == -1
        elif offset > ring.high:
            if not await self._source.reaches(offset):
                self._recreated()
        elif offset > ring.low or offset == ring.low == -1:
            self._prove(ring.at(offset) if offset >= 0 else None)
        else:
            await self._go_back()
        return False

    def _prove(self, found: Delivery | None) -> None:
        if judge(self._place, found) is None:
            self._proven = True
        else:
            self._recreated()

    def _recreated(self) -> None:
        self._generation = self._source.generation
        self._place = Cursor(self._source.tag, -1, "")
        self._lenient, self._proven, self._begin = True, False, None
        self._subscription.forget_past()
        self._subscriber.reset(ResetReason.RECREATED)

    async def _go_back(self) -> None:
        """Memory does not reach that far."""
        offset = max(self._place.offset, 0)
        if not self._lenient and self._source.has_room(offset):
            await self._source.fill(offset)
            if self._source.ring.low < offset:
                return
        await self._read(offset)

    async def _read(self, offset: Offset) -> None:
        """Read the stream until the ring covers what is left."""
        edge = self._source.cursor
        async with self._source.readers, reading(self._source.broker, self._source.spec.name, offset) as read:
            arrived: Sequence[Delivery] = []
            with trio.move_on_after(PATIENCE):
                arrived = await read.next()
            if not arrived:  # nothing since then: what comes now comes after the edge we knew
                self._place, self._proven, self._begin = edge, True, None
                return
            count = len(arrived)
            if not self._proven:
                arrived = self._judged(arrived)
            while not self._subscriber.ended:
                await self._write(arrived)
                if not self._proven or self.covers(self._place.offset):
                    return
                read.done(count)
                with trio.fail_after(PATIENCE):
                    arrived = await read.next()
                count = len(arrived)

    def _judged(self, arrived: Sequence[Delivery]) -> Sequence[Delivery]:
        """Look at the first message; returns those to write."""
        verdict = None if self._lenient or self._begin is not None else judge(self._place, arrived[0])
        if verdict is ResetReason.RECREATED:
            self._recreated()
            return []
        if verdict is ResetReason.TRUNCATED:
            self._subscriber.reset(verdict)
        if isinstance(self._begin, datetime):
            arrived = self._since(self._begin, arrived)
        self._proven, self._begin = True, None
        known = verdict is None and not self._lenient and self._place.offset >= 0
        return arrived[1:] if known else arrived

    def _since(self, time: datetime, arrived: Sequence[Delivery]) -> Sequence[Delivery]:
        """The broker begins with the chunk a time falls into: leave out what says that it is older."""
        for index, delivery in enumerate(arrived):
            stamp = delivery.properties.timestamp
            if stamp is None or stamp >= time:
                return arrived[index:]
            self._place = replace(self._place, offset=offset_of(delivery), check=check_of(delivery))
        return []

    async def _write(self, deliveries: Sequence[Delivery]) -> None:
        for begin in range(0, len(deliveries), PAGE):
            page = deliveries[begin : begin + PAGE]
            blocks = [block for delivery in page if (block := self._subscription.block(delivery)) is not None]
            await self._subscriber.room()
            if blocks:
                self._subscriber.replay(blocks)
            self._place = replace(self._place, offset=offset_of(page[-1]), check=check_of(page[-1]))

    # ------------------------------------------------------------------ the ring, as this subscriber's history

    def covers(self, position: int) -> bool:
        """Whether everything after a position is in the ring, and the stream still the same."""
        return position >= self._source.ring.low and self._generation == self._source.generation

    def page(self, position: int) -> tuple[int, Sequence[bytes]]:
        """Return the next blocks after a position."""
        entries = self._source.ring.after(position, PAGE)
        if not entries:
            return position, []
        offset, last = entries[-1]
        self._place = replace(self._place, offset=offset, check=check_of(last))
        blocks = [self._subscription.block(delivery) for _, delivery in entries]
        return offset, [block for block in blocks if block is not None]
