"""A subscription on a stream: which of its messages are meant, and where those who come begin.

Strategy: the live edge comes to it from the stream's source as an exchange's messages would; whoever wants the past, or
has fallen behind, is given a task that brings it to the live edge (`sidecar.hub.resume`). What was encoded for one is
kept a while for the others who come back in the same moment.
"""

from __future__ import annotations

from typing import Final

from sidecar import sse
from sidecar.amqp import Delivery
from sidecar.cursor import Cursor, check_of, offset_of
from sidecar.hub.batch import encoded
from sidecar.hub.landmarks import value_of
from sidecar.hub.replay import ReplaySubscription
from sidecar.hub.resume import Resume
from sidecar.hub.subscription import Start, Subscriber, Wanted
from sidecar.hub.tail import StreamSource
from sidecar.observe.reasons import ResetReason
from sidecar.topic import Index, index_for

ENCODED: Final = 8192
"""Replayed blocks that a subscription keeps, for the others who come back in the same moment."""
ENCODED_BYTES: Final = 8 * 1024 * 1024
"""Bytes of these blocks together."""


class StreamSubscription(ReplaySubscription):
    """A subscription on a stream."""

    def __init__(self, wanted: Wanted, source: StreamSource) -> None:
        super().__init__(wanted)
        self.source = source
        self._selector: Index[bool] = index_for(source.type_of(wanted.exchange))
        for binding in wanted.bindings:
            self._selector.add(binding.key, binding.headers, True)
        self._encoded: dict[Cursor, bytes | None] = {}
        self._encoded_bytes = 0

    def greeting(self, start: Start) -> bytes:
        """The id of the present, or of the beginning: who has received nothing can resume from there."""
        if start.since or self._readable(start.last_event_id):
            return b""  # it has an id that is better, or will have one with the first event
        place = Cursor(self.source.tag, -1, "") if start.earliest else self.source.cursor
        return sse.id_block(str(place))

    def _readable(self, text: str) -> Cursor | None:
        cursor = Cursor.parse(text)
        return cursor if cursor is not None and cursor.tag == self.source.tag else None

    def join(self, subscriber: Subscriber, start: Start) -> None:
        """Let it hear from where it wants to begin."""
        cursor = self._readable(start.last_event_id)
        if start.last_event_id and cursor is None:
            subscriber.reset(ResetReason.UNKNOWN_ID)
            self.admit(subscriber)
        elif start.live:
            self.admit(subscriber)
        else:
            subscriber.spawn(Resume(self, subscriber, cursor, since=start.since).run)

    def resume(self, subscriber: Subscriber) -> None:
        """Let it go on from the stream when it reads again: everything up to the live edge was written to it."""
        subscriber.spawn(Resume(self, subscriber, self.source.cursor, proven=True).run)

    def block(self, delivery: Delivery) -> bytes | None:
        """Return the block of a past message; None where it is not for this subscription."""
        place = Cursor(self.source.tag, offset_of(delivery), check_of(delivery))  # a stream made anew has other checks
        if place in self._encoded:
            return self._encoded[place]
        if len(self._encoded) >= ENCODED or self._encoded_bytes >= ENCODED_BYTES:
            self.forget_past()
        block = self._encoded[place] = self._encode_past(place, delivery)
        self._encoded_bytes += len(block or b"")
        return block

    def _encode_past(self, place: Cursor, delivery: Delivery) -> bytes | None:
        if self.wanted.exchange not in (None, delivery.exchange):
            return None
        if self.wanted.filters and value_of(delivery) not in self.wanted.filters:
            return None
        if not self._selector.match(delivery.routing_key, lambda: delivery.properties.headers):
            return None
        return encoded(self, delivery, str(place))

    def forget_past(self) -> None:
        """Let go of what was encoded; after the stream was made anew it stands for nothing."""
        self._encoded.clear()
        self._encoded_bytes = 0

    def reset(self, reason: ResetReason, place: str = "") -> None:
        """Tell every subscriber; after a new beginning the old blocks are void."""
        self.forget_past()
        super().reset(reason, place)
