"""How long the next read of the broker's socket waits, so that it brings several messages.

Strategy: what is read together is written together, to every subscriber, and two messages in one write cost little
more than one. So a read may wait, but only where that pays: it waits for a time in proportion to what the last messages
took to deliver, up to a bound, and only where more than one message is to be expected meanwhile. With these numbers
nothing waits as long as delivering takes less than a tenth of the time, or messages come further apart than the bound.
"""

from __future__ import annotations

import math
from typing import Final

GATHER: Final = 0.002
"""Seconds that a message waits for others at most, where the configuration does not say."""

SHARE: Final = 16
"""Times what the last messages took to deliver, that the next ones may wait."""

EXPECTED: Final = 1.5
"""Messages that must be expected meanwhile: with fewer, most would wait for themselves alone."""


class Pace:
    """When messages were read, and what that says of those to come."""

    def __init__(self, gather: float = GATHER) -> None:
        """``gather``: seconds that a message may wait for others; 0: not at all."""
        self._gather = gather
        self._last = -math.inf

    def __repr__(self) -> str:
        return f"<Pace, last read at {self._last:g}>"

    def pause(self, read: float, delivered: float, count: int) -> float:
        """Seconds until the next read; ``count`` messages came at ``read`` and had been delivered at ``delivered``.

        0 where waiting would bring no second message at the rate of those since the last read, or would not pay.
        """
        since, self._last = read - self._last, read
        pause = min(self._gather, SHARE * (delivered - read))
        return pause if count * pause >= EXPECTED * since else 0.0
