"""hypercorn's protocols with our event streams in them: the one file that touches hypercorn's insides.

Strategy: hypercorn parses requests, keeps the rules of HTTP/1.1 (h11) and HTTP/2 (h2), and runs ASGI applications.
Its two protocol classes create an object for each request, and there we step in: a request that a route takes gets an
outlet instead of an ASGI task, and from then on the outlet writes to the wire directly. Every other request stays
hypercorn's. `tests/server/test_hypercorn_insides.py` says in plain words when what is used here has moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import h2.events
import h2.exceptions
import h11
from hypercorn.config import Config
from hypercorn.events import Event, RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import filter_pseudo_headers

from sidecar.http.dispatch import Dispatch, Taken
from sidecar.http.request import Request, split_target
from sidecar.server.http1 import Http1Outlet
from sidecar.server.http2 import Cork, Http2Outlet
from sidecar.server.outlet import Header

if TYPE_CHECKING:
    from hypercorn.trio.task_group import TaskGroup
    from hypercorn.trio.worker_context import WorkerContext

    from sidecar.server.wire import Wire

STREAMS_PER_CONNECTION: Final = 2000
"""Concurrent HTTP/2 streams on one connection (hypercorn's 100 would end a connection with more)."""


def settings(logger: type[Any]) -> Config:
    """Return hypercorn's configuration with the limits that break event streams raised."""
    config = Config()
    config.h2_max_concurrent_streams = STREAMS_PER_CONNECTION
    config.keep_alive_max_requests = 2**62
    config.h11_max_incomplete_size = 65536
    config.include_server_header = False
    config.logger_class = logger
    return config


@dataclass(slots=True)
class Ground:
    """What every protocol of a connection stands on."""

    app: AppWrapper
    config: Config
    context: WorkerContext
    dispatch: Callable[[], Dispatch]
    task_group: TaskGroup
    wire: Wire
    client: tuple[str, int] | None
    server: tuple[str, int] | None
    send: Callable[[Event], Any]

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""
        return "https" if self.wire.secure else "http"

    def arguments(self) -> tuple[Any, ...]:
        """The arguments of hypercorn's protocol classes, in their order."""
        state = ConnectionState({})
        return (
            self.app,
            self.config,
            self.context,
            self.task_group,
            state,
            self.wire.secure,
            self.client,
            self.server,
            self.send,
        )


class _InPlace:
    """Stands where hypercorn expects its HTTPStream, for a request that a route has taken."""

    __slots__ = ("taken",)
    idle = False

    def __init__(self) -> None:
        self.taken: Taken | None = None

    async def handle(self, event: StreamEvent) -> None:
        """A request's body is of no interest; the end of its stream is."""
        if isinstance(event, StreamClosed):
            self.gone()

    def gone(self) -> None:
        """Tell whoever has taken the request, once."""
        taken, self.taken = self.taken, None
        if taken is not None:
            taken.gone()


class Http1(H11Protocol):
    """One HTTP/1.0 or HTTP/1.1 connection."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(*ground.arguments())
        self.ground = ground
        self.wire = ground.wire
        self.chunked = True
        self._head_only = False

    async def _create_stream(self, request: h11.Request) -> None:
        path, query = split_target(request.target)
        dispatch = self.ground.dispatch()
        match = dispatch.match(path)
        if match is None:
            await super()._create_stream(request)
            return
        self.keep_alive_requests += 1
        version = request.http_version.decode()
        method = request.method.decode("ascii")
        self.chunked = version == "1.1" and method != "HEAD"
        self._head_only = method == "HEAD"
        seen = Request(method, path, query, list(request.headers), version, self.ground.scheme, self.client)
        place = _InPlace()
        self.stream = place  # type: ignore[assignment]  # it is asked for `handle` only
        place.taken = dispatch.take(match, seen, Http1Outlet(self), self.task_group.spawn)

    def abandon(self) -> None:
        """The connection is over: tell the stream on it, without waiting for anything."""
        place: object = self.stream
        if isinstance(place, _InPlace):
            place.gone()

    def start(self, status: int, headers: Sequence[Header]) -> None:
        """Write the head of an event stream; h11 chooses chunks, or for HTTP/1.0 the end of the connection."""
        self._send(h11.Response(status_code=status, headers=self._all(headers)))

    def reply(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Write a whole answer."""
        sized = [*headers, (b"content-length", b"%d" % len(body))]
        self._send(h11.Response(status_code=status, headers=self._all(sized)))
        if not self._head_only:
            self._send(h11.Data(data=body))

    def complete(self) -> None:
        """End the message, then let hypercorn use the connection again or close it."""
        self._send(h11.EndOfMessage())
        self.task_group.spawn(self._maybe_recycle)

    def _all(self, headers: Sequence[Header]) -> list[Header]:
        return list(chain(headers, self.config.response_headers("h11")))

    def _send(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            self.wire.abort()  # the client broke the protocol meanwhile: nothing can be said any more
        else:
            self.wire.write(data or b"")


class Http2(H2Protocol):
    """One HTTP/2 connection."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(*ground.arguments())
        self.ground = ground
        self.wire = ground.wire
        self.cork = Cork(ground.wire, self.connection)
        self.wire.on_room = self.cork.refill

    async def handle(self, event: Event) -> None:
        """After each read, those who waited for a window go on."""
        await super().handle(event)
        if isinstance(event, RawData):
            self.cork.refill()

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        pseudo = {name: value for name, value in request.headers if name.startswith(b":")}
        path, query = split_target(pseudo.get(b":path", b""))
        dispatch = self.ground.dispatch()
        match = dispatch.match(path)
        if match is None:
            await super()._create_stream(request)
            return
        self.keep_alive_requests += 1
        method = pseudo[b":method"].decode("ascii")
        headers = filter_pseudo_headers(request.headers)
        seen = Request(method, path, query, headers, "2", self.ground.scheme, self.client)
        stream_id = request.stream_id
        outlet = Http2Outlet(self, stream_id, self.connection.streams[stream_id])
        place = _InPlace()
        self.streams[stream_id] = place  # type: ignore[assignment]  # asked for `handle` and `idle` only
        place.taken = dispatch.take(match, seen, outlet, self.task_group.spawn)

    def abandon(self) -> None:
        """The connection is over: tell the streams on it, without waiting for anything."""
        places: tuple[object, ...] = tuple(self.streams.values())
        for place in places:
            if isinstance(place, _InPlace):
                place.gone()

    async def _priority_updated(self, event: h2.events.PriorityUpdated) -> None:
        """Ignore it: RFC 9113 §5.3 did away with priorities, and the tree would keep what the client names."""

    def start(self, stream_id: int, status: int, headers: Sequence[Header]) -> None:
        """Write the head of a response."""
        fields = [(b":status", b"%d" % status), *headers, *self.config.response_headers("h2")]
        self._do(lambda: self.connection.send_headers(stream_id, fields))

    def complete(self, stream_id: int) -> None:
        """END_STREAM."""
        self._do(lambda: self.connection.end_stream(stream_id))
        self.task_group.spawn(self.stream_send, StreamClosed(stream_id=stream_id))

    def reset(self, stream_id: int) -> None:
        """RST_STREAM with CANCEL (RFC 9113 §7)."""
        self._do(lambda: self.connection.reset_stream(stream_id, 0x8))
        self.task_group.spawn(self.stream_send, StreamClosed(stream_id=stream_id))

    def _do(self, act: Callable[[], None]) -> None:
        try:
            act()
        except h2.exceptions.ProtocolError:
            return  # the client has closed the stream or the connection meanwhile
        self.wire.write(self.connection.data_to_send())
