"""The room of the message broker: its port, RabbitMQ behind it, and the embedded broker behind ``memory://``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.broker.port import Broker
    from sidecar.config.model import BrokerSettings

__all__ = ["open_broker"]


def open_broker(settings: BrokerSettings) -> Broker:
    """Make the broker that the configuration names; nothing is connected before its `run`.

    Only that broker's module is imported: AMQP's client libraries take a while, and `check` does without them.
    """
    if settings.url[0].get_secret_value().lower().startswith("memory:"):
        from sidecar.broker.memory import MemoryBroker

        return MemoryBroker()
    from sidecar.broker.rabbitmq import RabbitMQ

    return RabbitMQ(
        settings.url,
        tls=settings.tls,
        heartbeat=settings.heartbeat,
        reconnect=settings.reconnect,
        gather=settings.gather,
    )
