"""uvicorn's peer: sse-starlette and aio-pika put together as their documentation shows it, a queue for each client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

clients: set[asyncio.Queue[str]] = set()


async def on_message(message: AbstractIncomingMessage) -> None:
    text = message.body.decode()
    for queue in clients:
        queue.put_nowait(text)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    connection = await aio_pika.connect_robust(os.environ["AMQP_URL"])
    async with connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("bench", aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, "#")
        await queue.consume(on_message, no_ack=True)
        yield


async def events(request: Request) -> EventSourceResponse:
    async def stream() -> AsyncIterator[dict[str, str]]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        clients.add(queue)
        try:
            while True:
                yield {"data": await queue.get()}
        finally:
            clients.discard(queue)

    return EventSourceResponse(stream(), ping=15)


app = Starlette(routes=[Route("/events", events)], lifespan=lifespan)
