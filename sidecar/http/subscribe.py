"""The application decides: an answer with ``Sidecar-Subscribe`` turns its request into an event stream.

Strategy: whoever answers the request knows best who may hear what. So a proxied GET that takes event streams may be
answered with a field instead of a body, and the client is subscribed as if a route had taken its request: replay,
heartbeats and backlog as the configuration's offer says, the application's cookies and further fields in the answer.
The application's connection is free again. On a reconnect it is asked anew, so what it said is never older than the
stream. It can give out only what ``upstream.subscribe`` offers; anything else is a broken answer, 502.

The field is a dictionary (RFC 9651 §3.2)::

    Sidecar-Subscribe: exchange="orders", binding_key=("order.42.*" "notice.42"), event="{type}", heartbeat=15

with ``exchange`` or ``stream``; ``binding_key`` is one string or an inner list and taken literally, braces too; the
others are optional, and the offer's where they are absent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, Final

import http_sf

from sidecar.config.model import Heartbeat, Offer, Route
from sidecar.config.values import GrammarError, binding_key, template
from sidecar.forwarded import Proxies, client_address, client_group
from sidecar.http.access import Granted
from sidecar.http.dispatch import Spawn, Taken, Visit, accepts_event_stream
from sidecar.http.outlet import StreamOutlet
from sidecar.http.passing import Fields, Head, answered
from sidecar.http.proxy import SUBSCRIBE
from sidecar.http.request import Request, split_target
from sidecar.http.routes import CompiledRoute, compile_routes
from sidecar.http.streams import Streams
from sidecar.http.upstream import UpstreamError
from sidecar.observe.metrics import Metrics
from sidecar.routing import Match

REMEMBERED: Final = 1024
"""Different subscriptions whose compiled form is kept; clients with equal ones share what the hub does for them."""
HEARTBEATS: Final = (0.1, 3600.0)
"""Seconds the application may ask for between signs of life."""

_OF_THE_BODY: Final = frozenset(
    {b"accept-ranges", b"cache-control", b"content-encoding", b"content-language", b"content-length", b"content-range"}
    | {b"content-type", b"date", b"etag", b"expires", b"last-modified", b"trailer", b"x-accel-buffering", SUBSCRIBE}
)
"""What of the answer's head spoke of a body that is not sent, or is written anew."""

Taker = Callable[[StreamOutlet, Spawn], Taken]


class Offers:
    """What the application may subscribe its clients to."""

    def __init__(self, offers: Sequence[Offer], streams: Streams, metrics: Metrics, proxies: Proxies) -> None:
        routes = [_as_route(offer) for offer in offers]
        self._offers = {_name(route.settings): route for route in compile_routes(routes, metrics, _no_gate)}
        self._known: dict[bytes, CompiledRoute] = {}
        self._streams = streams
        self._metrics = metrics
        self._proxies = proxies

    def __repr__(self) -> str:
        return f"<Offers {', '.join(' '.join(name) for name in self._offers)}>"

    def taker(self, head: Head, status: int, fields: Fields) -> Taker | None:
        """What takes this request over, for an answer that asks for it; None for any other.

        Raises `UpstreamError` where it asks for what is not offered, or in words that cannot be understood.
        """
        said = b", ".join(value for name, value in fields if name == SUBSCRIBE)
        if not said or status != 200 or head.method != b"GET" or head.body:
            return None
        request = _request(head)
        if not accepts_event_stream(request.header(b"accept")):
            return None
        passed = [field for field in answered(status, fields) if field[0] not in _OF_THE_BODY]
        granted = Granted(client_group(client_address(head.peer, head.fields, self._proxies)), headers=passed)
        match = Match(self.route(said), {})
        return lambda outlet, spawn: Visit(self._streams, match, request, outlet, spawn).admit(granted)

    def route(self, said: bytes) -> CompiledRoute:
        """The route that a field's value describes; the same for the same words. Raises `UpstreamError`."""
        route = self._known.pop(said, None)
        if route is None:
            try:
                route = self._compile(http_sf.parse(said, tltype="dictionary"))
            except ValueError as error:
                raise UpstreamError(502, "the application's answer is broken", f"Sidecar-Subscribe: {error}") from error
        self._known[said] = route
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return route

    def retire(self, within: float) -> None:
        """The configuration has changed: end what was given out, over so many seconds; who comes back is asked for."""
        routes = {*self._known.values(), *(stream.route for stream in self._streams.open)}
        gone = {route for route in routes if route.settings.path.startswith(_PREFIX)}
        for route in gone:
            route.retired = True
        self._streams.retire(gone, within)

    def _compile(self, members: Any) -> CompiledRoute:
        given = {name: value for name, (value, _parameters) in members.items()}
        if unknown := given.keys() - {"exchange", "stream", "binding_key", "event", "heartbeat"}:
            raise ValueError(f"{min(unknown)} is no key of it")
        sources = [(kind, _string(kind, given[kind])) for kind in ("exchange", "stream") if kind in given]
        if len(sources) != 1:
            raise ValueError("it must name an exchange or a stream")
        base = self._offers.get(sources[0])
        if base is None:
            raise ValueError(f"upstream.subscribe offers no {sources[0][0]} of this name")
        settings = base.settings.model_copy(update=_changes(given))
        return CompiledRoute(settings, self._metrics, base.source)


def _changes(given: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if "binding_key" in given:
        changes["binding_key"] = _keys(given["binding_key"])
    if "event" in given:
        changes["event"] = template(_string("event", given["event"]))
    if "heartbeat" in given:
        changes["heartbeat"] = _heartbeat(given["heartbeat"])
    return changes


def _keys(value: Any) -> list[str]:
    keys = [key for key, _parameters in value] if isinstance(value, list) else [value]
    if not keys:
        raise GrammarError("binding_key is an empty list")
    texts = [_string("binding_key", key) for key in keys]
    return [binding_key(text.replace("{", "{{").replace("}", "}}")) for text in texts]


def _heartbeat(value: Any) -> Heartbeat:
    low, high = HEARTBEATS
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not low <= value <= high:
        raise GrammarError(f"heartbeat is a number of seconds from {low:g} to {high:g}")
    return Heartbeat(every=float(value))


def _string(name: str, value: Any) -> str:
    if type(value) is not str:  # a Token is a string too, for the library
        raise GrammarError(f"{name} is a string, in quotation marks")
    return value


_PREFIX: Final = "/Sidecar-Subscribe:"
"""What the metrics' label begins with; it is no path of a request, and matched by none."""


def _as_route(offer: Offer) -> Route:
    given = {name: getattr(offer, name) for name in type(offer).model_fields}
    source = offer.exchange if offer.exchange is not None else offer.stream
    return Route.model_construct(path=f"{_PREFIX}{source}", **given)


def _name(settings: Route) -> tuple[str, str]:
    return ("exchange", settings.exchange) if settings.exchange is not None else ("stream", settings.stream or "")


def _no_gate(_settings: object) -> Any:
    raise ValueError("the application decides who may read what it gives out")


def _request(head: Head) -> Request:
    path, query = split_target(head.target)
    return Request(head.method.decode(), path, query, head.fields, head.version, head.scheme, head.peer)
