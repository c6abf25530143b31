"""Everything that happens later, in one task: heartbeats, the ends of streams, unbinding, idle connections.

Strategy: a sleeping trio task per connection would cost a wake-up of some 50 µs for each heartbeat and kilobytes of
memory. Here a deadline is a small object in the bucket of its tick; one task sleeps until the next bucket is due and
calls what is in it. A cancelled deadline leaves its bucket at once, and an empty bucket goes, so nothing outlives
what it belongs to, and streams that come and go leave no trail up to the time when they would have ended.
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
SLACK: Final = 64
"""Ticks that may stand in the heap without a bucket, besides as many as there are buckets."""


class Deadline:
    """One call in the future; made by `Deadlines.at`."""

    __slots__ = ("_bucket", "call")

    def __init__(self, call: Callable[[], None], bucket: _Bucket) -> None:
        self.call = call
        self._bucket = bucket

    def cancel(self) -> None:
        """Forget the call; does nothing once it was made."""
        bucket = self._bucket
        bucket.pop(self, None)
        if not bucket:
            bucket.emptied(bucket)


class _Bucket(dict[Deadline, None]):
    """The deadlines of one tick."""

    __slots__ = ("emptied", "tick")

    def __init__(self, tick: int, emptied: Callable[[_Bucket], None]) -> None:
        super().__init__()
        self.tick = tick
        self.emptied = emptied


class Deadlines:
    """The buckets and the task that empties them. Calls are synchronous, quick, and run in the task of `run`."""

    def __init__(self) -> None:
        self._buckets: dict[int, _Bucket] = {}
        self._ticks: list[int] = []
        self._earlier = trio.Event()
        self._log = structlog.get_logger("sidecar.deadlines")

    def __repr__(self) -> str:
        return f"<Deadlines {len(self)} in {len(self._buckets)} ticks>"

    def __len__(self) -> int:
        """How many calls are to be made."""
        return sum(map(len, self._buckets.values()))

    def at(self, when: float, call: Callable[[], None]) -> Deadline:
        """Call at the time ``when`` (seconds on trio's clock), at most a tick late."""
        tick = math.ceil(when / TICK)
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = _Bucket(tick, self._forget)
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
        due: list[int] = []
        while self._ticks and self._ticks[0] * TICK <= now:
            due.append(heapq.heappop(self._ticks))
        for tick in due:  # what the calls add is not among them: it has its turn after a checkpoint
            bucket = self._buckets.pop(tick, None)
            while bucket:
                deadline, _ = bucket.popitem()
                self._call(deadline.call)

    def _forget(self, bucket: _Bucket) -> None:
        """Nothing is left in it: its tick leaves the heap too, together with others."""
        if self._buckets.get(bucket.tick) is bucket:
            del self._buckets[bucket.tick]
            if len(self._ticks) > 2 * len(self._buckets) + SLACK:
                self._ticks = sorted(self._buckets)

    def _call(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:  # one stream's mistake must not end the heartbeats of all others
            self._log.exception("a deadline's call failed")
