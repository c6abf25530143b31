"""A request's body on its way in: between the task that reads the client's connection and the exchange that takes it.

Strategy: HTTP/1.x lets the reading task wait while much lies here, so that the client's TCP window closes. On an
HTTP/2 connection nobody may wait for one stream; there the windows are the bound, and each byte goes back into them
when it was taken (RFC 9113 §6.9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import trio

Fields = list[tuple[bytes, bytes]]

HIGH_WATER: Final = 65536
"""Bytes above which `put` waits."""


class Intake:
    """Parts of one body; one task puts, another takes."""

    __slots__ = ("_closed", "_ended", "_on_taken", "_parts", "_size", "_waiting", "_weight", "fed", "trailers")

    def __init__(self, on_taken: Callable[[int], None] | None = None) -> None:
        """``on_taken`` hears of the weight of all that was taken, or thrown away."""
        self._parts: list[bytes] = []
        self._size = 0
        self._weight = 0
        self._ended = False
        self._closed = False
        self.fed = False
        """Whether anything has come at all."""
        self._on_taken = on_taken
        self._waiting = trio.lowlevel.ParkingLot()
        self.trailers: Fields = []
        """What stood behind the body, once it has ended."""

    def feed(self, data: bytes, weight: int = 0) -> None:
        """Add a part; ``weight`` is what it costs of a flow-control window, padding included."""
        self._weight += weight
        self.fed = True
        if data and not self._closed:
            self._parts.append(bytes(data))
            self._size += len(data)
            self._waiting.unpark_all()
        elif self._closed or not self._parts:
            self._give_back()

    async def put(self, data: bytes) -> None:
        """Add a part, and wait while more than `HIGH_WATER` lies here."""
        self.feed(data)
        while self._size > HIGH_WATER:
            await self._waiting.park()

    def end(self, trailers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """The body is complete."""
        if not self._ended:
            self.trailers = self.trailers or list(trailers)
            self._ended = True
            self._waiting.unpark_all()

    @property
    def ended(self) -> bool:
        """Whether all of it has come."""
        return self._ended

    async def take(self) -> bytes:
        """Return all that lies here, waiting for the first of it; ``b""`` at the end."""
        while not self._parts and not self._ended:
            await self._waiting.park()
        data = b"".join(self._parts)
        self._empty()
        return data

    def close(self) -> None:
        """Nobody will take any more: throw away what is here and what comes."""
        self._closed = True
        self._empty()

    def _empty(self) -> None:
        self._parts.clear()
        self._size = 0
        self._waiting.unpark_all()
        self._give_back()

    def _give_back(self) -> None:
        weight, self._weight = self._weight, 0
        if weight and self._on_taken is not None:
            self._on_taken(weight)
