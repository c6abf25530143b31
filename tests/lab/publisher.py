"""Messages from somebody else: a blocking publisher on pika, which shares no code with the product.

Strategy: every publish is confirmed by the broker (and mandatory where asked), so that a test knows the message was
there. Calls block for about a millisecond; tests on trio make them directly, long runs in a worker thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pika
import pika.exceptions


class Publisher:
    """One AMQP connection with one channel in confirm mode."""

    def __init__(self, url: str) -> None:
        parameters = pika.URLParameters(url)
        parameters.heartbeat = 0  # nobody serves it between calls
        self._connection = pika.BlockingConnection(parameters)
        self._channel = self._connection.channel()
        self._channel.confirm_delivery()

    @property
    def broker_version(self) -> tuple[int, int]:
        """The broker's version, its first two numbers."""
        properties: Mapping[str, Any] = self._connection._impl.server_properties
        major, minor, *_ = properties["version"].split(".")
        return int(major), int(minor)

    def exchange(self, name: str, type_: str, **options: Any) -> None:
        """Declare an exchange."""
        self._channel.exchange_declare(name, type_, **options)

    def delete_exchange(self, name: str) -> None:
        """Delete an exchange."""
        self._channel.exchange_delete(name)

    def queue(self, name: str, **options: Any) -> None:
        """Declare a queue, or a stream."""
        self._channel.queue_declare(name, **options)

    def bind(self, queue: str, exchange: str, binding_key: str) -> None:
        """Bind a queue, or a stream."""
        self._channel.queue_bind(queue, exchange, binding_key)

    def delete_queue(self, name: str) -> None:
        """Delete a queue, or a stream, with what is in it."""
        self._channel.queue_delete(name)

    def publish(
        self,
        exchange: str,
        routing_key: str | bytes,
        body: bytes | str,
        *,
        headers: Mapping[str, Any] | None = None,
        mandatory: bool = False,
        **properties: Any,
    ) -> None:
        """One message, confirmed. With ``mandatory`` one that no queue took raises pika's UnroutableError."""
        octets = body.encode() if isinstance(body, str) else body
        basic = pika.BasicProperties(headers=dict(headers) if headers else None, **properties)
        self._channel.basic_publish(exchange, routing_key, octets, basic, mandatory=mandatory)

    def exchanges_exist(self, *names: str) -> bool:
        """Whether all of them exist, asked passively on a channel of its own (a no closes it)."""
        for name in names:
            channel = self._connection.channel()
            try:
                channel.exchange_declare(name, passive=True)
            except pika.exceptions.ChannelClosedByBroker:
                return False
            channel.close()
        return True

    def queue_exists(self, name: str) -> bool:
        """Whether a queue or a stream stands, asked passively on a channel of its own (a no closes it)."""
        channel = self._connection.channel()
        try:
            channel.queue_declare(name, passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return False
        channel.close()
        return True

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(pika.exceptions.AMQPError):
            self._connection.close()


@contextlib.contextmanager
def publishing(url: str) -> Iterator[Publisher]:
    """A publisher for a block."""
    publisher = Publisher(url)
    try:
        yield publisher
    finally:
        publisher.close()
