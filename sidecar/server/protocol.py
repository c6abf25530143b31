"""hypercorn's protocols with our event streams in them: the one file that touches hypercorn's insides.

Strategy: hypercorn parses requests, keeps the rules of HTTP/1.1 (h11) and HTTP/2 (h2), and runs ASGI applications.
Its two protocol classes create an object for each request, and there we step in: a request that a route takes gets an
outlet instead of an ASGI task, and from then on the outlet writes to the wire directly. Every other request stays
hypercorn's. `tests/server/test_hypercorn_insides.py` says in plain words when what is used here has moved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import h2.events
import h2.exceptions
import h11
import trio
from h2.settings import SettingCodes, Settings
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol, H11WSConnection
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import filter_pseudo_headers
from priority.priority import PriorityTree

from sidecar.http.dispatch import Dispatch, Spawn, Taken
from sidecar.http.listening import Listening
from sidecar.http.outlet import StreamOutlet
from sidecar.http.passing import Fields, Head, contradiction, upgrade
from sidecar.http.proxy import Proxy
from sidecar.http.request import Request, split_target
from sidecar.server.http1 import Http1Outlet
from sidecar.server.http2 import Cork, Http2Outlet
from sidecar.server.outlet import Header
from sidecar.server.passage import TEXT, Http11, Passage, Passage1
from sidecar.server.passage2 import Passage2, head2, websocket_head

if TYPE_CHECKING:
    from hypercorn.trio.task_group import TaskGroup
    from hypercorn.trio.worker_context import WorkerContext

    from sidecar.server.wire import Wire

Taker = Callable[[StreamOutlet, Spawn], Taken]

STREAMS_PER_CONNECTION: Final = 2000
"""Concurrent HTTP/2 streams on one connection (hypercorn's 100 would end a connection with more)."""
UPLOAD: Final = 262144
"""Bytes of one request's body that an HTTP/2 client may send before the application has taken any."""
UPLOADS: Final = 1048576
"""The same for all requests of one connection together."""
_VISIBLE: Final = re.compile(rb"[!-~]+")


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
    dispatch: Callable[[], Dispatch | Listening]
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
        self.connection: Any = Http11(h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size)

    async def _check_protocol(self, event: h11.Request) -> None:
        """HTTP/2 by prior knowledge, as the first words of a connection (RFC 9113 §3.3), and in no other way.

        hypercorn would follow ``Upgrade: h2c`` too. Behind a proxy that passes upgrades on, the client would then speak
        with us past that proxy's rules and in its name: a trusted one's word for who the client is.
        """
        first = self.keep_alive_requests == 0
        if first and (event.method, event.target, event.http_version) == (b"PRI", b"*", b"2.0"):
            raise H2ProtocolAssumedError(b"PRI * HTTP/2.0\r\n\r\n" + self.connection.trailing_data[0])

    async def _create_stream(self, request: h11.Request) -> None:
        path, query = split_target(request.target)
        dispatch = self.ground.dispatch()
        match = dispatch.match(path)
        self.connection.patient = False
        if match is None and dispatch.proxy is not None:
            self._pass(request, dispatch.proxy)
            return
        version, method, fields = request.http_version.decode(), request.method.decode("ascii"), list(request.headers)
        self.chunked = version == "1.1" and method != "HEAD"
        self._head_only = method == "HEAD"
        if fact := contradiction({name for name, _ in fields}, version):
            self._put()
            Http1Outlet(self).reply(400, [TEXT, (b"connection", b"close")], fact.encode() + b"\n")
        elif match is None:
            await super()._create_stream(request)
        else:
            self.keep_alive_requests += 1
            seen = Request(method, path, query, fields, version, self.ground.scheme, self.client)
            self._put().taken = dispatch.take(match, seen, Http1Outlet(self), self.task_group.spawn)

    def _put(self) -> _InPlace:
        """Stand in the place of hypercorn's stream."""
        self.stream = place = _InPlace()  # type: ignore[assignment]  # it is asked for `handle` only
        return place

    def _pass(self, request: h11.Request, proxy: Proxy) -> None:
        """Let the application answer."""
        self.keep_alive_requests += 1
        fields, version = list(request.headers), request.http_version.decode()
        scheme, peer, body = self.ground.scheme, self.client, _announces_a_body(fields)
        head = Head(request.method, request.target, fields, version, scheme, peer, body)
        self.connection.patient = True
        passage = Passage1(self, head)
        if upgrade(head):
            self.connection.next_event()  # the end of the request, so that h11 is ready to switch
            passage.switching(H11WSConnection(self.connection))
        self.stream = passage  # type: ignore[assignment]  # it is asked for `handle` only
        self.task_group.spawn(passage.exchange(proxy, head).run)

    def abandon(self) -> None:
        """The connection is over: tell the stream on it, without waiting for anything."""
        place: object = self.stream
        if isinstance(place, _InPlace | Passage):
            place.gone()

    def say_goodbye(self) -> None:
        """HTTP/1.1 has no word for it but the end."""

    def dated(self, fields: Fields) -> Fields:
        """Add the date, unless the application has (RFC 9110 §6.6.1)."""
        return fields if any(name == b"date" for name, _ in fields) else self._all(fields)

    def give(self, head: Head, take: Taker) -> None:
        """A passage's request is a taker's from here on."""
        self.chunked, self._head_only = head.version == "1.1", False
        self._put().taken = take(Http1Outlet(self), self.task_group.spawn)

    async def recycle(self) -> None:
        """Use the connection again, or close it where that cannot be."""
        await self._maybe_recycle()

    async def close(self) -> None:
        """Close the connection in good order."""
        await self.send(Closed())

    def start(self, status: int, headers: Sequence[Header], first: bytes) -> None:
        """Write the head of an event stream; h11 chooses chunks, or for HTTP/1.0 the end of the connection.

        What follows it goes with it: one system call and one packet less for each stream.
        """
        self._send(h11.Response(status_code=status, headers=self._all(headers)), first)

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

    def _send(self, event: h11.Response | h11.Data | h11.EndOfMessage, more: bytes = b"") -> None:
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            self.wire.abort()  # the client broke the protocol meanwhile: nothing can be said any more
        else:
            self.wire.write((data or b"") + more)


class Http2(H2Protocol):
    """One HTTP/2 connection."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(*ground.arguments())
        self.ground = ground
        self.wire = ground.wire
        self.cork = Cork(ground.wire, self.connection)
        self.room = trio.lowlevel.ParkingLot()
        """Where passages wait for a window or the socket."""
        self.wire.on_room = self._refill
        # hypercorn's tree has places for 1000, and one request more would end the connection.
        self.priority = PriorityTree(maximum_streams=2 * STREAMS_PER_CONNECTION)
        given = {SettingCodes(code): value for code, value in self.connection.local_settings.items()}
        given[SettingCodes.INITIAL_WINDOW_SIZE] = UPLOAD
        self.connection.local_settings = Settings(client=False, initial_values=given)

    async def initiate(self, headers: list[tuple[bytes, bytes]] | None = None, settings: bytes | None = None) -> None:
        """Begin."""
        await super().initiate(headers, settings)
        more = UPLOADS - self.connection.inbound_flow_control_window
        self._do(lambda: self.connection.increment_flow_control_window(more))

    async def handle(self, event: Event) -> None:
        """After each read, those who waited for a window go on."""
        await super().handle(event)
        if isinstance(event, RawData):
            self._refill()

    def _refill(self) -> None:
        self.cork.refill()
        self.room.unpark_all()

    async def _handle_events(self, events: Iterable[h2.events.Event]) -> None:
        await super()._handle_events(self._others(events))  # type: ignore[arg-type]  # it is iterated once

    def _others(self, events: Iterable[h2.events.Event]) -> Iterator[h2.events.Event]:
        """Leave out what hypercorn must not see: the bodies of passages, for which nobody may wait, and those of
        requests that have been answered already, which for hypercorn end the connection.
        """
        for event in events:
            place: object = self.streams.get(getattr(event, "stream_id", None) or 0)
            if isinstance(event, h2.events.TrailersReceived) and isinstance(place, Passage2):
                place.intake.end(event.headers or ())
            elif isinstance(event, h2.events.DataReceived) and isinstance(place, Passage2):
                place.intake.feed(event.data or b"", event.flow_controlled_length or 0)
            elif isinstance(event, h2.events.DataReceived) and place is None:
                self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            else:
                yield event

    async def _create_stream(self, request: h2.events.RequestReceived) -> None:
        below = self.connection.streams.get(request.stream_id)
        if below is None:
            return  # the client has taken it back in the same read, and h2 has forgotten it
        pseudo = {name: value for name, value in request.headers if name.startswith(b":")}
        path, query = split_target(pseudo.get(b":path", b""))
        dispatch = self.ground.dispatch()
        match = dispatch.match(path)
        if match is None and dispatch.proxy is not None:
            self._pass(request, dispatch.proxy, pseudo.get(b":protocol"))
            return
        outlet = Http2Outlet(self, request.stream_id, below, head_only=pseudo[b":method"] == b"HEAD")
        if not _legible(pseudo):
            self._put(request.stream_id)
            outlet.reply(400, [TEXT], b"the request needs a method and a path of visible ASCII\n")
        elif match is None:
            await super()._create_stream(request)
        else:
            self.keep_alive_requests += 1
            method, headers = pseudo[b":method"].decode(), filter_pseudo_headers(request.headers)
            seen = Request(method, path, query, headers, "2", self.ground.scheme, self.client)
            self._put(request.stream_id).taken = dispatch.take(match, seen, outlet, self.task_group.spawn)

    def _put(self, stream_id: int) -> _InPlace:
        """Stand in the place of hypercorn's stream."""
        self.streams[stream_id] = place = _InPlace()  # type: ignore[assignment]  # asked for `handle` and `idle` only
        return place

    def _pass(self, request: h2.events.RequestReceived, proxy: Proxy, protocol: bytes | None) -> None:
        """Let the application answer."""
        self.keep_alive_requests += 1
        body = request.stream_ended is None
        head, key = head2(request.headers, self.ground.scheme, self.client, body=body), b""
        if head.method == b"CONNECT" and protocol == b"websocket":
            head, key = websocket_head(head)
        passage = Passage2(self, request.stream_id, head, key=key)
        self.streams[request.stream_id] = passage  # type: ignore[assignment]  # asked for `handle` and `idle` only
        self.task_group.spawn(passage.exchange(proxy, head).run)

    def abandon(self) -> None:
        """The connection is over: tell the streams on it, without waiting for anything."""
        places: tuple[object, ...] = tuple(self.streams.values())
        for place in places:
            if isinstance(place, _InPlace | Passage):
                place.gone()

    def say_goodbye(self) -> None:
        """GOAWAY, so that the client knows which requests were not looked at (RFC 9113 §6.8)."""
        self.cork.flush()
        self._do(self.connection.close_connection)

    def dated(self, fields: Fields) -> Fields:
        """Add the date, unless the application has (RFC 9110 §6.6.1)."""
        given = any(name == b"date" for name, _ in fields)
        return fields if given else [*fields, *self.config.response_headers("h2")]

    def headers(self, stream_id: int, fields: Sequence[Header], *, last: bool = False) -> None:
        """Write a HEADERS frame."""
        self._do(lambda: self.connection.send_headers(stream_id, fields, end_stream=last))

    def end_stream(self, stream_id: int) -> None:
        """END_STREAM."""
        self._do(lambda: self.connection.end_stream(stream_id))

    def rst(self, stream_id: int, code: int) -> None:
        """RST_STREAM (RFC 9113 §6.4), behind what is corked."""
        self.cork.flush()
        self._do(lambda: self.connection.reset_stream(stream_id, code))

    def acknowledge(self, octets: int, stream_id: int) -> None:
        """Open the windows again for what was taken of a body (RFC 9113 §6.9)."""
        self._do(lambda: self.connection.acknowledge_received_data(octets, stream_id))

    def give(self, stream_id: int, take: Taker) -> None:
        """A passage's request is a taker's from here on."""
        outlet = Http2Outlet(self, stream_id, self.connection.streams[stream_id])
        self._put(stream_id).taken = take(outlet, self.task_group.spawn)

    async def recycle(self, stream_id: int) -> None:
        """An exchange is over."""
        await self.stream_send(StreamClosed(stream_id=stream_id))

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


def _legible(pseudo: Mapping[bytes, bytes]) -> bool:
    """Whether an HTTP/2 request's method and path are what HTTP/1.1 would take too (RFC 9110 §9.1, RFC 9112 §3.2).

    h2 lets any bytes through; hypercorn would end the connection over them.
    """
    return all(_VISIBLE.fullmatch(pseudo.get(name, b"")) for name in (b":method", b":path"))


def _announces_a_body(fields: Fields) -> bool:
    """Whether a body follows an HTTP/1.x request's head (RFC 9112 §6.3)."""
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in fields)
