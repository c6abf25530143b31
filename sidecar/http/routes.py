"""Routes, compiled: from the configuration's texts to what a request can be measured against.

Strategy: everything that can be known before a request comes is worked out here once: the path's pattern, the
templates, the metrics. For a request a route then says what it wants of the hub, or which value is no good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from sidecar.amqp import FieldValue
from sidecar.broker.port import Binding, Declaration, Exchange, StreamQueue, WorkQueue
from sidecar.config.access import Access
from sidecar.config.model import SOURCES, Route
from sidecar.http.access import Gate
from sidecar.http.limits import StreamLimit
from sidecar.hub.encoder import Encoder
from sidecar.hub.source import Spec
from sidecar.hub.subscription import Wanted
from sidecar.observe.metrics import Metrics
from sidecar.routing import PathPattern
from sidecar.template import Template
from sidecar.topic import is_word

REMEMBER_FOR: Final = 300.0
"""Seconds that a memory is kept after its last subscriber has left."""

Values = Callable[[str], str]
"""Gives the value of a placeholder by its name; raises `BadValueError` where the request has none."""


class BadValueError(Exception):
    """A parameter of the request cannot be used; the text says which and why, without repeating its value."""

    status = 400


class MissingClaimError(BadValueError):
    """A token or the application does not say what the route's binding needs to know of the reader."""

    status = 403


class CompiledRoute:
    """One route of the configuration, ready to be asked."""

    def __init__(self, settings: Route, metrics: Metrics, source: Spec | None = None, gate: Gate | None = None) -> None:
        """``source`` is the stream that the route shares with others; without a gate everybody may read."""
        self.gate = gate
        limit = settings.access.limit if settings.access is not None else None
        self.limit = StreamLimit(limit.streams, limit.per_client) if limit is not None else None
        self.settings = settings
        self.metrics = metrics.route(settings.path)
        self.pattern = PathPattern.parse(settings.path)
        self.keys = [Template.parse(key) for key in settings.binding_key]
        self.source = source or exchange_of(settings)
        """An exchange or a stream; None: a queue, whose name hangs on the request."""
        replay, when_full = settings.replay, settings.backlog.when_full
        resumes = replay is not None or settings.stream is not None
        self.spills = settings.queue is not None or (resumes and when_full in (None, "replay"))
        """Whether a slow reader's events wait at the broker, or in the shared memory, instead of a backlog."""
        self.retired = False
        """Whether a later configuration has changed or removed it."""
        self._remember = (replay.memory or 0) if replay is not None else 0
        self._headers = {name: _template(value) for name, value in (settings.binding_headers or {}).items()}
        self._event = Template.parse(settings.event) if settings.event else None
        self._where = {name: Template.parse(text) for name, text in settings.where.items()}
        self._filters = [Template.parse(value) for value in settings.stream_filter or ()]

    def __repr__(self) -> str:
        return f"<CompiledRoute {self.settings.path} from {self.source_name}>"

    @property
    def source_kind(self) -> str:
        """``exchange``, ``stream`` or ``queue``: the key of the configuration."""
        given = (key for key in SOURCES if getattr(self.settings, key) is not None)
        return next(given)

    @property
    def source_name(self) -> str:
        """The source as the configuration writes it."""
        return str(getattr(self.settings, self.source_kind))

    def wanted(self, parameters: dict[str, str], values: Values) -> Wanted:
        """What a stream with these values asks of the hub. Raises `BadValueError`."""
        source = self.source if self.source is not None else _work_queue(self.settings, values)
        bindings = () if isinstance(source, WorkQueue) else self._bindings(values)
        filters = tuple(dict.fromkeys(_filter_value(value.render(values)) for value in self._filters))
        where = {name: template.render(values) for name, template in self._where.items()}
        named = {name: parameters[name] for name in self._event.names if name in parameters} if self._event else {}
        return Wanted(
            identity=(id(self), bindings, filters, tuple(where.values()), tuple(named.values())),
            source=source,
            bindings=bindings,
            make_encoder=lambda: Encoder(
                event=self._event, envelope=self.settings.data == "envelope", where=where, parameters=named
            ),
            metrics=self.metrics,
            exchange=self.settings.exchange,
            filters=filters,
            remember=self._remember,
            keep_for=REMEMBER_FOR if self._remember else 0.0,
            prefetch=self.settings.prefetch,
            lapsed=lambda: self.retired,
        )

    def _bindings(self, values: Values) -> tuple[Binding, ...]:
        if self._headers:
            return (Binding("", tuple(sorted(self._filled_headers(values)))),)
        keys = dict.fromkeys(_short(key.render(_word(values))) for key in self.keys)
        return tuple(Binding(key) for key in keys)

    def _filled_headers(self, values: Values) -> Sequence[tuple[str, FieldValue]]:
        return [
            (name, _text(value.render(values)) if isinstance(value, Template) else value)
            for name, value in self._headers.items()
        ]


