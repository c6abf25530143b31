"""The dispatch table and its event streams on a clock that jumps: requests go in, outlets remember what came out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from sidecar.backlog import Backlog
from sidecar.config.model import Config
from sidecar.forwarded import Proxies
from sidecar.http.dispatch import Dispatch, Taken
from sidecar.http.gatehouse import Gatehouse
from sidecar.http.outlet import Header
from sidecar.http.request import Request, split_target
from sidecar.http.routes import compile_routes
from sidecar.http.streams import Streams
from sidecar.hub.port import Lane
from tests.hub.stand_ins import OneLane, Room, room
from tests.lab.eventstream import Parser


class Answer:
    """An outlet that keeps what is written, and falls behind when a test says so."""

    framing: Hashable = "plain"

    def __init__(self) -> None:
        self.backlog = Backlog(1, 1, "disconnect")
        self.on_full: Callable[[], None] = lambda: None
        self.on_behind: Callable[[], None] = lambda: None
        self.on_clear: Callable[[], None] = lambda: None
        self.on_gap: Callable[[], bytes] = lambda: b""
        self.behind = False
        self.status = 0
        self.headers: list[Header] = []
        self.body = b""
        self.times: list[float] = []
        self.end: str | None = None
        self.taken: Taken | None = None
        self.stuck = False
        """Whether the client's socket takes no end."""

    def open_lane(self) -> Lane:
        return OneLane()

    @property
    def pending(self) -> int:
        return self.backlog.size

    @property
    def stream(self) -> Parser:
        parser = Parser()
        parser.feed(self.body)
        return parser

    def header(self, name: bytes) -> bytes | None:
        return dict(self.headers).get(name)

    def start(self, status: int, headers: Sequence[Header], first: bytes = b"") -> None:
        assert not self.status, "two heads for one request"
        self.status, self.headers = status, list(headers)
        if first:
            self.write([first])

    def reply(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        self.start(status, headers)
        self.body = body
        self._over("clean")

    def write(self, blocks: Sequence[bytes]) -> None:
        assert self.status, "bytes before the head"
        assert self.end != "clean", "bytes after the end"
        if not self.behind:
            self.body += b"".join(blocks)
            self.times.append(trio.current_time())
            return
        for block in blocks:
            if not self.backlog.push(block):
                self.on_full()
                return

    def heartbeat(self, block: bytes) -> None:
        if not self.behind:
            self.write([block])

    def finish(self) -> None:
        if not self.stuck:
            self._over("clean")

    def settled(self) -> bool:
        return not self.behind

    def drop(self) -> None:
        self.backlog.clear()

    def abort(self) -> None:
        self._over("aborted")

    def forget(self) -> None:
        self.on_full = self.on_behind = self.on_clear = lambda: None

    def leave(self) -> None:
        """The client goes."""
        self._over("left")

    def _over(self, how: str) -> None:
        if self.end is None:
            self.end = how
            trio.lowlevel.spawn_system_task(self._gone)

    async def _gone(self) -> None:
        assert self.taken is not None
        self.taken.gone()


@dataclass
class Desk:
    """A dispatch table in front of a hub."""

    dispatch: Dispatch
    streams: Streams
    room: Room
    tasks: list[str] = field(default_factory=list)

    def ask(
        self,
        target: str,
        method: str = "GET",
        *,
        accept: str | None = "text/event-stream",
        stuck: bool = False,
        headers: Sequence[Header] = (),
    ) -> Answer | None:
        """Answer one request; None where no route takes it."""
        path, query = split_target(target.encode("latin-1"))
        match = self.dispatch.match(path)
        if match is None:
            return None
        fields = [*([(b"accept", accept.encode())] if accept is not None else []), *headers]
        request = Request(method, path, query, fields, "1.1", "http", ("192.0.2.1", 5))
        answer = Answer()
        answer.stuck = stuck
        answer.taken = self.dispatch.take(match, request, answer, self._spawn)
        return answer

    async def open(self, target: str = "/events/a", **more: Any) -> Answer:
        """Open an event stream and let everything happen that can."""
        answer = self.ask(target, **more)
        assert answer is not None
        await trio.testing.wait_all_tasks_blocked()
        return answer

    def _spawn(self, call: Callable[..., Any], *args: object) -> None:
        self.room.nursery.start_soon(call, *args)

    async def quiet(self) -> None:
        """Nothing of any stream is left: no stream, no deadline, and after a while no binding."""
        await trio.testing.wait_all_tasks_blocked()
        assert not self.streams.open
        assert all(subscription.retiring for subscription in self.room.hub.subscriptions)
        await trio.sleep(60)
        assert (len(self.streams.deadlines), self.room.broker.keys) == (0, set())
        assert not self.room.hub.subscriptions
        assert all(route.metrics.subscribers == 0 for route in self.dispatch.routes)


@asynccontextmanager
async def desk(*routes: dict[str, Any]) -> AsyncIterator[Desk]:
    """A desk with these routes."""
    config = Config.model_validate({"broker": {"url": ["memory://"]}, "routes": list(routes)})
    gatehouse = Gatehouse()
    async with room() as hub:
        compiled = compile_routes(config.routes, hub.metrics, lambda access: gatehouse.gate(access, Proxies.parse([])))
        streams = Streams(hub.hub, hub.hub.deadlines, hub.metrics)
        yield Desk(Dispatch(compiled, streams), streams, hub)
