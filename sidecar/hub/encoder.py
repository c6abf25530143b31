"""A broker's message becomes a block of an event stream, once for all who hear it.

Strategy: what a route's templates say is compiled when a subscription is made, so that the common case — a body of
UTF-8 text, no event type or a constant one — is a test and one call of `sse.encode`.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from sidecar import sse
from sidecar.amqp import Delivery, FieldValue
from sidecar.template import Template

_FIELDS: dict[str, Callable[[Delivery], str | None]] = {
    "routing_key": lambda delivery: delivery.routing_key,
    "exchange": lambda delivery: delivery.exchange,
    "type": lambda delivery: delivery.properties.type,
    "message_id": lambda delivery: delivery.properties.message_id,
    "app_id": lambda delivery: delivery.properties.app_id,
}


def field(delivery: Delivery, name: str) -> str | None:
    """Return a field of a message by the name templates know it by, as text; None where the message has none."""
    if name.startswith("headers."):
        return _text(delivery.properties.headers.get(name[8:]))
    return _FIELDS[name](delivery)


def _text(value: FieldValue) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else _json(value)


class Encoder:
    """Turns deliveries into event blocks for one subscription."""

    __slots__ = ("_constant", "_envelope", "_event", "_parameters", "_where")

    def __init__(
        self,
        *,
        event: Template | None,
        envelope: bool,
        where: Mapping[str, str],
        parameters: Mapping[str, str],
    ) -> None:
        """Compile; ``where`` maps message fields to the values they must equal, ``parameters`` fill the template."""
        self._event = event if event is not None and event.literal is None else None
        self._constant = event.literal if event is not None else None
        self._envelope = envelope
        self._where = tuple(where.items())
        self._parameters = parameters

    def encode(self, delivery: Delivery, event_id: str | None = None) -> bytes | None:
        """Return the block for a message (bytes of UTF-8, RFC-exact lines), None where ``where`` holds it back."""
        for name, value in self._where:
            if field(delivery, name) != value:
                return None
        data = envelope(delivery) if self._envelope else text_or_data_url(delivery)
        return sse.encode(data, event=self._constant if self._event is None else self._name(delivery), id=event_id)

    def _name(self, delivery: Delivery) -> str:
        def value(name: str) -> str:
            own = self._parameters.get(name)
            return own if own is not None else field(delivery, name) or ""

        assert self._event is not None
        return self._event.render(value)


def text_or_data_url(delivery: Delivery) -> bytes:
    """Return the body if it is UTF-8, else as a ``data:`` URL (RFC 2397) that keeps every byte."""
    body = delivery.body
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError:
            return _data_url(body, delivery.properties.content_type)
    return body


def _data_url(body: bytes, content_type: str | None) -> bytes:
    media = (content_type or "application/octet-stream").translate(_UNFIT_FOR_A_URL)
    return b"data:%b;base64,%b" % (media.encode(), base64.b64encode(body))


_UNFIT_FOR_A_URL = dict.fromkeys([*range(33), ord(","), 127])


def envelope(delivery: Delivery) -> bytes:
    """Return the message as one JSON object: exchange, routing_key, headers, properties, timestamp, body.

    The body is a string always, as text or as a ``data:`` URL, so that its type does not hang on its content.
    """
    properties = delivery.properties
    named = {name: value for name in _PROPERTIES if (value := getattr(properties, name)) is not None}
    return _json(
        {
            "exchange": delivery.exchange,
            "routing_key": delivery.routing_key,
            "headers": properties.headers,
            "properties": named,
            "timestamp": properties.timestamp,
            "redelivered": delivery.redelivered,
            "body": text_or_data_url(delivery).decode(),
        }
    ).encode()


_PROPERTIES = (
    "content_type",
    "content_encoding",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "type",
    "user_id",
    "app_id",
)


def _json(value: object) -> str:
    try:
        return _dumps(value)
    except ValueError:  # not a number, or infinite: JSON knows neither (RFC 8259 §6)
        return _dumps(_finite(value))


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return _data_url(value, None).decode()
    return str(value)
