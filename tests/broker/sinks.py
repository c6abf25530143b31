"""A sink that remembers, and lets a test wait for what it expects."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import BrokerError, BrokerRefused
from sidecar.cursor import offset_of

PATIENCE = 20.0


class Heard:
    """Deliveries that grow, and a wait for what they should be."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self._changed = trio.Event()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, true: Callable[[], object]) -> None:
        """Wait until it is true, looked at again whenever something was heard."""
        with trio.fail_after(PATIENCE):
            while not true():
                await self._changed.wait()

    @property
    def bodies(self) -> list[bytes]:
        return [each.body for each in self.deliveries]


class Recorder(Heard):
    """Hears a tap; `deliveries` and `events` grow."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[str] = []
        self.refusal: BrokerRefused | None = None

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self.deliveries.extend(deliveries)
        self._wake()

    def lost(self) -> None:
        self.events.append("lost")
        self._wake()

    def restored(self) -> None:
        self.events.append("restored")
        self._wake()

    def refused(self, error: BrokerRefused) -> None:
        self.events.append("refused")
        self.refusal = error
        self._wake()

    async def until_event(self, *events: str) -> None:
        """Wait until these were heard, exactly and in this order."""
        await self.until(lambda: len(self.events) >= len(events))
        assert self.events == list(events)

    async def until_key(self, routing_key: str) -> list[str]:
        """Wait for a message with this routing key; return the keys of all that came before it."""
        await self.until(lambda: routing_key in self.keys)
        return self.keys[: self.keys.index(routing_key)]

    @property
    def keys(self) -> list[str]:
        return [each.routing_key for each in self.deliveries]


class ReadRecorder(Heard):
    """Hears a reader or a consumer; credits or acknowledges only when the test says so, or at once."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BrokerError] = []
        self.on_delivery: Callable[[Sequence[Delivery]], None] = lambda _: None

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        self.deliveries.extend(deliveries)
        self.on_delivery(deliveries)
        self._wake()

    def ended(self, error: BrokerError) -> None:
        self.errors.append(error)
        self._wake()

    async def until_bodies(self, *bodies: bytes) -> None:
        """Wait until these were heard, exactly and in this order."""
        await self.until(lambda: len(self.deliveries) >= len(bodies))
        assert self.bodies == list(bodies)

    async def until_ended(self) -> BrokerError:
        """Wait for the end; returns the error."""
        await self.until(lambda: self.errors)
        (error,) = self.errors
        return error

    @property
    def offsets(self) -> list[int]:
        return [offset_of(each) for each in self.deliveries]
