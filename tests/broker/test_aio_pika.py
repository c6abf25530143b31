"""An application that publishes with aio-pika, as many do: each property and header arrives as it was written."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import aio_pika
import trio
from pydantic import SecretStr

from sidecar.broker.port import Binding, Exchange
from sidecar.broker.rabbitmq import RabbitMQ
from tests.broker.sinks import PATIENCE, Recorder

SENT = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
MESSAGES = [
    aio_pika.Message(
        f"body {number}".encode(),
        content_type="text/plain",
        headers={"tenant": "a", "level": number, "nested": {"list": [1, "two", None]}},
        message_id=f"m{number}",
        timestamp=SENT,
        type="paid",
        app_id="shop",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )
    for number in range(20)
]


async def _publish(url: str) -> None:
    async with await aio_pika.connect(url) as connection:
        exchange = await (await connection.channel()).get_exchange("amq.topic")
        for number, message in enumerate(MESSAGES):
            await exchange.publish(message, f"order.{number}")


async def test_messages_published_with_aio_pika(vhost_url: str) -> None:
    broker, heard = RabbitMQ([SecretStr(vhost_url)]), Recorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        with trio.fail_after(PATIENCE):
            await broker.wait_connected()
            tap = await broker.tap(Exchange("amq.topic"), heard)
            await tap.bind(Binding("order.*"))
            await trio.to_thread.run_sync(lambda: asyncio.run(_publish(vhost_url)))
        await heard.until_key("order.19")
        nursery.cancel_scope.cancel()
    assert [delivery.body for delivery in heard.deliveries] == [message.body for message in MESSAGES]
    properties = heard.deliveries[7].properties
    assert properties.headers == {"tenant": "a", "level": 7, "nested": {"list": [1, "two", None]}}
    assert (properties.message_id, properties.type, properties.app_id) == ("m7", "paid", "shop")
    assert (properties.timestamp, properties.content_type, properties.delivery_mode) == (SENT, "text/plain", 2)
