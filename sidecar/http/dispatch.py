"""Which answer a request gets: an event stream, an error that will not pass, or the application's.

Strategy: the checks stand in one column, in the order a person would ask them: does a route take the path, is the
method right, does the client take event streams, are the parameters words. What will pass by itself is never
answered here with an error: EventSource gives up for good on any status but 200 (HTML §9.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import structlog
import trio

from sidecar.http.access import Denied, Gate, Granted, Unavailable
from sidecar.http.outlet import Header, StreamOutlet
from sidecar.http.proxy import Proxy
from sidecar.http.request import Request
from sidecar.http.routes import BadValueError, CompiledRoute, MissingClaimError, Values
from sidecar.http.stream import EventStream
from sidecar.http.streams import Streams
from sidecar.observe.reasons import CloseReason
from sidecar.routing import Match, RouteTable

_log = structlog.get_logger("sidecar.stream")

Spawn = Callable[..., None]


class Taken(Protocol):
    """A request that a route has taken."""

    def gone(self) -> None:
        """The response is over."""


class Dispatch:
    """The routes of one configuration, in front of the streams of the process."""

    def __init__(self, routes: Iterable[CompiledRoute], streams: Streams, proxy: Proxy | None = None) -> None:
        self.routes = tuple(routes)
        self.proxy = proxy
        """The way to the application, for what no route takes."""
        self._streams = streams
        self._table = RouteTable([(route.pattern, route) for route in self.routes])

    def match(self, path: bytes) -> Match[CompiledRoute] | None:
        """Which route takes a raw path; None leaves it to the application."""
        return self._table.match(path)

    def take(self, match: Match[CompiledRoute], request: Request, outlet: StreamOutlet, spawn: Spawn) -> Taken:
        """Answer a request that a route takes. ``spawn`` starts tasks in the connection's nursery."""
        route = match.value
        if route.gate is not None and (preflight := route.gate.preflight(request)) is not None:
            return _reply(outlet, preflight.status, preflight.headers, b"")
        refusal = _refusal(request)
        if refusal is not None:
            status, headers, fact = refusal
            return _refuse(outlet, status, [*headers, *(route.gate.headers(request) if route.gate else ())], fact)
        visit = Visit(self._streams, match, request, outlet, spawn)
        if route.gate is None:
            return visit.admit(Granted(request.client[0] if request.client else "unix"))
        visit.asking = trio.CancelScope()
        spawn(visit.ask, route.gate, visit.asking)
        return visit


class Visit:
    """A request on its way in: from the gate to its event stream."""

    __slots__ = ("_match", "_outlet", "_request", "_spawn", "_stream", "_streams", "asking")

    def __init__(
        self,
        streams: Streams,
        match: Match[CompiledRoute],
        request: Request,
        outlet: StreamOutlet,
        spawn: Spawn,
    ) -> None:
        self._streams = streams
        self._match = match
        self._request = request
        self._outlet = outlet
        self._spawn = spawn
        self.asking: trio.CancelScope | None = None
        """Around the question to the gate; its client may leave before it is put."""
        self._stream: Taken | None = None

    async def ask(self, gate: Gate, asking: trio.CancelScope) -> None:
        """Ask the gate, for as long as the client stays, and answer accordingly."""
        with asking:
            verdict = await gate.check(self._request, self._match.parameters)
        if asking.cancel_called:
            return
        if isinstance(verdict, Denied):
            _log.info("denied", route=self._match.value.settings.path, status=verdict.status, reason=verdict.reason)
            self._stream = _reply(self._outlet, verdict.status, verdict.headers, verdict.body)
        else:
            self._stream = self.admit(verdict)

    def admit(self, verdict: Granted | Unavailable) -> Taken:
        """Open the event stream, or say what is wrong with the request."""
        route, request = self._match.value, self._request
        try:
            stream = EventStream(self._streams, route, request, self._outlet, self._spawn, verdict)
            if isinstance(verdict, Granted):
                stream.open(route.wanted(self._match.parameters, _values(self._match.parameters, request, verdict)))
            else:
                _log.warning("cannot ask who may read", route=route.settings.path, problem=verdict.reason)
                stream.turn_away(CloseReason.BROKER_REFUSED)
        except BadValueError as error:
            return _refuse(self._outlet, error.status, verdict.headers, str(error))
        return stream

    def gone(self) -> None:
        """The response is over."""
        if self._stream is not None:
            self._stream.gone()
        elif self.asking is not None:
            self.asking.cancel()


def _refusal(request: Request) -> tuple[int, Sequence[Header], str] | None:
    if request.method not in ("GET", "HEAD"):
        return 405, [(b"allow", b"GET, HEAD")], f"{request.method} is not for event streams; use GET"
    if not accepts_event_stream(request.header(b"accept")):
        return 406, [], "this is an event stream; ask for Accept: text/event-stream"
    return None


def accepts_event_stream(accept: str) -> bool:
    """Whether an ``Accept`` field (RFC 9110 §12.5.1) allows text/event-stream; absent, everything is allowed."""
    if not accept.strip():
        return True
    best = (0, 0.0)
    for element in accept.lower().split(","):
        media, *parameters = (part.strip() for part in element.split(";"))
        if media in _MEDIA:
            best = max(best, (_MEDIA[media], _quality(parameters)))
    return best[1] > 0


_MEDIA = {"*/*": 1, "text/*": 2, "text/event-stream": 3}


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _values(parameters: dict[str, str], request: Request, granted: Granted) -> Values:
    def value(name: str) -> str:
        if name in parameters:
            return parameters[name]
        family, _, member = name.partition(".")
        if family == "query":
            return _query_value(member, request)
        known = granted.value(name)
        if known is None:
            raise MissingClaimError(f"nothing says what {name} is")
        return known

    return value


def _query_value(name: str, request: Request) -> str:
    try:
        return request.query_fields()[name]
    except KeyError:
        raise BadValueError(f"the query must name {name}") from None


class _Replied:
    """A request that was answered with a status of its own."""

    def gone(self) -> None:
        """Nothing is left to do."""


def _refuse(outlet: StreamOutlet, status: int, headers: Sequence[Header], fact: str) -> Taken:
    plain = (b"content-type", b"text/plain; charset=utf-8")
    return _reply(outlet, status, [plain, *headers], fact.encode() + b"\n")


def _reply(outlet: StreamOutlet, status: int, headers: Sequence[Header], body: bytes) -> Taken:
    outlet.reply(status, headers, body)
    return _Replied()
