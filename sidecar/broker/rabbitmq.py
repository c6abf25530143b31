"""RabbitMQ: a connection that is kept, the taps on it, and publishing.

Strategy: a plain loop. Try the URLs in turn, wait between rounds with full jitter under a bound that doubles, and on a
connection make every tap stand before it counts as connected. A lost connection is no error to anybody: each sink hears
`lost` at once and `restored` once, when its queue and all its bindings stand again. aio-pika's own robust classes are
not used: they would bring back a queue that missed messages without a word.

Publishing has a connection of its own, opened by the first message. Under a memory or disk alarm RabbitMQ stops
reading from connections that publish, and then a binding must not have to wait behind a message.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Final

import aiormq.exceptions
import structlog
import trio
import trio_asyncio  # type: ignore[import-untyped]
from aiormq.abc import AbstractChannel
from pydantic import SecretStr
from yarl import URL

from sidecar.amqp import Properties
from sidecar.broker import readers
from sidecar.broker.exchanges import check_key
from sidecar.broker.further import Further
from sidecar.broker.link import Link, place
from sidecar.broker.messages import to_pamqp, translated, words
from sidecar.broker.pace import GATHER, Pace
from sidecar.broker.port import (
    BrokerAway,
    BrokerError,
    BrokerRefused,
    Exchange,
    Offset,
    ReadSink,
    Sink,
    StreamQueue,
    WorkQueue,
)
from sidecar.broker.readers import Consuming
from sidecar.broker.taps import RabbitTap
from sidecar.config.model import BrokerTls, Reconnect

SETTLED_AFTER: Final = 5.0
"""Seconds a connection must have stood for the waits between tries to begin anew."""

_log = structlog.get_logger("sidecar.broker")


def pause(failures: int, reconnect: Reconnect) -> float:
    """Seconds to wait after so many failures in a row: full jitter, so that a thousand clients come back spread."""
    bound = min(reconnect.max, reconnect.min * 2 ** min(failures, 32))
    return random.uniform(0, bound)


def tls_context(settings: BrokerTls | None) -> ssl.SSLContext:
    """A client's context that verifies; reads the files anew, since they rotate. Raises OSError (SSLError is one)."""
    context = ssl.create_default_context(cafile=settings.ca if settings and settings.ca else None)
    if settings is not None and settings.certificate is not None:
        context.load_cert_chain(settings.certificate, settings.key)
    return context


