"""Bringing one subscriber from where it was to the live edge, at its own pace.

Strategy: a follower is a task in the subscriber's connection. It writes past events only while the outlet has room,
a few at a time, so a slow client holds up its own replay alone, and a fast one cannot crowd out the live path. When
nothing is left between it and the live edge it joins in the same breath, so there is neither gap nor repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

import trio

if TYPE_CHECKING:
    from sidecar.hub.subscription import Subscriber, Subscription

PAGE: Final = 128
"""Events written at a time, before the client must have taken them."""


class History(Protocol):
    """A past that lies in memory, as one subscription sees it."""

    def covers(self, position: int) -> bool:
        """Whether everything after a position is here."""

    def page(self, position: int) -> tuple[int, Sequence[bytes]]:
        """Return the next blocks after a position, and the position after them; the same position: nothing is left."""


async def follow(subscriber: Subscriber, subscription: Subscription, history: History, position: int) -> int:
    """Replay out of memory until the live edge, and attach there. Returns −1.

    Returns the position reached where memory does not go back that far any more, because the client is slow and the
    stream is not; or where the stream has ended meanwhile.
    """
    while not subscriber.ended:
        await subscriber.room()
        if not history.covers(position):
            return position
        further, blocks = history.page(position)
        if further == position:
            if not subscriber.ended:
                subscription.attach(subscriber)
            return -1
        position = further
        if blocks:
            subscriber.replay(blocks)
        await trio.lowlevel.checkpoint()
    return position