GateOf = Callable[[Access], Gate]


def compile_routes(routes: Sequence[Route], metrics: Metrics, gate: GateOf) -> list[CompiledRoute]:
    """Compile the routes of a configuration; those that name one stream share it, with the bindings of all.

    ``gate`` builds the gate of a route with access settings. Raises what it raises.
    """
    streams: dict[str, StreamQueue] = {}
    for route in routes:
        for stream in _streams_of(route):
            known = streams.get(stream.name)
            streams[stream.name] = _merged(known, stream) if known is not None else stream
    return [
        CompiledRoute(
            route,
            metrics,
            next((streams[s.name] for s in _streams_of(route)), None),
            gate(route.access) if route.access is not None else None,
        )
        for route in routes
    ]


def carry_over(old: Sequence[CompiledRoute], new: Sequence[CompiledRoute]) -> list[CompiledRoute]:
    """Return the new routes, with the old one in the place of its equal: its streams and subscriptions stay.

    It gets the new one's gate, whose keys were read anew. Old routes without an equal are retired.
    """
    kept = {route.settings.path: route for route in old}
    routes = [_kept(kept.get(route.settings.path), route) for route in new]
    for route in set(old).difference(routes):
        route.retired = True
    return routes


def declared(routes: Iterable[CompiledRoute]) -> set[StreamQueue]:
    """The streams that these routes declare."""
    sources = (route.source for route in routes)
    return {source for source in sources if isinstance(source, StreamQueue) and source.declare}


def _kept(old: CompiledRoute | None, new: CompiledRoute) -> CompiledRoute:
    if old is None or (old.settings, old.source) != (new.settings, new.source):
        return new
    old.gate = new.gate
    return old


def _streams_of(route: Route) -> Iterator[StreamQueue]:
    replay, exchange = route.replay, exchange_of(route)
    if route.stream is not None:
        yield StreamQueue(route.stream)
    elif replay is not None and replay.stream is not None and exchange is not None:
        yield StreamQueue(
            replay.stream,
            declare=True,
            max_age=replay.max_age,
            max_bytes=replay.max_bytes,
            segment_bytes=replay.segment_bytes,
            bindings=tuple((exchange, binding) for binding in _widened(route)),
        )


def _merged(one: StreamQueue, other: StreamQueue) -> StreamQueue:
    declared = one if one.declare else other
    return replace(declared, bindings=tuple(dict.fromkeys((*one.bindings, *other.bindings))))


def _widened(route: Route) -> Iterator[Binding]:
    """The route's bindings for whatever values: each word with a placeholder is ``*``, such a header just there."""
    if route.binding_headers is not None:
        fields = {
            name: None if isinstance(value, str) and Template.parse(value).literal is None else value
            for name, value in route.binding_headers.items()
        }
        yield Binding("", tuple(sorted(fields.items())))
        return
    for key in dict.fromkeys(Template.parse(key).widen() for key in route.binding_key):
        yield Binding(key)


def exchange_of(settings: Route) -> Exchange | None:
    """The exchange of a route, with its declaration; None for another source."""
    if settings.exchange is None:
        return None
    declare = settings.declare
    if declare is None or declare.type is None:
        return Exchange(settings.exchange)
    declaration = Declaration(declare.type, declare.durable, declare.auto_delete, declare.internal, declare.arguments)
    return Exchange(settings.exchange, declaration)


def _work_queue(settings: Route, values: Values) -> WorkQueue:
    assert settings.queue is not None
    name, declare = Template.parse(settings.queue).render(_word(values)), settings.declare
    if declare is None:
        return WorkQueue(_short(name))
    return WorkQueue(
        _short(name),
        declare=True,
        durable=declare.durable,
        expires=declare.expires,
        max_length=declare.max_length,
        arguments=declare.arguments,
        bindings=tuple(
            (Exchange(bound.exchange), Binding(_short(Template.parse(bound.binding_key).render(_word(values)))))
            for bound in declare.bind
        ),
    )


def _word(values: Values) -> Values:
    """Let only values through that are one word of a routing key: none can widen a binding."""

    def word(name: str) -> str:
        value = values(name)
        if not is_word(value):
            raise BadValueError(f"{name} must be one word of a routing key: not empty, at most 255 bytes, no . * #")
        return value

    return word


def _template(value: FieldValue) -> FieldValue | Template:
    return Template.parse(value) if isinstance(value, str) else value


def _short(key: str) -> str:
    if len(key.encode()) > 255:
        raise BadValueError("a name or key would be longer than the 255 bytes that AMQP allows")
    return key


def _filter_value(value: str) -> str:
    if not value or len(value.encode("utf-8", "surrogatepass")) > 255:
        raise BadValueError("a filter value must not be empty, nor longer than 255 bytes")
    return _text(value)


def _text(value: str) -> str:
    if not value.isprintable():
        raise BadValueError("a value with a control character, or that is not UTF-8")
    return value