class RabbitMQ:
    """A `sidecar.broker.port.Broker`: one or several URLs of the same broker or cluster."""

    def __init__(
        self,
        urls: Sequence[SecretStr],
        *,
        tls: BrokerTls | None = None,
        heartbeat: float = 30.0,
        reconnect: Reconnect | None = None,
        gather: float = GATHER,
    ) -> None:
        """``heartbeat`` and ``gather`` in seconds (`sidecar.broker.pace`)."""
        self._urls = [URL(url.get_secret_value()) for url in urls]
        self._tls = tls
        self._heartbeat = heartbeat
        self._reconnect = reconnect or Reconnect()
        self._gather = gather
        self.reconnects = 0
        self._was_connected = False
        self._problem: str | None = "not connected yet"
        self._connected = trio.Event()
        self._link: Link | None = None
        self._nursery: trio.Nursery | None = None
        self._taps: set[RabbitTap] = set()
        self._readings: set[Consuming] = set()
        self._publisher: _Publisher | None = None
        self._links: Further | None = None

    def __repr__(self) -> str:
        return f"<RabbitMQ {', '.join(map(place, self._urls))} {self._problem or 'connected'}>"

    @property
    def connected(self) -> bool:
        """Whether messages can flow now."""
        return self._connected.is_set()

    @property
    def problem(self) -> str | None:
        """Why it is not connected, in one line."""
        return self._problem

    async def run(self) -> None:
        """Connect and keep connected until cancelled."""
        cancelled = False
        try:
            async with trio_asyncio.open_loop() as loop:
                loop.set_exception_handler(_log_stray)
                try:
                    await self._keep_connected(loop)
                finally:
                    cancelled = trio.current_effective_deadline() == -math.inf
                    self._problem = "stopped"
        except* Exception as strays:
            # Closing the loop ends aiormq's own tasks, and those end with whatever their connection was closed with.
            if not cancelled:
                raise
            _log.debug("left at the end", errors=[str(stray) for stray in strays.exceptions])

    async def wait_connected(self) -> None:
        """Return once connected."""
        await self._connected.wait()

    async def tap(self, exchange: Exchange, sink: Sink) -> RabbitTap:
        """Open a queue on an exchange."""
        link = self._live_link()
        tap = RabbitTap(exchange, sink, self._reopen_soon)
        try:
            await link.call(tap.open(link))
        except BaseException:
            tap.closed = True
            if link.alive:
                link.start(tap.close_remains())
            raise
        if link is not self._link:
            raise BrokerAway(self._problem or "the broker is not connected")
        self._taps = {each for each in self._taps if not each.closed} | {tap}
        return tap

    async def open_stream(self, stream: StreamQueue) -> None:
        """Declare and bind a stream, or find it."""
        link = self._live_link()
        await link.call(readers.open_stream(link, stream))

    async def read_stream(
        self, name: str, offset: Offset, sink: ReadSink, *, window: int, filters: Sequence[str] = ()
    ) -> Consuming:
        """Read a stream."""
        return await self._begin(
            lambda link: self._begin_on(
                link,
                reader := Consuming(name, sink, self._readings.discard),
                readers.open_reader(reader, link, offset, window, filters),
            )
        )

    async def consume(self, queue: WorkQueue, sink: ReadSink, *, prefetch: int) -> Consuming:
        """Declare and bind a queue where that is asked, and consume it."""
        return await self._begin(
            lambda link: self._begin_on(
                link,
                consumer := Consuming(queue.name, sink, self._readings.discard),
                readers.open_consumer(consumer, link, queue, prefetch),
            )
        )

    async def _begin(self, begin: Callable[[Link], Awaitable[Consuming]]) -> Consuming:
        """Begin on whichever connection can. Raises `BrokerError`."""
        self._live_link()
        assert self._links is not None
        return await self._links.begin(begin)

    async def _begin_on(self, link: Link, reading: Consuming, opening: Coroutine[Any, Any, None]) -> Consuming:
        links = self._links
        try:
            await link.call(opening)
            if links is None or self._links is not links or not link.alive:
                raise BrokerAway(self._problem or "the broker is not connected")
        except BaseException:
            reading.stop()
            if link.alive:
                link.start(reading.close())
            raise
        if not reading.over:
            self._readings.add(reading)
        return reading

    async def publish(self, exchange: str, routing_key: str, body: bytes, properties: Properties | None = None) -> None:
        """Publish one message and wait for the broker's confirmation; while an alarm blocks it, until cancelled.

        A message without a message id is given a random one. Floating point headers travel with 32 bits.
        """
        check_key(routing_key)
        self._live_link()
        publisher = self._publisher
        assert publisher is not None
        await publisher.publish(exchange, routing_key, body, properties)

    def _live_link(self) -> Link:
        if self._link is None or not self._link.alive:
            raise BrokerAway(self._problem or "the broker is not connected")
        return self._link

    # Keeping connected

    async def _keep_connected(self, loop: asyncio.AbstractEventLoop) -> None:
        failures = 0
        while True:
            for url in self._urls:
                began = trio.current_time()
                was_connected = await self._live(loop, url)
                if was_connected and trio.current_time() - began >= SETTLED_AFTER:
                    failures = 0
                    break
            await trio.sleep(pause(failures, self._reconnect))
            failures += 1

    async def _live(self, loop: asyncio.AbstractEventLoop, url: URL) -> bool:
        """One connection's life. Returns whether there was one; `problem` says why it is over."""
        async with trio.open_nursery() as nursery:
            try:
                link = await self._open(nursery, loop, url)
            except BrokerAway as error:
                self._say(str(error))
                return False
            try:
                await self._stand(nursery, loop, url, link)
                await link.ended.wait()
            except BrokerAway:
                pass
            finally:
                publisher, links = self._publisher, self._links
                self._fall(f"{place(url)}: {link.why_ended}" if link.ended.is_set() else "stopped")
                if publisher is not None:
                    await publisher.aclose()
                await (links or link).aclose()
                nursery.cancel_scope.cancel()
        return True

    async def _open(self, nursery: trio.Nursery, loop: asyncio.AbstractEventLoop, url: URL) -> Link:
        return await Link.open(nursery, loop, url, lambda: tls_context(self._tls), self._heartbeat, Pace(self._gather))

    async def _open_beside(self, nursery: trio.Nursery, loop: asyncio.AbstractEventLoop, url: URL) -> Link:
        """One more connection, for no longer than the first. Raises `BrokerAway`."""
        link = await self._open(nursery, loop, url)
        if self._nursery is not nursery:  # the first has ended meanwhile, and waits for all that its nursery has
            await link.aclose()
            raise BrokerAway(self._problem or "the broker is not connected")
        return link

    async def _open_further(self, nursery: trio.Nursery, loop: asyncio.AbstractEventLoop, turns: Iterator[URL]) -> Link:
        """One more connection, to the next URL that answers. Raises `BrokerAway`."""
        for url in itertools.islice(turns, len(self._urls)):
            try:
                link = await self._open_beside(nursery, loop, url)
            except BrokerAway as error:
                problem = error
            else:
                nursery.start_soon(self._end_with, link)
                return link
        raise problem

    async def _end_with(self, link: Link) -> None:
        """End what is read on a further connection together with it."""
        await link.ended.wait()
        for reading in tuple(self._readings):
            if reading.is_on(link):
                reading.end(BrokerAway(link.why_ended))

    async def _stand(self, nursery: trio.Nursery, loop: asyncio.AbstractEventLoop, url: URL, link: Link) -> None:
        """Make every tap stand, then be connected."""
        self._nursery, self._link = nursery, link
        self._publisher = _Publisher(lambda: self._open_beside(nursery, loop, url))
        after = self._urls.index(url) + 1
        turns = itertools.cycle(self._urls[after:] + self._urls[:after])
        self._links = Further(link, lambda: self._open_further(nursery, loop, turns))
        for tap in tuple(self._taps):
            await self._restore(tap, link)
        self._problem = None
        self.reconnects += self._was_connected
        self._was_connected = True
        self._connected.set()
        _log.info("connected to the broker", broker=place(url))

    def _fall(self, problem: str) -> None:
        self._link = self._nursery = self._publisher = self._links = None
        if self._connected.is_set():
            self._connected = trio.Event()
        self._say(problem)
        for tap in tuple(self._taps):
            if not tap.closed and tap.standing:
                tap.fall()
                tap.sink.lost()
        for reading in tuple(self._readings):
            reading.end(BrokerAway(problem))

    def _say(self, problem: str) -> None:
        if problem not in (self._problem, "stopped"):
            _log.warning("not connected to the broker", problem=problem)
        self._problem = problem

    # Taps that fell

    async def _restore(self, tap: RabbitTap, link: Link) -> None:
        """Make a tap stand again and tell its sink. Raises `BrokerAway` when the connection breaks meanwhile."""
        if tap.closed:
            self._taps.discard(tap)
            return
        try:
            await link.call(tap.open(link))
        except BrokerRefused as error:
            self._taps.discard(tap)
            tap.closed = True
            link.start(tap.close_remains())
            tap.sink.refused(error)
        else:
            if not tap.closed:
                tap.sink.restored()

    def _reopen_soon(self, tap: RabbitTap) -> None:
        """A tap fell while its connection stands: somebody deleted its queue, or its exchange."""
        tap.sink.lost()
        if self._nursery is not None and self._link is not None:
            self._nursery.start_soon(self._reopen, tap, self._link)

    async def _reopen(self, tap: RabbitTap, link: Link) -> None:
        for failures in itertools.count():
            # A pause, lest a policy that deletes what we declare keeps both sides busy.
            await trio.sleep(pause(failures, self._reconnect))
            try:
                await self._restore(tap, link)
                return
            except BrokerAway:
                if not link.alive:
                    return  # the next connection restores it


