"""A live subscription that remembers its last events: ``replay: {memory: N}``.

Strategy: ids count within one memory, and a memory has a random name. Whoever comes back with an id of another
process, or of a memory that is gone, is told so; whoever comes back late is told that events were missed, and gets
all there are. What the memory itself has missed is remembered too, as the reset that says it. A slow reader is sent to
the memory, instead of keeping a backlog of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from sidecar import sse
from sidecar.amqp import Delivery
from sidecar.cursor import MemoryCursor
from sidecar.hub.replay import PAGE, ReplaySubscription, follow
from sidecar.hub.ring import Ring
from sidecar.hub.subscription import Start, Subscriber, Wanted
from sidecar.observe.reasons import ResetReason

REMEMBER_BYTES: Final = 16 * 1024 * 1024
"""Bytes that one memory holds at most, however many events it may hold."""


class RememberingSubscription(ReplaySubscription):
    """A live subscription with a memory."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__(wanted)
        self.name = "m" + secrets.token_urlsafe(6)
        self.ring: Ring[bytes] = Ring(wanted.remember, REMEMBER_BYTES, low=0)

    @property
    def heard(self) -> bool:
        """Always: what nobody hears now may be asked for later."""
        return True

    def greeting(self, start: Start) -> bytes:
        """The id of the beginning or of the present: who has received nothing can resume from there."""
        if self._known(start.last_event_id) is not None:
            return b""  # its own id is better
        place = self.ring.low if start.earliest else self.ring.high
        return sse.id_block(str(MemoryCursor(self.name, place)))

    def join(self, subscriber: Subscriber, start: Start) -> None:
        """Let it hear; first what came after its id."""
        place = self.ring.low if start.earliest else self._known(start.last_event_id)
        if start.last_event_id and place is None:
            subscriber.reset(ResetReason.UNKNOWN_ID)
        if place is None:
            self.admit(subscriber)
        else:
            subscriber.spawn(Recall(self, subscriber, place).run)

    def _known(self, last_event_id: str) -> int | None:
        cursor = MemoryCursor.parse(last_event_id)
        known = cursor is not None and cursor.name == self.name and cursor.sequence <= self.ring.high
        return cursor.sequence if cursor is not None and known else None

    def resume(self, subscriber: Subscriber) -> None:
        """Let it go on from memory when it reads again."""
        subscriber.spawn(Recall(self, subscriber, self.ring.high).run)

    def encode(self, delivery: Delivery, event_id: str | None = None) -> bytes | None:
        """Return the block with the memory's next id, and remember it."""
        sequence = self.ring.high + 1
        block = super().encode(delivery, str(MemoryCursor(self.name, sequence)))
        if block is not None:
            self.ring.append(sequence, block, len(block))
        return block

    def reset(self, reason: ResetReason, place: str = "") -> None:
        """Tell every subscriber, and everybody who comes back from before it."""
        super().reset(reason, place)
        block = sse.reset(reason)
        self.ring.append(self.ring.high + 1, block, len(block))


class Recall:
    """One subscriber's way through a memory: a `History`."""

    def __init__(self, subscription: RememberingSubscription, subscriber: Subscriber, place: int) -> None:
        """Begin after ``place``, a sequence number."""
        self._subscription = subscription
        self._subscriber = subscriber
        self._place = place

    async def run(self) -> None:
        """Go on until the subscriber hears live, or has ended."""
        while not await follow(self._subscriber, self._subscription, self):
            self._subscriber.reset(ResetReason.TRUNCATED)
            self._place = self._subscription.ring.low

    def covers(self) -> bool:
        """Whether everything after the place is remembered."""
        return self._place >= self._subscription.ring.low

    def page(self) -> Sequence[bytes] | None:
        """Return the next blocks."""
        entries = self._subscription.ring.after(self._place, PAGE)
        if not entries:
            return None
        self._place = entries[-1][0]
        return [block for _, block in entries]
