"""Routes, compiled: from the configuration's texts to what a request can be measured against.

Strategy: everything that can be known before a request comes is worked out here once: the path's pattern, the
templates, the metrics. For a request a route then says what it wants of the hub, or which value is no good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sidecar.amqp import FieldValue
from sidecar.broker.port import Binding, Declaration, Exchange
from sidecar.config.model import Route
from sidecar.hub.encoder import Encoder
from sidecar.hub.subscription import Wanted
from sidecar.observe.metrics import Metrics
from sidecar.routing import PathPattern
from sidecar.template import Template
from sidecar.topic import is_word

Values = Callable[[str], str]
"""Gives the value of a placeholder by its name; raises `BadValueError` where the request has none."""


class BadValueError(Exception):
    """A parameter of the request cannot be used; the text says which and why, without repeating its value."""


class CompiledRoute:
    """One route of the configuration, ready to be asked."""

    def __init__(self, settings: Route, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics.route(settings.path)
        self.pattern = PathPattern.parse(settings.path)
        self.exchange = _exchange(settings)
        self.keys = [Template.parse(key) for key in settings.binding_key]
        self._headers = {name: _template(value) for name, value in (settings.binding_headers or {}).items()}
        self._event = Template.parse(settings.event) if settings.event else None
        self._where = {name: Template.parse(text) for name, text in settings.where.items()}

    def __repr__(self) -> str:
        return f"<CompiledRoute {self.settings.path} from {self.exchange.name}>"

    def wanted(self, parameters: dict[str, str], values: Values) -> Wanted:
        """What a stream with these values asks of the hub. Raises `BadValueError`."""
        bindings = self._bindings(values)
        where = {name: template.render(values) for name, template in self._where.items()}
        named = {name: parameters[name] for name in self._event.names if name in parameters} if self._event else {}
        return Wanted(
            identity=(id(self), bindings, tuple(where.values()), tuple(named.values())),
            exchange=self.exchange,
            bindings=bindings,
            make_encoder=lambda: Encoder(
                event=self._event, envelope=self.settings.data == "envelope", where=where, parameters=named
            ),
            metrics=self.metrics,
        )

    def _bindings(self, values: Values) -> tuple[Binding, ...]:
        def word(name: str) -> str:
            value = values(name)
            if not is_word(value):
                raise BadValueError(f"{name} must be one word of a routing key: not empty, at most 255 bytes, no . * #")
            return value

        if self._headers:
            return (Binding("", tuple(sorted(self._filled_headers(values)))),)
        keys = dict.fromkeys(_short(key.render(word)) for key in self.keys)
        return tuple(Binding(key) for key in keys)

    def _filled_headers(self, values: Values) -> Sequence[tuple[str, FieldValue]]:
        return [
            (name, value.render(values) if isinstance(value, Template) else value)
            for name, value in self._headers.items()
        ]


def _exchange(settings: Route) -> Exchange:
    declare = settings.declare
    if declare is None:
        return Exchange(settings.exchange)
    return Exchange(settings.exchange, Declaration(**declare.model_dump()))


def _template(value: FieldValue) -> FieldValue | Template:
    return Template.parse(value) if isinstance(value, str) else value


def _short(key: str) -> str:
    if len(key.encode()) > 255:
        raise BadValueError("the binding key would be longer than the 255 bytes that AMQP allows")
    return key
