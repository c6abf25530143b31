"""Where a subscription's messages come from: what the hub asks of an exchange or a stream, and what it lends them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Protocol

from sidecar.broker.port import Binding, Broker, BrokerError, Exchange, StreamQueue
from sidecar.deadlines import Deadlines

if TYPE_CHECKING:
    from sidecar.hub.subscription import Subscription, Wanted

Spec = Exchange | StreamQueue
"""What names a source; equal specs share one."""


class Source(Protocol):
    """One exchange or stream, and the subscriptions of this process on it."""

    users: int
    """Subscriptions, made or being made."""

    @property
    def spec(self) -> Spec:
        """What it is."""

    @property
    def subscriptions(self) -> Collection[Subscription]:
        """Those that hear it."""

    async def open(self) -> None:
        """Make it hear, once. Raises `BrokerError`."""

    async def hold(self, bindings: Sequence[Binding]) -> None:
        """Count one more user of these bindings; they stand when this returns. Raises `BrokerError`."""

    def drop(self, bindings: Sequence[Binding]) -> None:
        """Count one user less."""

    def make(self, wanted: Wanted) -> Subscription:
        """Make a subscription of the kind this source can serve."""

    def enlist(self, subscription: Subscription) -> None:
        """Let a subscription hear its messages."""

    def strike(self, subscription: Subscription) -> None:
        """Let it hear no more."""

    def spoil(self) -> None:
        """Nobody uses the source any more."""


class Ground(Protocol):
    """What the hub lends its sources."""

    broker: Broker
    deadlines: Deadlines

    def later(self, call: Callable[..., object], *args: object) -> None:
        """Do something that may wait, in the hub's own nursery; its failures are logged."""

    def flush(self) -> None:
        """Write what the lanes have corked."""

    def forget(self, source: Source, error: BrokerError) -> None:
        """The broker refuses this source: its streams end, and a later subscriber begins anew."""
