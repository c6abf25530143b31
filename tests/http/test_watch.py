"""What a watcher of the process is told, and when; the watcher is the product's own parser."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from sidecar.http.admin import AdminApplication
from sidecar.http.watch import LOOK_EVERY, SNAPSHOT_EVERY, TAKE_WITHIN, WATCHERS
from sidecar.observe.reasons import CloseReason, ResetReason
from sidecar.sse import Parser
from tests.http.asgi import Process, request

ROUTE = "/events/orders/{order}"
SCOPE = {"type": "http", "method": "GET", "raw_path": b"/overview/stream", "query_string": b"", "headers": []}


class Watcher:
    """One client of ``/overview/stream``; ``stuck`` is a socket that takes nothing."""

    def __init__(self) -> None:
        self.events: list[tuple[float, str, Any]] = []
        self.headers: dict[bytes, bytes] = {}
        self.left = trio.Event()
        self.stuck = False
        self._parser = Parser()

    async def run(self, admin: AdminApplication) -> None:
        await admin(dict(SCOPE), self._receive, self._send)

    async def _receive(self) -> dict[str, str]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if self.stuck:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        self.headers |= dict(message.get("headers", ()))
        now = trio.current_time()
        for event in self._parser.feed(message.get("body", b"")):
            self.events.append((now, event.type, json.loads(event.data)))

    def told(self, kind: str) -> list[Any]:
        """The data of all events of a type."""
        return [data for _, type_, data in self.events if type_ == kind]


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def admin(process: Process) -> AdminApplication:
    return AdminApplication(process, may_publish=True)


async def watch(admin: AdminApplication, *acts: tuple[float, Callable[[], object]]) -> Watcher:
    """A watcher that stays 3.5 s; each act is done at its time."""
    watcher, began = Watcher(), trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watcher.run, admin)
        for at, act in acts:
            await trio.sleep_until(began + at)
            act()
        await trio.sleep_until(began + 3.5)
        watcher.left.set()
    watcher.events = [(at - began, kind, data) for at, kind, data in watcher.events]
    return watcher


async def test_everything_first_and_then_what_has_changed(
    process: Process, admin: AdminApplication, autojump_clock: MockClock
) -> None:
    counts = process.metrics.route(ROUTE)

    def send() -> None:
        counts.sent += 5

    watcher = await watch(admin, (1.5, send))
    assert watcher.headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert watcher.headers[b"cache-control"].startswith(b"no-store")
    [whole] = watcher.told("overview")
    assert whole["routes"][0]["path"] == ROUTE
    assert whole["publish"] is True
    assert whole["addresses"] == process.addresses
    assert set(whole["reasons"]["closed"]) == {reason.value for reason in CloseReason}
    assert [[route["sent"] for route in change["routes"]] for change in watcher.told("change")] == [[], [5], []]
    assert [round(at) for at, kind, _ in watcher.events if kind == "change"] == [1, 2, 3]
    assert SNAPSHOT_EVERY == 1


async def test_ends_and_resets_are_told_a_moment_after(
    process: Process, admin: AdminApplication, autojump_clock: MockClock
) -> None:
    counts = process.metrics.route(ROUTE)
    counts.closed(CloseReason.SLOW, "10.0.0.1", 3.0, 9)  # before anybody watched
    watcher = await watch(
        admin,
        (1.5, lambda: counts.closed(CloseReason.EXPIRED, "10.0.0.2", 4.0, 8)),
        (1.5, lambda: counts.reset(ResetReason.TRUNCATED)),
    )
    first, second = (each for each in watcher.events if each[1] == "closed")
    assert [record["client"] for record in first[2]] == ["10.0.0.1"]
    assert [(record["reason"], record["events"]) for record in second[2]] == [("expired", 8)]
    assert second[0] - 1.5 <= LOOK_EVERY
    [[reset]] = watcher.told("resets")
    assert (reset["route"], reset["reason"], reset["count"]) == (ROUTE, "truncated", 1)


async def test_the_broker_s_state_and_another_setup(
    process: Process, admin: AdminApplication, autojump_clock: MockClock
) -> None:
    def away() -> None:
        process.problem = "the broker is away: connection refused"

    watcher = await watch(admin, (0.5, away), (1.5, lambda: process.addresses.append("http://127.0.0.1:8081")))
    assert watcher.told("change")[0]["not_ready"] == "the broker is away: connection refused"
    assert watcher.told("change")[0]["connected"] is False
    assert [data["addresses"] for data in watcher.told("overview")] == [process.addresses[:1], process.addresses]


async def test_who_takes_nothing_is_let_go_and_places_are_given_back(
    admin: AdminApplication, autojump_clock: MockClock
) -> None:
    watchers = [Watcher() for _ in range(WATCHERS)]
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for watcher in watchers:
            nursery.start_soon(watcher.run, admin)
        await trio.testing.wait_all_tasks_blocked(0.01)
        refused = await request(admin, "GET", "/overview/stream")
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        watchers[0].stuck = True
        for watcher in watchers[1:]:
            watcher.left.set()
    assert trio.current_time() - began == pytest.approx(TAKE_WITHIN + SNAPSHOT_EVERY, abs=2 * LOOK_EVERY)
    assert (await watch(admin)).told("overview")


async def test_head_tells_nothing(admin: AdminApplication) -> None:
    response = await request(admin, "HEAD", "/overview/stream")
    assert (response.status, response.body) == (200, b"")
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
