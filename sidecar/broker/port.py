"""The broker's port: what the hub may ask of a message broker, whoever answers.

Strategy: the port speaks AMQP 0-9-1's nouns (exchange, queue, binding, routing key) and two kinds of verbs.
What may wait (declare, bind, publish) is ``async`` and raises one of the errors below; what carries messages is a
plain call into a sink, made from the task that has read the broker's socket, so that nothing is scheduled between a
message's arrival and its way out. An implementation keeps its taps through lost connections: it declares and binds
them again by itself and then tells each sink, once, that messages may have been missed.

Two implementations pass one contract suite: `sidecar.broker.memory` and `sidecar.broker.rabbitmq`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

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
    """A connection to a broker, kept up by `run`."""

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

    async def publish(
        self, exchange: str, routing_key: str, body: bytes, properties: Properties | None = None
    ) -> None:
        """Publish one message; return when the broker has confirmed it. Raises `BrokerAway`, `BrokerRefused`."""
