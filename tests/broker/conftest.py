"""Both brokers, for what the port promises of either."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import trio

from sidecar.broker import open_broker
from sidecar.broker.memory import MemoryBroker
from sidecar.broker.port import Broker
from sidecar.config.model import BrokerSettings
from tests.broker.sinks import PATIENCE
from tests.lab.publisher import publishing
from tests.lab.rabbitmq import RabbitNode


@pytest.fixture(params=["memory", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> str:
    return "memory://" if request.param == "memory" else request.getfixturevalue("vhost_url")


@pytest.fixture
async def broker(url: str, nursery: trio.Nursery) -> Broker:
    opened = open_broker(BrokerSettings(url=[url]))
    nursery.start_soon(opened.run)
    with trio.fail_after(PATIENCE):
        await opened.wait_connected()
    return opened


@pytest.fixture
def delete(url: str, broker: Broker) -> Callable[[str], None]:
    """Deletes a stream or a queue, as an operator does."""

    def delete_queue(name: str) -> None:
        if isinstance(broker, MemoryBroker):
            broker.delete_queue(name)
        else:
            with publishing(url) as operator:
                operator.delete_queue(name)

    return delete_queue


NARROW = 8


@pytest.fixture
def narrow_url(rabbitmq: RabbitNode) -> Iterator[str]:
    """A virtual host of RabbitMQ, while that allows `NARROW` channels on new connections."""
    url = rabbitmq.url(rabbitmq.vhost())
    rabbitmq.control("eval", f"application:set_env(rabbit, channel_max, {NARROW}).")
    yield url
    rabbitmq.control("eval", "application:set_env(rabbit, channel_max, 2047).")
