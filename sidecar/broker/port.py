"""The broker's port: what the hub may ask of a message broker, whoever answers.

Strategy: the port speaks AMQP 0-9-1's nouns (exchange, queue, binding, routing key) and two kinds of verbs.
What may wait (declare, bind, publish) is ``async`` and raises one of the errors below; what carries messages is a
plain call into a sink, made from the task that has read the broker's socket, so that nothing is scheduled between a
message's arrival and its way out. An implementation keeps its taps through lost connections: it declares and binds
them again by itself and then tells each sink, once, that messages may have been missed.

Streams and queues are read otherwise than taps: a `Reader` of a stream and a `Consumer` of a queue belong to one
connection to the broker and end with it, because only the caller knows where to go on.

Two implementations pass one contract suite: `sidecar.broker.memory` and `sidecar.broker.rabbitmq`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Protocol, TypeAlias

from sidecar.amqp import Delivery, FieldValue, Properties


class BrokerError(Exception):
    """Something the broker would not or could not do; the text is one line, fit for a log, without secrets."""


class BrokerAway(BrokerError):  # noqa: N818
    """There is no connection now (or it broke during the call); it will be tried again by itself."""


class BrokerRefused(BrokerError):  # noqa: N818
    """The broker answered no: a missing exchange, another type, no permission. Trying again at once is useless."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """How an exchange is declared (AMQP 0-9-1 §1.7.2.1) where the configuration asks for it."""

    type: str
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: Mapping[str, FieldValue] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange by name; without a declaration it must exist already."""

    name: str
    declare: Declaration | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding key (with wildcards where the exchange knows them) and, for headers exchanges, its arguments.

    ``headers`` is a tuple of (name, value) sorted by name, ``x-match`` included, so that equal bindings are equal.
    """

    key: str
    headers: tuple[tuple[str, FieldValue], ...] = ()


Offset: TypeAlias = "int | Literal['first', 'last', 'next'] | datetime"
"""Where to begin in a stream: a message's offset (inclusive), an end of it, or a time (second precision)."""


FILTER_VALUE: Final = "x-stream-filter-value"
"""The header by which a publisher to a stream says which readers a message is for."""


@dataclass(frozen=True, slots=True)
class StreamQueue:
    """A RabbitMQ stream: an append-only log under a queue's name, read without taking anything out.

    With ``declare`` it is declared with these retention limits, and bound; it must not exist with others. Without,
    it must exist already and nothing is bound.
    """

    name: str
    declare: bool = False
    max_age: float | None = None
    """Seconds (``x-max-age``, whole seconds)."""
    max_bytes: int | None = None
    """Bytes (``x-max-length-bytes``)."""
    segment_bytes: int | None = None
    """Bytes (``x-stream-max-segment-size-bytes``); retention works by whole segments."""
    bindings: tuple[tuple[Exchange, Binding], ...] = ()


@dataclass(frozen=True, slots=True)
class WorkQueue:
    """A queue whose messages are for one consumer each; with ``declare`` it is declared, and bound."""

    name: str
    declare: bool = False
    durable: bool = True
    expires: float | None = None
    """Seconds without a consumer after which the broker deletes it (``x-expires``)."""
    max_length: int | None = None
    """Messages (``x-max-length``)."""
    arguments: Mapping[str, FieldValue] = field(default_factory=dict, hash=False)
    bindings: tuple[tuple[Exchange, Binding], ...] = ()


class ReadSink(Protocol):
    """Who hears a `Reader` or a `Consumer`. Every method is synchronous, quick, and must not raise.

    It may be called before `Broker.read_stream` or `Broker.consume` has returned, and may itself call
    `Reader.credit` or `Consumer.acknowledge`.
    """

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Take what arrived in one read of the broker's socket, in order (see `sidecar.cursor.offset_of`)."""

    def ended(self, error: BrokerError) -> None:
        """No more will come: `BrokerAway` with the connection, `BrokerRefused` where stream or queue was deleted."""


