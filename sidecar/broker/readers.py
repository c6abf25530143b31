"""Readers of streams and consumers of queues on RabbitMQ: a channel each, and acknowledgements that nobody waits for.

Strategy: one consumer has one channel, so its delivery tags count from 1 without a gap, one acknowledgement speaks for
everything up to it, and closing the channel gives the rest back. Acknowledgements are only noted; a coroutine that runs
while there are any sends the latest, so that many of one turn of the loop become one frame. A reading ends once, with
the channel, the consumer (RabbitMQ's extension Consumer Cancel Notification) or the connection, whichever is first;
where the consumer was cancelled, the broker is asked whether the queue is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiormq.exceptions
import trio
from aiormq.abc import AbstractChannel

from sidecar.amqp import Delivery, FieldValue
from sidecar.broker.exchanges import check_key, check_tappable
from sidecar.broker.link import Link
from sidecar.broker.messages import to_table, translated, words
from sidecar.broker.port import (
    Binding,
    BrokerAway,
    BrokerError,
    BrokerRefused,
    Exchange,
    Offset,
    ReadSink,
    StreamQueue,
    WorkQueue,
)
from sidecar.broker.queues import NoReplica, no_replica, no_stream, queue_arguments, stream_arguments, with_way_out
from sidecar.broker.taps import declare, never


class Consuming:
    """A consumer with acknowledgements, on a link: `sidecar.broker.port.Reader` and `Consumer` alike."""

    def __init__(self, queue: str, sink: ReadSink, ended: Callable[[Consuming], None]) -> None:
        """``ended`` is called when it is over, however that came."""
        self.queue = queue
        self._sink = sink
        self._ended = ended
        self._link: Link | None = None
        self._channel: AbstractChannel | None = None
        self._tag = ""
        self._closing = asyncio.Lock()
        self._done = self._acknowledged = 0
        self._acknowledging = False
        self.over = False

    def __repr__(self) -> str:
        return f"<Consuming {self.queue!r} {self._done} done{' over' if self.over else ''}>"

    # The port (trio)

    def credit(self, count: int) -> None:
        """So many more of the messages are done with."""
        self._acknowledge(self._done + count)

    def acknowledge(self, delivery_tag: int) -> None:
        """All messages up to this one are done with."""
        self._acknowledge(max(self._done, delivery_tag))

    def _acknowledge(self, done: int) -> None:
        self._done = done
        if not self._acknowledging and not self.over and self._link is not None:
            self._acknowledging = True
            self._link.start(self._send_acknowledgements())

    async def aclose(self) -> None:
        """Stop; goes on by itself when the caller is cancelled."""
        link = self._link
        self.stop()
        if link is None or not link.alive:
            await trio.lowlevel.checkpoint()
            return
        try:
            await link.call(self.close())
        except BrokerError:
            pass

    def is_on(self, link: Link) -> bool:
        """Whether this is the connection that it consumes on."""
        return self._link is link

    def end(self, error: BrokerError) -> None:
        """Tell the sink, once, that nothing more will come."""
        if not self.over:
            self.stop()
            self._sink.ended(error)

    def stop(self) -> None:
        """Hear nothing more."""
        self.over = True
        if self._link is not None:
            self._link.forget(self._tag)
        self._ended(self)

    # What follows is asyncio's, on the link's loop.

    async def open(self, link: Link, *, sparing: bool = False) -> AbstractChannel:
        """Open the channel; declare on it what must stand before `consume`. Raises `NoChannel`."""
        self._link = link
        channel = self._channel = await link.channel(sparing=sparing)
        if self.over:  # the caller has given up meanwhile
            await self.close()
        return channel

    async def consume(self, prefetch: int, arguments: Mapping[str, FieldValue]) -> None:
        """Begin to consume; messages may come before this returns."""
        assert self._link is not None
        assert self._channel is not None
        link, channel = self._link, self._channel
        self._tag = link.consumer(self._take, channel)
        await channel.basic_qos(prefetch_count=prefetch)
        channel.on_consumer_cancel_callbacks.add(lambda _: link.start(self._look_after_cancel(link)))
        await channel.basic_consume(self.queue, never, consumer_tag=self._tag, arguments=to_table(arguments))
        channel.closing.add_done_callback(self._channel_closed)
        if self.over:
            await self.close()

    def _take(self, deliveries: Sequence[Delivery]) -> None:
        if not self.over:
            self._sink.deliver(deliveries)

    async def _send_acknowledgements(self) -> None:
        channel = self._channel
        try:
            while self._acknowledged < self._done and channel is not None and not channel.is_closed:
                self._acknowledged = self._done
                await channel.basic_ack(self._acknowledged, multiple=True, wait=False)
        finally:
            self._acknowledging = False

    async def _look_after_cancel(self, link: Link) -> None:
        try:
            await _find(link, self.queue)
        except (aiormq.exceptions.AMQPError, BrokerError) as error:  # no channel may be left to ask on
            self.end(self._why(error))
        else:
            self.end(BrokerAway(f"the broker does not serve '{self.queue}' at the moment"))
        await self.close()

    def _channel_closed(self, closing: asyncio.Future[Any]) -> None:
        if self._link is not None and not self._link.alive:
            self.end(BrokerAway(self._link.why_ended))
        else:
            self.end(self._why(None if closing.cancelled() else closing.exception()))

    def _why(self, error: BaseException | None) -> BrokerError:
        if isinstance(error, aiormq.exceptions.ChannelNotFoundEntity | aiormq.exceptions.ChannelAccessRefused):
            return translated(error)
        return BrokerAway(str(translated(error)) if error is not None else "the channel was closed")

    async def close(self) -> None:
        """Close the channel: what was not acknowledged goes back. Afterwards nothing can come any more."""
        async with self._closing:  # a second Channel.Close would never be answered
            await self._send_acknowledgements()
            if self._channel is not None and not self._channel.is_closed:
                await self._channel.close(None)


# Declaring


async def open_stream(link: Link, stream: StreamQueue) -> None:
    """Declare and bind a stream, or find it (asyncio). Raises `BrokerError`, or aiormq's errors."""
    if stream.declare:
        async with link.passing() as channel:
            await _declare(link, channel, stream.name, True, stream_arguments(stream), stream.bindings)
    else:
        # Only a consumer's arguments tell a stream from another queue: for others this one is invalid.
        trial = Consuming(stream.name, _Nobody(), lambda _: None)
        with contextlib.suppress(NoReplica):  # then it is a stream, and another node can read it
            await open_reader(trial, link, "next", 1, ())
        trial.stop()
        await trial.close()


