"""One connection to RabbitMQ, from its opening to its end, for tasks of trio and of asyncio alike.

Strategy: the crossing between the two is in one place and in one direction, `Link.call`: a trio task starts an asyncio
coroutine and waits for it. A trio task that is cancelled leaves at once and lets the coroutine end by itself, because
cancelling an AMQP call half-way closes its channel and takes others down with it. A connection's end ends all of its
coroutines, so none outlives it.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final, TypeVar

import structlog
import trio
from aiormq.abc import AbstractChannel
from aiormq.connection import Connection
from yarl import URL

from sidecar.amqp import Delivery, Splitter
from sidecar.broker.messages import the_door, why_not_connected, words
from sidecar.broker.pace import Pace
from sidecar.broker.port import BrokerAway, BrokerRefused
from sidecar.broker.transport import Transport, connect, open_stream

T = TypeVar("T")
Consumer = Callable[[Sequence[Delivery]], None]

CONNECT_WITHIN: Final = 10.0
"""Seconds for TCP, TLS and the AMQP handshake together."""

ANSWER_WITHIN: Final = 60.0
"""Seconds for a broker that sends heartbeats to answer a call; then the connection is given up."""

CLOSE_WITHIN: Final = 2.0
"""Seconds for a polite end, before the socket is closed anyway."""

SPARED: Final = 0.25
"""The share of a connection's channels that consumers of queues leave to taps, streams and declarations."""

_MOST_CHANNELS: Final = 65535
"""Where the broker sets no limit (AMQP 0-9-1 §4.2.3: a channel is a short)."""

PORTS: Final = {"amqp": 5672, "amqps": 5671}

_log = structlog.get_logger("sidecar.broker")


class NoChannel(BrokerRefused):
    """All channels of a connection that one may have are in use (AMQP 0-9-1 §1.4.2.5.1, channel-max)."""


def place(url: URL) -> str:
    """Host and port: what people may read of a URL."""
    host = f"[{url.host}]" if ":" in (url.host or "") else url.host
    return f"{host}:{url.port or PORTS[url.scheme]}"


