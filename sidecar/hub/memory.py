"""A live subscription that remembers its last events: ``replay: {memory: N}``.

Strategy: ids count within one memory, and a memory has a random name. Whoever comes back with an id of another
process, or of a memory that is gone, is told so; whoever comes back late is told that events were missed, and gets
all there are. A slow reader is sent to the memory too, instead of keeping a backlog of its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from sidecar.amqp import Delivery
from sidecar.cursor import MemoryCursor
from sidecar.hub.replay import PAGE, follow
from sidecar.hub.ring import Ring
from sidecar.hub.subscription import Start, Subscriber, Subscription, Wanted
from sidecar.observe.reasons import ResetReason

REMEMBER_BYTES: Final = 16 * 1024 * 1024
"""Bytes that one memory holds at most, however many events it may hold."""


class RememberingSubscription(Subscription):
    """A live subscription with a memory."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__(wanted)
        self._name = "m" + secrets.token_urlsafe(6)
        self._ring: Ring[bytes] = Ring(wanted.remember, REMEMBER_BYTES, low=0)

    @property
    def heard(self) -> bool:
        """Always: what nobody hears now may be asked for later."""
        return True

    def greeting(self, start: Start) -> bytes:
        """The id of the present: who has received nothing can resume from here."""
        return b"id: %b\n\n" % str(MemoryCursor(self._name, self._ring.high)).encode() if self._ring.high else b""

    def join(self, subscriber: Subscriber, start: Start) -> None:
        """Replay from memory what came after the client's id."""
        if not (start.last_event_id or start.earliest):
            self.attach(subscriber)
            return
        subscriber.spawn(self._replay, subscriber, self._place(subscriber, start))

    def _place(self, subscriber: Subscriber, start: Start) -> int:
        if start.earliest:
            return self._ring.low
        cursor = MemoryCursor.parse(start.last_event_id)
        if cursor is None or cursor.name != self._name or cursor.sequence > self._ring.high:
            subscriber.reset(ResetReason.UNKNOWN_ID)
            return self._ring.high
        return cursor.sequence

    async def _replay(self, subscriber: Subscriber, position: int) -> None:
        while position >= 0 and not subscriber.ended:
            if not self.covers(position):
                subscriber.reset(ResetReason.TRUNCATED)
                position = self._ring.low
            position = await follow(subscriber, self, self, position)

    def fell_behind(self, subscriber: Subscriber) -> bool:
        """Let it go on from memory when it reads again."""
        self.detach(subscriber)
        subscriber.spawn(self._replay, subscriber, self._ring.high)
        return True

    # ------------------------------------------------------------------ what it remembers

    def encode(self, delivery: Delivery, event_id: str | None = None) -> bytes | None:
        """Return the block with the memory's next id, and remember it."""
        sequence = self._ring.high + 1
        block = super().encode(delivery, str(MemoryCursor(self._name, sequence)))
        if block is not None:
            self._ring.append(sequence, block, len(block))
        return block

    def covers(self, position: int) -> bool:
        """Whether everything after a position is remembered."""
        return position >= self._ring.low

    def page(self, position: int) -> tuple[int, Sequence[bytes]]:
        """Return the next blocks after a position."""
        entries = self._ring.after(position, PAGE)
        return (entries[-1][0], [block for _, block in entries]) if entries else (position, [])
