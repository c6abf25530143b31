"""A message inside the embedded broker, and the room that all messages kept there share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Protocol

from sidecar.amqp import Delivery, FieldValue, Properties

OVERHEAD: Final = 500
"""Bytes that a message takes beside its body, roughly."""

SHELF_BYTES: Final = 128 * 1024 * 1024
"""Bytes of all messages kept in streams and queues together; beyond it the largest holder drops its oldest."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it was published."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Properties

    @property
    def size(self) -> int:
        """Bytes it takes."""
        return len(self.body) + OVERHEAD

    def with_header(self, name: str, value: FieldValue) -> Message:
        """The same message with one more header."""
        return replace(self, properties=replace(self.properties, headers={**self.properties.headers, name: value}))

    def delivery(self, consumer_tag: str, delivery_tag: int, redelivered: bool = False) -> Delivery:
        """Return it as a consumer gets it."""
        return Delivery(
            consumer_tag,
            delivery_tag,
            redelivered,
            self.exchange,
            self.routing_key,
            self.body,
            properties=self.properties,
        )


class Holder(Protocol):
    """Something that keeps messages."""

    bytes: int

    def shed(self) -> None:
        """Drop the oldest."""


class Shelf:
    """The room for messages that are kept: `bytes` is counted by the holders themselves."""

    def __init__(self, limit: int = SHELF_BYTES) -> None:
        self.bytes = 0
        self._limit = limit
        self.holders: set[Holder] = set()

    def tidy(self) -> None:
        """Bring everything kept under the limit again."""
        before = self.bytes + 1
        while self._limit < self.bytes < before:  # what consumers have not acknowledged cannot go
            before = self.bytes
            max(self.holders, key=lambda holder: holder.bytes).shed()
