"""AMQP 0-9-1 as bytes: messages, their properties, and the splitter that takes deliveries out of a byte stream.

Strategy: no I/O. A delivery is built from offsets into the bytes that were read; its properties stay raw until
somebody asks for them, since most messages go from the broker to a browser without anybody looking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias

FieldValue: TypeAlias = (
    "None | bool | int | float | str | bytes | Decimal | datetime | list[FieldValue] | dict[str, FieldValue]"
)
"""What a field table may hold (AMQP 0-9-1 §4.2.5.5 with RabbitMQ's errata)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """The properties of a basic message (AMQP 0-9-1 §1.8.1); each is None, and ``headers`` empty, when absent."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: Mapping[str, FieldValue] = field(default_factory=dict)
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    expiration: str | None = None
    message_id: str | None = None
    timestamp: datetime | None = None
    type: str | None = None
    user_id: str | None = None
    app_id: str | None = None


class Delivery:
    """One message as the broker delivered it (AMQP 0-9-1 §1.8.3.14)."""

    __slots__ = (
        "_properties",
        "body",
        "consumer_tag",
        "delivery_tag",
        "exchange",
        "raw_properties",
        "redelivered",
        "routing_key",
    )

    def __init__(
        self,
        consumer_tag: str,
        delivery_tag: int,
        redelivered: bool,
        exchange: str,
        routing_key: str,
        body: bytes,
        raw_properties: bytes = b"",
        properties: Properties | None = None,
    ) -> None:
        self.consumer_tag = consumer_tag
        self.delivery_tag = delivery_tag
        self.redelivered = redelivered
        self.exchange = exchange
        self.routing_key = routing_key
        self.body = body
        self.raw_properties = raw_properties
        self._properties = properties

    @property
    def properties(self) -> Properties:
        """The message's properties, parsed at the first look."""
        if self._properties is None:
            self._properties = decode_properties(self.raw_properties)
        return self._properties

    def __repr__(self) -> str:
        return f"<Delivery {self.delivery_tag} {self.exchange!r} {self.routing_key!r} {len(self.body)} bytes>"


def decode_properties(raw: bytes) -> Properties:
    """Decode a content header's property flags and list (§4.2.6.1)."""
    raise NotImplementedError
