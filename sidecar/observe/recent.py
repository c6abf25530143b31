"""The last streams that ended and the last resets, for people who ask what just happened.

Strategy: two short rings of small records and one running number. Nothing is looked up or formatted when something
happens; who watches remembers the number it has seen and asks for what came after it. A thousand streams that are
reset together are one record with a count, so that one outage does not push everything else out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from sidecar.observe.reasons import CloseReason, ResetReason

KEEP: Final = 100
"""Records of each kind."""
TOGETHER: Final = 1.0
"""Seconds within which equal resets of one route are one record."""


@dataclass(frozen=True, slots=True)
class Closed:
    """An event stream that has ended."""

    number: int
    at: float
    """Seconds since 1970."""
    route: str
    reason: CloseReason
    client: str
    seconds: float
    """How long it was open."""
    events: int
    """How many events it was sent."""


@dataclass(slots=True)
class Reset:
    """One ``sidecar.reset``, or several of one route and reason at about the same time."""

    number: int
    at: float
    """Seconds since 1970, of the first."""
    route: str
    reason: ResetReason
    count: int
    """How many streams were told."""


class Recent:
    """What happened lately; the newest first."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._closed: deque[Closed] = deque(maxlen=KEEP)
        self._resets: deque[Reset] = deque(maxlen=KEEP)
        self.number = 0
        """Grows with everything that happens."""

    def __repr__(self) -> str:
        return f"<Recent {len(self._closed)} closed, {len(self._resets)} resets, number {self.number}>"

    def closed(self, route: str, reason: CloseReason, client: str, seconds: float, events: int) -> None:
        """Remember a stream's end."""
        self.number += 1
        self._closed.appendleft(Closed(self.number, self._clock(), route, reason, client, seconds, events))

    def reset(self, route: str, reason: ResetReason, count: int = 1) -> None:
        """Remember so many resets; they are added to the last one where that was its like, a moment ago."""
        self.number += 1
        now, last = self._clock(), self._resets[0] if self._resets else None
        if last is not None and (last.route, last.reason) == (route, reason) and now - last.at < TOGETHER:
            last.count += count
            last.number = self.number
        else:
            self._resets.appendleft(Reset(self.number, now, route, reason, count))

    def closed_after(self, number: int) -> list[Closed]:
        """What ended after a `number` that was seen, the newest first."""
        return list(takewhile(lambda record: record.number > number, self._closed))

    def resets_after(self, number: int) -> list[Reset]:
        """The resets after a `number` that was seen, the newest first; one that has grown since comes again."""
        return list(takewhile(lambda record: record.number > number, self._resets))