class Link:
    """An open connection. `ended` is set at its end, and `transport.ended` says why."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: trio.abc.Stream, pace: Pace) -> None:
        self.ended = trio.Event()
        self._loop = loop
        self._splitter = Splitter()
        self._consumers: dict[str, Consumer] = {}
        self._tags = count(1)
        self._waiting: set[trio.Event] = set()
        self._amqp: Connection | None = None
        self.transport = Transport(stream, loop, self._splitter, self._deliver, pace)

    @classmethod
    async def open(
        cls,
        nursery: trio.Nursery,
        loop: asyncio.AbstractEventLoop,
        url: URL,
        context: Callable[[], ssl.SSLContext],
        heartbeat: float,
        pace: Pace,
    ) -> Link:
        """Connect to `url`; the link's tasks run in the nursery. Raises `BrokerAway` with one line for people."""
        link: Link | None = None
        try:
            with trio.fail_after(CONNECT_WITHIN):
                secured = context() if url.scheme == "amqps" else None
                stream = await open_stream(url.host or "", url.port or PORTS[url.scheme], secured)
                link = cls(loop, stream, pace)
                nursery.start_soon(link._run)
                await link._handshake(url.update_query(heartbeat=int(heartbeat)))
        except (Exception, asyncio.CancelledError) as error:
            farewell = link.transport.farewell if link else None
            raise BrokerAway(why_not_connected(error, place(url), url.user or "guest", farewell)) from None
        finally:
            if link is not None and link._amqp is None:
                link.transport.abort("it was not opened in time")
        nursery.start_soon(link.transport.watch, heartbeat)
        return link

    async def _handshake(self, url: URL) -> None:
        properties = {"connection_name": f"sidecar on {socket.gethostname()}"}
        amqp = await self._cross(connect(url, self.transport, properties))
        amqp.closing.add_done_callback(self._on_closing)
        self._amqp = amqp

    def _on_closing(self, closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        self.transport.abort(words(error) if error is not None and error.args else "the connection was closed")

    async def _run(self) -> None:
        """Move bytes to the end, then let nobody wait for an answer any more."""
        try:
            await self.transport.run()
        finally:
            self.ended.set()
            for waiting in self._waiting:
                waiting.set()

    @property
    def alive(self) -> bool:
        """Whether calls can be made."""
        return self._amqp is not None and self.transport.ended is None and not self.ended.is_set()

    @property
    def why_ended(self) -> str:
        """One line: the broker's farewell, else what the socket said."""
        farewell = self.transport.farewell
        return (farewell and farewell.reply_text) or self.transport.ended or "the connection was closed"

    async def aclose(self) -> None:
        """Close politely within `CLOSE_WITHIN`, even when cancelled; then anyway."""
        if self._amqp is None:
            return
        with trio.move_on_after(CLOSE_WITHIN, shield=True):
            try:
                await self.call(self._amqp.close(None))
            except BrokerAway:
                pass
        self.transport.abort("it was closed")

    async def call(self, operation: Coroutine[Any, Any, T], *, cancellable: bool = False) -> T:
        """Run an asyncio coroutine to its end (trio). Raises `BrokerAway`, `BrokerRefused`.

        A caller who is cancelled does not wait for it, and does not end it, save where it is `cancellable`: then the
        caller says how long is too long, otherwise `ANSWER_WITHIN` does.
        """
        with the_door(), trio.move_on_after(math.inf if cancellable else ANSWER_WITHIN):
            return await self._cross(operation, cancellable)
        self.transport.abort(f"it has not answered within {ANSWER_WITHIN:g} s")
        raise BrokerAway(self.why_ended)

    def start(self, operation: Coroutine[Any, Any, object]) -> None:
        """Run an asyncio coroutine that nobody waits for; its errors are the connection's own affair."""
        self._loop.create_task(operation).add_done_callback(_look)

    async def _cross(self, operation: Coroutine[Any, Any, T], cancellable: bool = False) -> T:
        task = self._loop.create_task(operation)
        task.add_done_callback(_look)
        done = trio.Event()
        task.add_done_callback(lambda _: done.set())
        self._waiting.add(done)
        try:
            await done.wait()
        except trio.Cancelled:
            if cancellable:
                task.cancel()
            raise
        finally:
            self._waiting.discard(done)
        if not task.done():
            raise BrokerAway(self.why_ended)
        return task.result()

    # What follows is asyncio's.

    async def channel(self, *, confirms: bool = False, sparing: bool = False) -> AbstractChannel:
        """Open a channel (asyncio), with publisher confirms where asked; `SPARED` of them are not for the `sparing`.

        Raises `NoChannel`.
        """
        if self._amqp is None or not self.alive:
            raise BrokerAway("the broker is not connected")
        # aiormq's own numbers pass the broker's limit, which costs the whole connection.
        most = self._amqp.connection_tune.channel_max or _MOST_CHANNELS
        last = max(1, round(most * (1 - SPARED))) if sparing else most
        number = next((number for number in range(1, last + 1) if number not in self._amqp.channels), None)
        if number is None:
            raise NoChannel(f"all {last} channels of the connection are in use: raise the broker's channel_max")
        return await self._amqp.channel(number, publisher_confirms=confirms)

    @asynccontextmanager
    async def passing(self) -> AsyncIterator[AbstractChannel]:
        """A channel for a question or two, closed afterwards however they end (asyncio). Raises `NoChannel`."""
        channel = await self.channel()
        try:
            yield channel
        finally:
            if not channel.is_closed:
                await channel.close(None)

    def consumer(self, take: Consumer, channel: AbstractChannel) -> str:
        """A new consumer tag; its deliveries go to `take`, in batches, from the task that reads the socket.

        It is forgotten for good with the channel that it consumes on.
        """
        tag = f"sidecar.{next(self._tags)}"
        self._consumers[tag] = take
        self._splitter.add(tag)
        channel.closing.add_done_callback(lambda _: self._dismiss(tag))
        return tag

    def forget(self, consumer_tag: str) -> None:
        """Drop what still comes for a consumer that was cancelled."""
        self._consumers.pop(consumer_tag, None)

    def _dismiss(self, consumer_tag: str) -> None:
        self.forget(consumer_tag)
        self._splitter.discard(consumer_tag)

    def _deliver(self, deliveries: Sequence[Delivery]) -> None:
        first = deliveries[0].consumer_tag
        if all(each.consumer_tag == first for each in deliveries):
            self._hand(first, deliveries)
            return
        batches: dict[str, list[Delivery]] = {}
        for each in deliveries:
            batches.setdefault(each.consumer_tag, []).append(each)
        for tag, batch in batches.items():
            self._hand(tag, batch)

    def _hand(self, consumer_tag: str, batch: Sequence[Delivery]) -> None:
        take = self._consumers.get(consumer_tag)
        if take is None:
            return
        try:
            take(batch)
        except Exception:  # one message that somebody cannot take must not cost everybody the connection
            _log.exception("messages were not taken", count=len(batch))


def _look(task: asyncio.Task[Any]) -> None:
    """Look at a task's outcome, lest asyncio complains that nobody did."""
    if not task.cancelled():
        task.exception()
