"""The process as an event stream of its own: what the debug page shows.

Strategy: the first event tells everything; then one a second tells the counts that have changed, and between those a
stream that ended or was reset is told a moment after it happened. Nothing is kept for a watcher but what it was told
last: who reads slowly gets fewer, fuller snapshots, and who takes nothing at all is let go.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final, Protocol

import trio

from sidecar import __version__, sse
from sidecar.http.answer import Receive, Refusal, Send
from sidecar.http.status import RouteStatus
from sidecar.observe.metrics import DELIVERY_BUCKETS, Metrics
from sidecar.observe.reasons import CloseReason, Reason, ResetReason

SNAPSHOT_EVERY: Final = 1.0
"""Seconds between two snapshots."""
LOOK_EVERY: Final = 0.2
"""Seconds until what has just ended is told."""
TAKE_WITHIN: Final = 10.0
"""Seconds a watcher may take for one event before it is let go."""
WATCHERS: Final = 20
"""Watchers at a time: each costs a snapshot of every route a second."""

FIELDS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
]


class Watched(Protocol):
    """What a watcher is told about; the part of the admin listener's ``Overview`` that is needed here."""

    @property
    def metrics(self) -> Metrics:
        """The process's metrics, with what happened lately."""

    @property
    def addresses(self) -> Sequence[str]:
        """Where the public listeners listen, as URLs without a path."""

    def not_ready(self) -> str | None:
        """Why no new stream should be sent here; None when one may."""

    def routes(self) -> Sequence[RouteStatus]:
        """The routes that are served now."""


class Story:
    """What one watcher has been told, and what comes next."""

    def __init__(self, watched: Watched, *, may_publish: bool) -> None:
        """``may_publish`` is told as it is."""
        self._watched = watched
        self._may_publish = may_publish
        self._told: dict[str, RouteStatus] = {}
        self._setup: object = None
        self._seen = 0

    def opening(self) -> bytes:
        """The first block: everything that does not change, and every route. What is recent follows as news."""
        return sse.retry(1000) + self.snapshot()

    def snapshot(self) -> bytes:
        """A block with the state now: whole where the setup is another, else only the routes whose counts changed."""
        routes = {status.path: status for status in self._watched.routes()}
        setup = (tuple(self._watched.addresses), tuple(_setup(status) for status in routes.values()))
        if setup != self._setup:
            block = _block("overview", {**self._state(), **self._standing(), "routes": _plain(routes.values())})
        else:
            changed = (status for path, status in routes.items() if status != self._told[path])
            block = _block("change", {**self._state(), "routes": _plain(changed)})
        self._told, self._setup = routes, setup
        return block

    def _state(self) -> dict[str, object]:
        return {
            "clock": round(trio.current_time(), 3),  # for rates: it never jumps
            "at": round(time.time(), 3),
            "connected": self._watched.metrics.broker_connected(),
            "not_ready": self._watched.not_ready(),
        }

    def _standing(self) -> dict[str, object]:
        return {
            "version": __version__,
            "publish": self._may_publish,
            "addresses": list(self._watched.addresses),
            "bounds": DELIVERY_BUCKETS,
            "reasons": {"closed": _meanings(CloseReason), "resets": _meanings(ResetReason)},
        }

    def news(self) -> bytes:
        """Blocks with what ended or was reset since the last call, the newest first; empty where nothing did."""
        recent, seen = self._watched.metrics.recent, self._seen
        if recent.number == seen:
            return b""
        self._seen = recent.number
        happened = (("closed", recent.closed_after(seen)), ("resets", recent.resets_after(seen)))
        return b"".join(_block(kind, _plain(records)) for kind, records in happened if records)


def _meanings(reasons: Iterable[Reason]) -> dict[str, str]:
    return {reason.value: reason.meaning for reason in reasons}


def _setup(status: RouteStatus) -> tuple[object, ...]:
    return status.path, status.source, status.binding_keys, status.parameters, status.replay, status.access


def _plain(records: Any) -> list[dict[str, Any]]:
    return [asdict(record) for record in records]


def _block(event: str, data: Mapping[str, object] | Sequence[object]) -> bytes:
    return sse.encode(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode(), event=event)


class Watch:
    """Takes watchers, up to `WATCHERS` at a time."""

    def __init__(self, watched: Watched, *, may_publish: bool) -> None:
        self._watched = watched
        self._may_publish = may_publish
        self._watching = 0

    def open(self, receive: Receive) -> Watching:
        """A stream for one watcher. Raises `Refusal` with 503 where too many watch already."""
        if self._watching >= WATCHERS:
            raise Refusal(503, f"{WATCHERS} pages watch already; close one", retry_after="5")
        return Watching(self, Story(self._watched, may_publish=self._may_publish), receive)

    def __enter__(self) -> None:
        self._watching += 1

    def __exit__(self, *_: object) -> None:
        self._watching -= 1


class Watching:
    """An answer that goes on until the watcher leaves, or takes nothing any more."""

    def __init__(self, watch: Watch, story: Story, receive: Receive) -> None:
        self._watch = watch
        self._story = story
        self._receive = receive

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Send it; ``head`` leaves out the body and nothing else."""
        await send({"type": "http.response.start", "status": 200, "headers": FIELDS})
        if head:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        with self._watch:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_until_gone, self._receive, nursery.cancel_scope)
                await self._tell(send)
                nursery.cancel_scope.cancel()

    async def _tell(self, send: Send) -> None:
        story, block = self._story, self._story.opening()
        due = trio.current_time() + SNAPSHOT_EVERY
        while True:
            block += story.news()
            if block and not await _taken(send, block):
                return
            await trio.sleep(LOOK_EVERY)
            block = b""
            if trio.current_time() >= due:
                block, due = story.snapshot(), trio.current_time() + SNAPSHOT_EVERY


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _taken(send: Send, block: bytes) -> bool:
    """Send a block; False where it was not taken in time."""
    with trio.move_on_after(TAKE_WITHIN) as patience:
        await send({"type": "http.response.body", "body": block, "more_body": True})
    return not patience.cancelled_caught
