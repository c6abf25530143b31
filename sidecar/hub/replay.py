"""Bringing one subscriber from where it was to the live edge, at its own pace.

Strategy: a follower is a task in the subscriber's connection. It writes past events only while the outlet has room,
a few at a time, so a slow client holds up its own replay alone, and a fast one cannot crowd out the live path. When
nothing is left between it and the live edge it joins in the same breath, so there is neither gap nor repeat. Whoever
falls behind the live edge leaves it and is followed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import trio

from sidecar.hub.subscription import Subscriber, Subscription, Wanted

PAGE: Final = 128
"""Events written at a time, before the client must have taken them."""


class History(Protocol):
    """A past that lies in memory, as one subscriber sees it."""

    def covers(self) -> bool:
        """Whether everything after the subscriber's place is here."""

    def page(self) -> Sequence[bytes] | None:
        """Move the place on, and return the blocks up to it; None where nothing is left."""


class ReplaySubscription(Subscription):
    """A subscription that can go back. Who is attached is not behind, save while a batch is being written."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__(wanted)
        self._writing = False
        self._fallen: list[Subscriber] = []

    def admit(self, subscriber: Subscriber) -> None:
        """Let it hear live; first, where its socket is full already, from the past."""
        if subscriber.settled():
            self.attach(subscriber)
        else:
            self.resume(subscriber)

    def resume(self, subscriber: Subscriber) -> None:
        """Start the task that brings a subscriber, who had everything up to the live edge, there again."""
        raise NotImplementedError

    def write(self, blocks: Sequence[bytes]) -> None:
        """Write a batch; it goes whole to those whom it makes fall behind."""
        self._writing = True
        try:
            super().write(blocks)
        finally:
            self._writing = False
            fallen, self._fallen = self._fallen, []
            for subscriber in fallen:
                self.fell_behind(subscriber)

    def fell_behind(self, subscriber: Subscriber) -> None:
        """Let it go on from the past when it reads again."""
        if self._writing:
            self._fallen.append(subscriber)
        elif subscriber in self.subscribers and not subscriber.settled():
            self.detach(subscriber)
            self.resume(subscriber)


async def follow(subscriber: Subscriber, subscription: Subscription, history: History) -> bool:
    """Replay out of memory until the live edge, and attach there.

    Returns False where memory does not go back that far (any more), because the client is slow and the stream is not.
    """
    while True:
        await subscriber.room()
        if subscriber.ended:
            return True
        if not history.covers():
            return False
        blocks = history.page()
        if blocks is None:
            subscription.attach(subscriber)
            return True
        if blocks:
            subscriber.replay(blocks)
        await trio.lowlevel.checkpoint()
