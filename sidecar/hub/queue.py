"""A queue's messages for one connection: competing consumers, acknowledged when the socket has them.

Strategy: a queue route is not shared: each connection has a consumer of its own, and the broker deals the messages
out. A message is acknowledged when all its bytes have been handed to the connection's socket; what was not by then
goes back to the queue with the consumer. Prefetch is the bound on what waits in between.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import BrokerAway, BrokerError, BrokerRefused, Consumer, WorkQueue
from sidecar.hub.batch import Batch
from sidecar.hub.source import Ground
from sidecar.hub.subscription import Start, Subscriber, Subscription, Wanted
from sidecar.observe.reasons import CloseReason

PAUSE: Final = 0.2
"""Seconds between tries to consume again."""


class QueueSubscription(Subscription):
    """One connection's share of a queue."""

    def __init__(self, wanted: Wanted, ground: Ground) -> None:
        super().__init__(wanted)
        assert isinstance(wanted.source, WorkQueue)
        self._queue = wanted.source
        self._ground = ground
        self._consumer: Consumer | None = None
        self._subscriber: Subscriber | None = None
        self._early: list[Delivery] = []
        self._unacknowledged = 0
        self._lost: BrokerError | None = None
        self._retired = False
        self._changed = trio.Event()

    async def open(self) -> None:
        """Begin to consume. Raises `BrokerError`."""
        self._lost, self._unacknowledged = None, 0
        consumer = await self._ground.broker.consume(self._queue, self, prefetch=self.wanted.prefetch)
        if self._retired:
            await consumer.aclose()
        elif self._lost is None:
            self._consumer = consumer
            self._acknowledge_settled()

    def join(self, subscriber: Subscriber, start: Start) -> None:
        """Hand over what has arrived already, and all that comes."""
        self._subscriber = subscriber
        self.attach(subscriber)
        early, self._early = self._early, []
        self.deliver(early)
        subscriber.spawn(self._keep_consuming, subscriber)

    async def _keep_consuming(self, subscriber: Subscriber) -> None:
        while not self._retired:
            if self._lost is None:
                self._changed = trio.Event()
                await self._changed.wait()
            elif isinstance(self._lost, BrokerRefused):
                subscriber.end(CloseReason.BROKER_REFUSED)
            else:
                await self._consume_again()

    async def _consume_again(self) -> None:
        await self._ground.broker.wait_connected()
        if self._retired:
            return
        try:
            await self.open()
        except BrokerError as error:
            self._lost = error
            if isinstance(error, BrokerAway):
                await trio.sleep(PAUSE)

    # ------------------------------------------------------------------ the broker's sink

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        """Write messages, and acknowledge them once the socket has them."""
        if self._subscriber is None:
            self._early += deliveries
        elif deliveries and not self._subscriber.ended:
            batch = Batch(time.perf_counter())
            for delivery in deliveries:
                batch.add(self, delivery)
            batch.write()
            self._ground.flush()
            batch.measure()
            self._unacknowledged = deliveries[-1].delivery_tag
            self._acknowledge_settled()

    def ended(self, error: BrokerError) -> None:
        """The consumer is gone, with the connection or with its queue."""
        self._consumer, self._lost = None, error
        self._early.clear()
        self._changed.set()

    def caught_up(self) -> None:
        """Everything that was written is in the socket."""
        self._acknowledge_settled()

    def _acknowledge_settled(self) -> None:
        """Acknowledge what is in the socket; an ended stream has what it has acknowledged, and no more."""
        subscriber = self._subscriber
        if self._unacknowledged and self._consumer and subscriber and not subscriber.ended and subscriber.settled():
            settled, self._unacknowledged = self._unacknowledged, 0
            self._consumer.acknowledge(settled)  # may deliver the next ones at once

    def retire(self) -> None:
        """The stream is over: what was not acknowledged goes back to the queue."""
        self._retired = True
        self._changed.set()
        consumer, self._consumer = self._consumer, None
        self._early.clear()
        if consumer is not None:
            self._ground.later(consumer.aclose)
