"""One event stream's life: from a request that has met a route to the line in the log that says why it ended.

Strategy: what can be done at once is done at once, in the task that has read the request: where the subscription
stands, a stream opens without a task of its own. Only what must wait (a binding, a question to somebody else) runs in
the connection's nursery, for as long as it waits. From then on the stream is a few fields: the hub writes to its
outlet, `Deadlines` sends its heartbeats and ends it in time, the connection tells it when the client has left.

However it ends, it ends once, with one reason; `gone` is the last thing that happens to it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog
import trio

from sidecar import sse
from sidecar.backlog import Backlog
from sidecar.broker.port import BrokerError, BrokerRefused
from sidecar.deadlines import TICK, Deadline
from sidecar.http.access import Granted, Unavailable
from sidecar.http.limits import Lease
from sidecar.http.outlet import StreamOutlet
from sidecar.http.request import Request
from sidecar.http.routes import CompiledRoute
from sidecar.http.start import where_to_begin
from sidecar.http.streams import Streams
from sidecar.hub.subscription import Subscription, Wanted
from sidecar.observe.reasons import CloseReason, DropReason, ResetReason

SUBSCRIBE_WITHIN: Final = 5.0
"""Seconds the broker may take to bind before the client is asked to come back."""
FINISH_WITHIN: Final = 5.0
"""Seconds the socket may take for the last bytes of a stream that ends, before it is cut."""

HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]

_log = structlog.get_logger("sidecar.stream")


class EventStream:
    """The stream of one request: the hub's `Subscriber`."""

    __slots__ = (
        "_age",
        "_beat_at",
        "_began",
        "_expires_at",
        "_head_only",
        "_headers",
        "_last_beat",
        "_lease",
        "_reason",
        "_replayed",
        "_retry",
        "_room",
        "_sent_before",
        "_start",
        "_streams",
        "_subscription",
        "_told_dropped",
        "client",
        "outlet",
        "route",
        "spawn",
    )

    def __init__(
        self,
        streams: Streams,
        route: CompiledRoute,
        request: Request,
        outlet: StreamOutlet,
        spawn: Callable[..., None],
        grant: Granted | Unavailable,
    ) -> None:
        """``spawn`` starts tasks in the connection's nursery. Raises `BadValueError` for a start that is no time."""
        self.route = route
        self.spawn = spawn
        self.outlet = outlet
        self.client = grant.client if isinstance(grant, Granted) else ""
        self._headers = [*HEADERS, *grant.headers] if grant.headers else HEADERS
        self._expires_at = grant.expires_at if isinstance(grant, Granted) else None
        self._lease: Lease | None = None
        self._head_only = request.method == "HEAD"
        self._start = where_to_begin(request)
        self._room: trio.Event | None = None
        self._replayed = 0
        self._streams = streams
        self._subscription: Subscription | None = None
        self._reason: CloseReason | None = None
        self._age: Deadline | None = None
        self._beat_at: Deadline | None = None
        self._began = self._last_beat = trio.current_time()
        self._sent_before = 0
        self._told_dropped = 0
        low, high = route.settings.retry
        self._retry = sse.retry(round(random.uniform(low, high) * 1000))  # a spread, not a secret

    def __repr__(self) -> str:
        return f"<EventStream {self.route.settings.path} {self.client} {self._reason or 'open'}>"

    # ------------------------------------------------------------------ the beginning

    def open(self, wanted: Wanted) -> None:
        """Serve it: at once where the subscription stands, else in a task of the connection."""
        self._streams.add(self)
        if self._head_only:
            self.outlet.start(200, self._headers)
            self.outlet.finish()
        elif self._streams.draining:
            self.turn_away(CloseReason.DRAINED)
        elif self.route.retired:  # while its client was asked for
            self.turn_away(CloseReason.ROUTE_GONE)
        elif not self._find_place():
            self.turn_away(CloseReason.LIMIT)
        elif (subscription := self._streams.hub.standing(wanted)) is not None:
            self._begin(subscription)
        else:
            self.spawn(self._subscribe, wanted)

    def _find_place(self) -> bool:
        limit = self.route.limit
        if limit is not None:
            self._lease = limit.acquire(self.client)
        return limit is None or self._lease is not None

    async def _subscribe(self, wanted: Wanted) -> None:
        try:
            with trio.fail_after(SUBSCRIBE_WITHIN):
                subscription = await self._streams.hub.subscribe(wanted)
        except (BrokerError, trio.TooSlowError) as error:
            self._cannot_subscribe(error)
        else:
            if self._reason is None:
                self._begin(subscription)
            else:
                self._streams.hub.release(subscription)

    def _cannot_subscribe(self, error: Exception) -> None:
        if self._reason is None:
            problem = str(error) or f"the broker did not answer within {SUBSCRIBE_WITHIN:g} s"
            level = _log.warning if isinstance(error, BrokerRefused) else _log.info
            level("no subscription", route=self.route.settings.path, problem=problem)
            self.turn_away(CloseReason.BROKER_REFUSED)

    def _begin(self, subscription: Subscription) -> None:
        # Between these lines nothing waits: once the first bytes are out, no message is missed.
        settings, deadlines = self.route.settings, self._streams.deadlines
        self._subscription = subscription
        self._sent_before = subscription.sent
        self._equip(subscription)
        self.outlet.start(200, self._headers, self._retry + sse.HEARTBEAT + subscription.greeting(self._start))
        self.route.metrics.subscribers += 1
        self._beat_at = deadlines.after(settings.heartbeat.every, self._beat)
        lasts = self._lasts()
        if lasts is not None:
            self._age = deadlines.after(lasts, self._expire)
        subscription.join(self, self._start)

    def _lasts(self) -> float | None:
        """Seconds until the stream must end: by the route's age, or with the token; None: never."""
        ends = []
        if self.route.settings.max_age is not None:
            ends.append(self.route.settings.max_age * random.uniform(0.8, 1))  # a spread, not a secret
        if self._expires_at is not None:
            ends.append(max(0.0, self._expires_at - time.time()))
        return min(ends, default=None)

    def _equip(self, subscription: Subscription) -> None:
        limits, outlet = self.route.settings.backlog, self.outlet
        if self.route.spills:
            # What a slow reader misses is in the stream: the backlog holds one batch, however large, and no more.
            outlet.backlog = Backlog(_UNBOUNDED, _UNBOUNDED, "disconnect")
            outlet.on_behind = self._behind
        else:
            outlet.backlog = Backlog(
                limits.events, limits.bytes, "drop_oldest" if limits.when_full == "drop_oldest" else "disconnect"
            )
        outlet.on_full = self._full
        outlet.on_gap = self._gap
        outlet.on_clear = self._clear

    def turn_away(self, reason: CloseReason) -> None:
        """Ask the client to come back: 200, a ``retry:`` and a clean end, or 503 where the route says so."""
        self._streams.add(self)
        self._note(reason)
        if self.route.settings.overload == "503":
            seconds = max(1, round(self.route.settings.retry[1]))
            plain = (b"content-type", b"text/plain; charset=utf-8")
            extra = self._headers[len(HEADERS) :]
            self.outlet.reply(503, [plain, (b"retry-after", b"%d" % seconds), *extra], b"try again later\n")
            return
        self.outlet.start(200, self._headers, b"" if self._head_only else self._retry + sse.HEARTBEAT)
        self._finish()

    # ------------------------------------------------------------------ while it is open

    def reset(self, reason: ResetReason, place: str = "") -> None:
        """Say in band that events may have been missed (the contract's section 3); a new place in its own block."""
        self.route.metrics.reset(reason)
        self.outlet.write([sse.reset(reason) + (sse.id_block(place) if place else b"")])

    @property
    def ended(self) -> bool:
        """Whether it hears nothing any more."""
        return self._reason is not None

    def replay(self, blocks: Sequence[bytes]) -> None:
        """Write past events."""
        self.route.metrics.replayed += len(blocks)
        self.route.metrics.sent += len(blocks)
        self._replayed += len(blocks)
        self._last_beat = trio.current_time()
        self.outlet.write(blocks)

    async def room(self) -> None:
        """Wait until everything written has been taken, or the stream has ended."""
        while self.outlet.behind and not self.ended:
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()

    def settled(self) -> bool:
        """Whether all that was written is in the socket; if not, the subscription hears when it is."""
        return self.outlet.settled()

    def _clear(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None
        if self._subscription is not None:
            self._subscription.caught_up()

    def _behind(self) -> None:
        if self._subscription is not None and self in self._subscription.subscribers:
            self._subscription.fell_behind(self)

    def _beat(self) -> None:
        subscription, heartbeat, now = self._subscription, self.route.settings.heartbeat, trio.current_time()
        assert subscription is not None
        heard = subscription.last_written if self in subscription.subscribers else 0.0
        last = max(self._last_beat, heard)
        if last + heartbeat.every <= now + TICK:
            self.outlet.heartbeat(sse.HEARTBEAT_EVENT if heartbeat.event else sse.HEARTBEAT)
            last = self._last_beat = now
        self._beat_at = self._streams.deadlines.at(last + heartbeat.every, self._beat)

    def _full(self) -> None:
        self.route.metrics.dropped(DropReason.SLOW, len(self.outlet.backlog) + 1)
        self.outlet.drop()
        self.end(CloseReason.SLOW)

    def _gap(self) -> bytes:
        """The reader reads again; tell it that the oldest events were dropped."""
        self.route.metrics.dropped(DropReason.SLOW, self._newly_dropped())
        self.route.metrics.reset(ResetReason.SLOW)
        return sse.reset(ResetReason.SLOW)

    def _newly_dropped(self) -> int:
        newly = self.outlet.backlog.dropped - self._told_dropped
        self._told_dropped += newly
        return newly

    def _expire(self) -> None:
        self.end(CloseReason.EXPIRED)

    def drain(self) -> None:
        """End it because this process takes its leave."""
        self.end(CloseReason.DRAINED)

    def retire(self) -> None:
        """End it because its route was changed or removed."""
        self.end(CloseReason.ROUTE_GONE)

    # ------------------------------------------------------------------ the end

    def end(self, reason: CloseReason) -> None:
        """End the stream cleanly; where the socket does not take the last bytes in time, cut it."""
        if self._reason is None:
            self._note(reason)
            if self.route.settings.queue is not None:
                self.outlet.drop()  # it goes back to the queue
            if self._subscription is None:  # still waiting for its binding: nothing has been sent
                self.turn_away(reason)
            else:
                self._finish()

    def _finish(self) -> None:
        self._age = self._streams.deadlines.after(FINISH_WITHIN, self.outlet.abort)
        self.outlet.finish()

    def gone(self) -> None:
        """The response is over: the client has left, or everything was written."""
        self._note(CloseReason.CLIENT_LEFT)
        self._stop_clocks()
        self.outlet.forget()
        self._streams.discard(self)

    def _note(self, reason: CloseReason) -> None:
        """Write down why it ends, the first time; from here on it hears nothing."""
        if self._reason is not None:
            return
        self._reason = reason
        self._stop_clocks()
        if self._lease is not None:
            self._lease.release()
        events = 0
        if self._subscription is not None:
            events = self._subscription.sent - self._sent_before + self._replayed
            self._subscription.detach(self)
            self._clear()
            self._streams.hub.release(self._subscription)
            self.route.metrics.subscribers -= 1
            self.route.metrics.dropped(DropReason.SLOW, self._newly_dropped())
        if not self._head_only:
            self._record(reason, events)

    def _record(self, reason: CloseReason, events: int) -> None:
        client, seconds = self.client, round(trio.current_time() - self._began, 3)
        self.route.metrics.closed(reason, client, seconds, events)
        _log.info(
            "stream closed",
            route=self.route.settings.path,
            reason=str(reason),
            client=client,
            seconds=seconds,
            events=events,
        )

    def _stop_clocks(self) -> None:
        for deadline in (self._age, self._beat_at):
            if deadline is not None:
                deadline.cancel()
        self._age = self._beat_at = None


_UNBOUNDED: Final = 2**62