class _Publisher:
    """Publishing over a connection of its own, one channel with confirms (RabbitMQ's extension Confirm)."""

    def __init__(self, open_link: Callable[[], Awaitable[Link]]) -> None:
        self._open_link = open_link
        self._opening = trio.Lock()
        self._link: Link | None = None
        self._channel: AbstractChannel | None = None
        self._known: set[str] = set()

    async def publish(self, exchange: str, routing_key: str, body: bytes, properties: Properties | None) -> None:
        async with self._opening:
            link = await self._live_link()
            await link.call(self._check_exists(link, exchange))
            channel = await self._live_channel(link)
        await link.call(self._publish(channel, exchange, routing_key, body, properties), cancellable=True)

    async def _live_link(self) -> Link:
        if self._link is None or not self._link.alive:
            self._link, self._channel = await self._open_link(), None
        return self._link

    async def _live_channel(self, link: Link) -> AbstractChannel:
        if self._channel is None or self._channel.is_closed:
            self._channel = await link.call(link.channel(confirms=True))
        return self._channel

    async def aclose(self) -> None:
        if self._link is not None:
            await self._link.aclose()

    async def _publish(
        self, channel: AbstractChannel, exchange: str, routing_key: str, body: bytes, properties: Properties | None
    ) -> None:
        try:
            await channel.basic_publish(
                body, exchange=exchange, routing_key=routing_key, properties=to_pamqp(properties)
            )
        except aiormq.exceptions.AMQPError as error:
            self._known.discard(exchange)
            # A refusal closes the channel under everybody who publishes: it concerns the one it names.
            if isinstance(translated(error), BrokerRefused) and f"'{exchange}'" not in words(error):
                raise BrokerAway("another message was refused while this one was under way") from error
            raise

    async def _check_exists(self, link: Link, exchange: str) -> None:
        """Ask before the first message, on a channel that may close."""
        if exchange and exchange not in self._known:
            async with link.passing() as channel:
                await channel.exchange_declare(exchange, passive=True)
            self._known.add(exchange)


def _log_stray(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What an asyncio task left behind; a connection's end leaves several."""
    error = context.get("exception")
    if not isinstance(error, (BrokerError, aiormq.exceptions.AMQPError, OSError, asyncio.CancelledError)):
        _log.warning("asyncio reports", message=context.get("message"), error=repr(error))