class Reader(Protocol):
    """One reading of a stream."""

    def credit(self, count: int) -> None:
        """So many of the messages delivered are done with: the broker may send as many more. Does not wait."""

    async def aclose(self) -> None:
        """Stop reading; quiet when the broker is away. `ReadSink` hears nothing afterwards."""


class Consumer(Protocol):
    """One consumer of a queue."""

    def acknowledge(self, delivery_tag: int) -> None:
        """All messages up to this one are done with (basic.ack, multiple). Does not wait."""

    async def aclose(self) -> None:
        """Stop; what was not acknowledged goes back to the queue. `ReadSink` hears nothing afterwards."""


class Sink(Protocol):
    """Who hears a tap. Every method is synchronous, quick, and must not raise."""

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Take what arrived in one read of the broker's socket, in the broker's order."""

    def lost(self) -> None:
        """The connection is gone; the tap will be restored by itself."""

    def restored(self) -> None:
        """The tap's queue and all its bindings stand again; messages in between may have been missed."""

    def refused(self, error: BrokerRefused) -> None:
        """The tap cannot stand any more (its exchange was deleted, say). It is closed; open another to try again."""


class Tap(Protocol):
    """One exclusive queue of this process on one exchange, consumed without acknowledgements."""

    @property
    def exchange_type(self) -> str:
        """``direct``, ``topic``, ``fanout`` or ``headers``: what the exchange really is, found out where undeclared."""

    async def bind(self, binding: Binding) -> None:
        """Add a binding; once this returns, no message published later is missed.

        Raises `BrokerAway` (the binding is then *not* kept) or `BrokerRefused`. Not counted: the caller counts.
        """

    async def unbind(self, binding: Binding) -> None:
        """Remove a binding. While the broker is away it is just forgotten. Raises `BrokerRefused`."""

    async def aclose(self) -> None:
        """Cancel the consumer and delete the queue; quiet when the broker is away."""


class Broker(Protocol):
    """A connection to a broker, kept up by `run`; and what it keeps, in streams and in queues."""

    reconnects: int
    """How often it came back."""

    @property
    def connected(self) -> bool:
        """Whether messages can flow now."""

    @property
    def problem(self) -> str | None:
        """Why it is not connected: one line for people, without secrets; None while connected."""

    async def run(self) -> None:
        """Connect and keep connected until cancelled (trio). Call it once, in a nursery, before anything else."""

    async def wait_connected(self) -> None:
        """Return once connected. The caller holds the timeout."""

    async def tap(self, exchange: Exchange, sink: Sink) -> Tap:
        """Open a queue on an exchange, without bindings yet. Raises `BrokerAway`, `BrokerRefused`."""

    async def publish(self, exchange: str, routing_key: str, body: bytes, properties: Properties | None = None) -> None:
        """Publish one message; return when the broker has confirmed it. Raises `BrokerAway`, `BrokerRefused`."""

    async def open_stream(self, stream: StreamQueue) -> None:
        """Declare and bind a stream, or find it.

        Raises `BrokerAway`, or `BrokerRefused` where it exists with other arguments, is no stream, or is missing.
        """

    async def read_stream(
        self, name: str, offset: Offset, sink: ReadSink, *, window: int, filters: Sequence[str] = ()
    ) -> Reader:
        """Read a stream from an offset on, at most ``window`` messages ahead of `Reader.credit`.

        An offset that retention has passed is clamped to the oldest message, in silence; one that the stream has not
        reached is waited for, and nothing comes before it: compare what arrives. With ``filters`` every message whose
        header `FILTER_VALUE` is one of them comes, and of the others none, some or all: brokers before 3.13 know no
        filter, later ones hold back what is written in one piece and has none of the values. What is held back leaves
        no trace, not even at the stream's end. Raises `BrokerAway`, `BrokerRefused`.
        """

    async def consume(self, queue: WorkQueue, sink: ReadSink, *, prefetch: int) -> Consumer:
        """Declare (where asked for), bind, and consume a queue, at most ``prefetch`` messages unacknowledged.

        Raises `BrokerAway`, `BrokerRefused`.
        """
