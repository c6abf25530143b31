"""A tap on RabbitMQ: one exclusive, server-named queue on one exchange, and the bindings it should have.

Strategy: the tap keeps what is *wanted* (changed by its callers, at once) apart from what *stands* at the broker, and
`_settle` makes one binding stand or fall as it is wanted, one at a time. So a caller who gives up half-way, a new
caller for the same binding and a lost connection need no cases of their own.

The consumer has a channel to itself. Whatever may be refused (declaring, finding out a type, binding) runs on others,
because AMQP answers a refusal by closing the channel (AMQP 0-9-1 §1.5.2.5). When somebody deletes the exchange,
RabbitMQ drops its bindings without a word and the queue stays: that is noticed at the next binding or reconnect.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Final

import aiormq.exceptions
import structlog
import trio
from aiormq.abc import AbstractChannel

from sidecar.amqp import Delivery
from sidecar.broker.exchanges import PREDECLARED, check_key, check_tappable, check_type
from sidecar.broker.link import Link
from sidecar.broker.messages import to_table, translated, words
from sidecar.broker.port import Binding, BrokerAway, BrokerError, BrokerRefused, Declaration, Exchange, Sink

_INEQUIVALENT_TYPE: Final = re.compile(r"inequivalent arg 'type' .* but current is '([^']*)'")
_GUESS: Final = Declaration("direct")

_log = structlog.get_logger("sidecar.broker")


class RabbitTap:
    """A `sidecar.broker.port.Tap`; `open` makes it stand on a link, and again on the next."""

    def __init__(self, exchange: Exchange, sink: Sink, fallen: Callable[[RabbitTap], None]) -> None:
        self.exchange = exchange
        self.sink = sink
        self.closed = False
        self._fallen = fallen
        self._type: str | None = None
        self._wanted: dict[Binding, None] = {}
        self._link: Link | None = None
        self._standing = self._taken_away = False
        self._stand: set[Binding] = set()
        self._alone: set[Binding] = set()
        self._lock = asyncio.Lock()
        self._queue = self._tag = ""
        self._consuming: AbstractChannel | None = None
        self._binding: AbstractChannel | None = None

    def __repr__(self) -> str:
        return f"<RabbitTap {self.exchange.name!r} {len(self._wanted)} bindings{'' if self._standing else ' down'}>"

    @property
    def exchange_type(self) -> str:
        """What the exchange is; known once the tap has stood."""
        assert self._type is not None
        return self._type

    @property
    def standing(self) -> bool:
        """Whether messages come."""
        return self._standing

    # The port (trio)

    async def bind(self, binding: Binding) -> None:
        """Add a binding. A caller who is cancelled leaves none behind."""
        check_key(binding.key)
        link = self._live_link()
        self._wanted[binding] = None
        try:
            await link.call(self._settle(binding, link))
        except BaseException:
            self._wanted.pop(binding, None)
            if self._link is not None and self._link.alive:
                self._link.start(self._settle(binding, self._link))
            raise

    async def unbind(self, binding: Binding) -> None:
        """Remove a binding."""
        self._wanted.pop(binding, None)
        if self._standing and self._link is not None:
            try:
                await self._link.call(self._settle(binding, self._link))
            except BrokerAway:
                pass
        else:
            await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Cancel the consumer and delete the queue; goes on by itself when the caller is cancelled."""
        self.closed = True
        link, standing = self._link, self._standing
        self.fall()
        if link is None or not link.alive or not standing:
            await trio.lowlevel.checkpoint()
            return
        try:
            await link.call(self._close())
        except BrokerError:
            pass

    def _live_link(self) -> Link:
        if self.closed:
            raise BrokerRefused(f"the tap on exchange '{self.exchange.name}' is closed")
        if self._link is None or not self._standing or not self._link.alive:
            raise BrokerAway("the broker is not connected")
        return self._link

    def fall(self) -> None:
        """Forget what stood: the connection is gone, or the queue."""
        self._standing = False
        if self._link is not None:
            self._link.forget(self._tag)

    # What follows is asyncio's, on the link's loop.

    async def open(self, link: Link) -> None:
        """Declare, consume, and bind everything wanted; messages come from the first binding on."""
        try:
            await self._open(link)
        finally:
            if self.closed:  # meanwhile
                await self.close_remains()

    async def _open(self, link: Link) -> None:
        check_tappable(self.exchange.name)
        await self._close()
        self._link, self._stand, self._lock, self._binding = link, set(), asyncio.Lock(), None
        await self._check_exchange(link)
        channel = self._consuming = await link.channel()
        self._taken_away = False
        self._queue = (await channel.queue_declare(exclusive=True, auto_delete=True)).queue or ""
        self._tag = link.consumer(self._take, channel)
        channel.on_consumer_cancel_callbacks.add(lambda _: self._down(channel))
        channel.closing.add_done_callback(lambda _: self._down(channel))
        await channel.basic_consume(self._queue, never, no_ack=True, consumer_tag=self._tag)
        async with self._lock:
            await self._bind_all(link, tuple(self._wanted))
            if self._taken_away or channel.is_closed or self._link is not link:
                raise BrokerAway("the broker has taken the queue away again")
            self._standing = True
        for binding in self._stand - self._wanted.keys():
            await self._settle(binding, link)

    async def _check_exchange(self, link: Link) -> None:
        exchange_type = await declare(link, self.exchange)
        if self._type is None:
            self._type = exchange_type
        elif self._type != exchange_type:
            raise BrokerRefused(
                f"exchange '{self.exchange.name}' was of type '{self._type}' and is now of type '{exchange_type}'"
            )

    async def _bind_all(self, link: Link, wanted: Sequence[Binding]) -> None:
        """Bind without waiting for each answer: the last one's answer says that all of them stand."""
        channel = await self._binder(link)
        for binding in wanted[:-1]:
            await self._queue_bind(channel, binding, nowait=True)
        for binding in wanted[-1:]:
            await self._queue_bind(channel, binding)
        self._stand.update(wanted)

    async def _queue_bind(self, channel: AbstractChannel, binding: Binding, nowait: bool = False) -> None:
        where, arguments = (self._queue, self.exchange.name, binding.key), to_table(dict(binding.headers))
        if nowait:
            await channel.queue_bind(*where, nowait=True, arguments=arguments)
        else:
            await channel.queue_bind(*where, arguments=arguments)

    async def _settle(self, binding: Binding, link: Link) -> None:
        """Make one binding stand if it is wanted, and fall if it is not."""
        async with self._lock:
            if self._link is not link or not self._standing:
                raise BrokerAway("the broker is not connected")
            if binding in self._wanted and binding not in self._stand:
                await self._bind_waiting(link)
            if binding in self._wanted and binding not in self._stand:
                await self._try_bind(await self._binder(link), binding)
                self._stand.add(binding)
            elif binding in self._stand and binding not in self._wanted:
                self._stand.discard(binding)
                arguments = to_table(dict(binding.headers))
                channel = await self._binder(link)
                await channel.queue_unbind(self._queue, self.exchange.name, binding.key, arguments)

    async def _bind_waiting(self, link: Link) -> None:
        """Bind at once what a thousand returning clients want; where one of it is refused, each is bound alone."""
        waiting = [each for each in self._wanted if each not in self._stand and each not in self._alone]
        if len(waiting) < 2:
            return
        try:
            await self._bind_all(link, waiting)
        except Exception:  # whatever it was, the caller whose binding it was meets it again, alone
            self._alone.update(waiting)
            self._binding = None  # a refusal closes the channel, and aiormq may not have heard of it yet

    async def _try_bind(self, channel: AbstractChannel, binding: Binding) -> None:
        self._alone.discard(binding)
        try:
            await self._queue_bind(channel, binding)
        except aiormq.exceptions.ChannelNotFoundEntity:
            self._down(self._consuming)  # the exchange is gone, and with it every binding: let it be opened again
            raise
        except aiormq.exceptions.AMQPError:
            self._binding = None
            raise

    async def _binder(self, link: Link) -> AbstractChannel:
        if self._binding is None or self._binding.is_closed:
            self._binding = await link.channel()
        return self._binding

    def _take(self, deliveries: Sequence[Delivery]) -> None:
        self.sink.deliver(deliveries)

    def _down(self, channel: AbstractChannel | None) -> None:
        """The broker has cancelled the consumer or closed its channel, while the connection stands."""
        if channel is not self._consuming:
            return
        self._taken_away = True  # `open`, where it is under way, finds it
        if self._standing:
            self.fall()
            if self._link is not None and self._link.alive and not self.closed:
                self._fallen(self)

    async def _close(self) -> None:
        for channel in (self._binding, self._consuming):
            if channel is not None and not channel.is_closed:
                await channel.close(None)  # the queue is exclusive and auto-delete: it goes with its consumer

    async def close_remains(self) -> None:
        """Close what an opening that failed, or came too late, has left on the link."""
        self.fall()
        await self._close()


