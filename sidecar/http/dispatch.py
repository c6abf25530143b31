"""Which answer a request gets: an event stream, an error that will not pass, or the application's.

Strategy: the checks stand in one column, in the order a person would ask them: does a route take the path, is the
method right, does the client take event streams, are the parameters words. What will pass by itself is never
answered here with an error: EventSource gives up for good on any status but 200 (HTML §9.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from sidecar.http.request import Request
from sidecar.http.routes import BadValueError, CompiledRoute, Values
from sidecar.http.stream import EventStream, Header, StreamOutlet, Streams
from sidecar.routing import Match, RouteTable

Spawn = Callable[..., None]


class Taken(Protocol):
    """A request that a route has taken."""

    def gone(self) -> None:
        """The response is over."""


class Dispatch:
    """The routes of one configuration, in front of the streams of the process."""

    def __init__(self, routes: Iterable[CompiledRoute], streams: Streams) -> None:
        self.routes = tuple(routes)
        self._streams = streams
        self._table = RouteTable([(route.pattern, route) for route in self.routes])

    def match(self, path: bytes) -> Match[CompiledRoute] | None:
        """Which route takes a raw path; None leaves it to the application."""
        return self._table.match(path)

    def take(self, match: Match[CompiledRoute], request: Request, outlet: StreamOutlet, spawn: Spawn) -> Taken:
        """Answer a request that a route takes. ``spawn`` starts tasks in the connection's nursery."""
        route = match.value
        refusal = _refusal(request)
        if refusal is not None:
            return _reply(outlet, *refusal)
        try:
            wanted = route.wanted(match.parameters, _values(match.parameters, request))
            stream = EventStream(self._streams, route, request, outlet, spawn)
        except BadValueError as error:
            return _reply(outlet, 400, [], str(error))
        stream.open(wanted)
        return stream


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


def _values(parameters: dict[str, str], request: Request) -> Values:
    def value(name: str) -> str:
        if name in parameters:
            return parameters[name]
        return _query_value(name.removeprefix("query."), request)

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


def _reply(outlet: StreamOutlet, status: int, headers: Sequence[Header], fact: str) -> Taken:
    outlet.reply(status, [(b"content-type", b"text/plain; charset=utf-8"), *headers], fact.encode() + b"\n")
    return _Replied()
