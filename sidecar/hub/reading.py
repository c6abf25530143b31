"""One reading of a stream, as something that can be awaited: a bounded hand-over from the broker's task to ours.

Strategy: the broker sends no more than the window allows; what it has sent waits in a list until the reader's task
takes it, and taking grants the next credit only when the caller says so. So a slow client slows its own reading and
nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import Broker, BrokerError, Offset, Reader
from sidecar.cursor import offset_of

WINDOW: Final = 256
"""Messages that the broker may send ahead of what has been dealt with."""
CLOSE_WITHIN: Final = 2.0
"""Seconds to wait for the broker at the end of a reading; it ends anyway."""
HOLES: Final = 8
"""Offsets in a row that a broker keeps for itself; where more are missing, retention may have overtaken the reader."""


def before_leap(place: int | None, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
    """Return those that follow an offset closely: up to where so many are missing that they may have been cut off.

    Without a place the first message may be anywhere.
    """
    for index, delivery in enumerate(deliveries):
        offset = offset_of(delivery)
        if place is not None and offset > place + 1 + HOLES:
            return deliveries[:index]
        place = offset
    return deliveries


class Reading:
    """The sink of one reader: what has arrived and was not yet taken."""

    def __init__(self) -> None:
        self._arrived: list[Delivery] = []
        self._hand_on: Callable[[Sequence[Delivery]], bool] | None = None
        self._enough = trio.Event()
        self._error: BrokerError | None = None
        self._news = trio.Event()
        self.reader: Reader | None = None

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Keep it for `next`, or hand it on in the broker's task."""
        if self._hand_on is None:
            self._arrived += deliveries
            self._news.set()
        elif not self._enough.is_set():
            self._pass_on(self._hand_on, deliveries)

    def _pass_on(self, deliver: Callable[[Sequence[Delivery]], bool], deliveries: Sequence[Delivery]) -> None:
        go_on = True
        try:
            go_on = deliver(deliveries)
        finally:
            self.done(len(deliveries))
        if not go_on:
            self._enough.set()

    def hand_on(self, deliver: Callable[[Sequence[Delivery]], bool]) -> None:
        """From now on hand everything on at once, also what has been kept, until ``deliver`` says False."""
        self._hand_on, self._enough = deliver, trio.Event()
        kept, self._arrived = self._arrived, []
        if kept:
            self.deliver(kept)

    async def handed_on(self, seconds: float) -> bool:
        """Wait so long for ``deliver`` to say False; returns whether it did. Raises `BrokerError` at the end."""
        with trio.move_on_after(seconds):
            await self._enough.wait()
        if self._error is not None:
            raise self._error
        return self._enough.is_set()

    def ended(self, error: BrokerError) -> None:
        """`next` raises it, once everything that has arrived was taken."""
        self._error = error
        self._news.set()
        self._enough.set()

    async def next(self) -> list[Delivery]:
        """Return what has arrived, waiting for at least one message. Raises `BrokerError` at the end."""
        await trio.lowlevel.checkpoint()  # a broker in this process is never waited for: let the others have a turn
        while not self._arrived:
            if self._error is not None:
                raise self._error
            self._news = trio.Event()
            await self._news.wait()
        arrived, self._arrived = self._arrived, []
        return arrived

    async def within(self, seconds: float) -> list[Delivery]:
        """Return what arrives in so many seconds, as `next` does; nothing where nothing comes."""
        with trio.move_on_after(seconds):
            return await self.next()
        return []

    def done(self, count: int) -> None:
        """So many messages are dealt with: the broker may send as many more."""
        if self.reader is not None:
            self.reader.credit(count)


@asynccontextmanager
async def reading(
    broker: Broker, stream: str, offset: Offset, *, filters: Sequence[str] = (), window: int | None = None
) -> AsyncIterator[Reading]:
    """Read a stream from an offset on, for as long as the block lasts. Raises `BrokerAway`, `BrokerRefused`."""
    sink = Reading()
    sink.reader = await broker.read_stream(stream, offset, sink, window=window or WINDOW, filters=filters)
    try:
        yield sink
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_WITHIN):
            await sink.reader.aclose()


async def oldest(broker: Broker, stream: str) -> int:
    """Return the offset of a stream's oldest message, waiting for one. Raises `BrokerAway`, `BrokerRefused`."""
    async with reading(broker, stream, "first", window=1) as read:
        return offset_of((await read.next())[0])