async def open_reader(reader: Consuming, link: Link, offset: Offset, window: int, filters: Sequence[str]) -> None:
    """Begin to read (asyncio). Raises `BrokerError`, or aiormq's errors."""
    arguments: dict[str, FieldValue] = {"x-stream-offset": offset}
    if filters:  # what a broker before 3.13 has written counts as without a value, whatever the messages' headers say
        arguments |= {"x-stream-filter": list(filters), "x-stream-match-unfiltered": True}
    try:
        await reader.open(link)
        await reader.consume(window, arguments)
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        raise _unreadable(reader.queue, error) from error


def _unreadable(stream: str, error: aiormq.exceptions.AMQPError) -> BrokerError:
    if "x-stream-offset" in words(error):
        return no_stream(stream)
    return no_replica(stream) if "replica on the local node" in words(error) else translated(error)


async def open_consumer(consumer: Consuming, link: Link, queue: WorkQueue, prefetch: int) -> None:
    """Declare and bind a queue where that is asked, and begin to consume it (asyncio)."""
    channel = await consumer.open(link, sparing=True)
    if queue.declare:
        await _declare(link, channel, queue.name, queue.durable, queue_arguments(queue), queue.bindings)
    await consumer.consume(prefetch, {})


async def _find(link: Link, name: str) -> None:
    """Raise aiormq's error where there is no such queue."""
    async with link.passing() as channel:
        await channel.queue_declare(name, passive=True)


async def _declare(
    link: Link,
    channel: AbstractChannel,
    name: str,
    durable: bool,
    arguments: Mapping[str, FieldValue],
    bindings: Sequence[tuple[Exchange, Binding]],
) -> None:
    for exchange, binding in bindings:
        check_tappable(exchange.name)
        check_key(binding.key)
        if exchange.declare is not None:
            await declare(link, exchange)
    try:
        await channel.queue_declare(name, durable=durable, arguments=to_table(arguments))
    except aiormq.exceptions.AMQPError as error:
        refusal = translated(error)
        raise (with_way_out(refusal) if isinstance(refusal, BrokerRefused) else refusal) from error
    for exchange, binding in bindings:
        await channel.queue_bind(name, exchange.name, binding.key, arguments=to_table(dict(binding.headers)))


class _Nobody:
    """A sink for a reader that is opened only to see whether it can be."""

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing is wanted."""

    def ended(self, error: BrokerError) -> None:
        """It is closed in a moment."""
