"""Everything that happens later, in one task: heartbeats, the ends of streams, unbinding, idle connections.

Strategy: a sleeping trio task per connection would cost a wake-up of some 50 µs for each heartbeat and kilobytes of
memory. Here a deadline is a small object in the bucket of its tick; one task sleeps until the next bucket is due and
calls what is in it. A cancelled deadline leaves its bucket at once, so nothing outlives what it belongs to.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Final

import structlog
import trio

TICK: Final = 0.05
"""Seconds: a deadline is met up to this much late, never early, and all of one tick share one wake-up."""


class Deadline:
    """One call in the future; made by `Deadlines.at`."""

    __slots__ = ("_bucket", "call")

    def __init__(self, call: Callable[[], None], bucket: dict[Deadline, None]) -> None:
        self.call = call
        self._bucket = bucket

    def cancel(self) -> None:
        """Forget the call; does nothing once it was made."""
        self._bucket.pop(self, None)


class Deadlines:
    """The buckets and the task that empties them. Calls are synchronous, quick, and run in the task of `run`."""

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Deadline, None]] = {}
        self._ticks: list[int] = []
        self._earlier = trio.Event()
        self._log = structlog.get_logger("sidecar.deadlines")

    def __repr__(self) -> str:
        return f"<Deadlines {sum(map(len, self._buckets.values()))} in {len(self._buckets)} ticks>"

    def at(self, when: float, call: Callable[[], None]) -> Deadline:
        """Call at the time ``when`` (seconds on trio's clock), at most a tick late."""
        tick = math.ceil(when / TICK)
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            if not self._ticks or tick < self._ticks[0]:
                self._earlier.set()
            heapq.heappush(self._ticks, tick)
        deadline = Deadline(call, bucket)
        bucket[deadline] = None
        return deadline

    def after(self, seconds: float, call: Callable[[], None]) -> Deadline:
        """Call ``seconds`` from now."""
        return self.at(trio.current_time() + seconds, call)

    async def run(self) -> None:
        """Make the calls as they fall due, until cancelled."""
        while True:
            self._earlier = trio.Event()
            until = self._ticks[0] * TICK if self._ticks else math.inf
            with trio.move_on_at(until):
                await self._earlier.wait()
            self._call_due(trio.current_time())

    def _call_due(self, now: float) -> None:
        while self._ticks and self._ticks[0] * TICK <= now:
            bucket = self._buckets.pop(heapq.heappop(self._ticks))
            while bucket:
                deadline, _ = bucket.popitem()
                self._call(deadline.call)

    def _call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # one stream's mistake must not end the heartbeats of all others
            self._log.exception("a deadline's call failed")
