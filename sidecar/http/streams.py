"""The event streams of this process: all that are open, and how they are taken leave of.

Strategy: a drain gives every open stream a moment of its own within the time there is, so that its client comes back
alone and not with all others; new streams are turned away meanwhile, and what is left at the end is cut.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import TYPE_CHECKING

import trio

from sidecar.deadlines import Deadlines
from sidecar.http.routes import CompiledRoute
from sidecar.hub.hub import Hub
from sidecar.observe.metrics import Metrics

if TYPE_CHECKING:
    from sidecar.http.stream import EventStream


class Streams:
    """Every event stream of this process, and what they share."""

    def __init__(self, hub: Hub, deadlines: Deadlines, metrics: Metrics) -> None:
        self.metrics = metrics
        self.hub = hub
        self.deadlines = deadlines
        self.draining = False
        self.open: dict[EventStream, None] = {}
        self._drained = trio.Event()

    def add(self, stream: EventStream) -> None:
        """A stream begins; a drain does not wait for those that came after it, which are turned away."""
        if not self.draining:
            self.open[stream] = None

    def discard(self, stream: EventStream) -> None:
        """A stream is over."""
        self.open.pop(stream, None)
        if self.draining and not self.open:
            self._drained.set()

    async def drain(self, within: float) -> None:
        """Take no new streams and end the open ones, spread over ``within`` seconds; return when all have ended.

        The last fifth of the time is for those whose socket is full; what is left then is cut.
        """
        if not self.draining:
            self.draining = True
            now = trio.current_time()
            for stream in self.open:
                self.deadlines.at(now + 0.8 * within * random.random(), stream.drain)  # a spread, not a secret
            self.deadlines.at(now + within, self._cut)
        if self.open:
            await self._drained.wait()

    def retire(self, routes: Collection[CompiledRoute], within: float) -> None:
        """End the streams of these routes, spread over ``within`` seconds."""
        now = trio.current_time()
        for stream in self.open:
            if stream.route in routes:
                self.deadlines.at(now + within * random.random(), stream.retire)  # a spread, not a secret

    def _cut(self) -> None:
        for stream in tuple(self.open):
            stream.drain()
            if stream.outlet.behind:  # what is written whole ends by itself
                stream.outlet.abort()

    def measure(self) -> None:
        """Bring the gauges of the routes up to date, for a scrape."""
        for route in self.metrics.routes:
            route.backlog_bytes = 0
        for stream in self.open:
            stream.route.metrics.backlog_bytes += stream.outlet.pending