async def never(message: object) -> None:
    """Stand in for the callback of consumers whose deliveries the splitter takes out before aiormq sees them."""
    raise AssertionError(f"a delivery went past the splitter: {message!r}")


# Declaring, and finding out what is there


async def declare(link: Link, exchange: Exchange) -> str:
    """Declare the exchange where that is asked, else find out its type. Raises `BrokerRefused` (asyncio)."""
    if exchange.declare is not None:
        check_type(exchange.name, exchange.declare.type)
        await _declare(link, exchange.name, exchange.declare)
        return exchange.declare.type
    return check_type(exchange.name, await _type_of(link, exchange.name))


async def _declare(link: Link, name: str, wanted: Declaration, passive: bool = False) -> None:
    async with link.passing() as channel:
        try:
            await channel.exchange_declare(
                name,
                exchange_type=wanted.type,
                passive=passive,
                durable=wanted.durable,
                auto_delete=wanted.auto_delete,
                internal=wanted.internal,
                arguments=to_table(wanted.arguments),
            )
        except aiormq.exceptions.AMQPError as error:
            raise translated(error) from error


async def _type_of(link: Link, name: str) -> str:
    """The type of an exchange that must exist: declared with a guess, the broker's refusal names the truth.

    A plain AMQP client has no other way to ask. Declaring needs the right to configure; without it a topic exchange
    is assumed, which is what most are.
    """
    await _declare(link, name, _GUESS, passive=True)
    if name in PREDECLARED:
        return PREDECLARED[name]
    channel = await link.channel()
    try:
        await channel.exchange_declare(name, exchange_type=_GUESS.type, durable=_GUESS.durable)
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        told = _INEQUIVALENT_TYPE.search(words(error))
        return told[1] if told else _GUESS.type
    except aiormq.exceptions.ChannelAccessRefused:
        _log.warning("exchange's type unknown, taken for topic: declare it, or allow configure", exchange=name)
        return "topic"
    await channel.close(None)
    return _GUESS.type
