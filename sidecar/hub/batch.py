"""What one read of the broker's socket means for the subscriptions: each gets its blocks in one piece."""

from __future__ import annotations

import time

import structlog

from sidecar.amqp import Delivery
from sidecar.hub.subscription import Subscription
from sidecar.observe.reasons import DropReason

_log = structlog.get_logger("sidecar.hub")


class Batch:
    """The blocks of one batch of deliveries, by subscription."""

    __slots__ = ("_began", "_blocks")

    def __init__(self, began: float) -> None:
        """``began``: when the batch was received (time.perf_counter)."""
        self._began = began
        self._blocks: dict[Subscription, list[bytes]] = {}

    def add(self, subscription: Subscription, delivery: Delivery, event_id: str | None = None) -> None:
        """Encode a message for a subscription that hears it."""
        subscription.metrics.received += 1
        if not subscription.heard:
            return
        block = encoded(subscription, delivery, event_id)
        if block is not None:
            blocks = self._blocks.get(subscription)
            if blocks is None:
                self._blocks[subscription] = [block]
            else:
                blocks.append(block)

    def write(self) -> None:
        """Write each subscription's blocks to its lanes."""
        for subscription, blocks in self._blocks.items():
            subscription.write(blocks)

    def measure(self) -> None:
        """Note how long it took from the receipt to the last socket."""
        took = time.perf_counter() - self._began
        for subscription, blocks in self._blocks.items():
            subscription.metrics.observe_delivery(took, len(blocks))


def encoded(subscription: Subscription, delivery: Delivery, event_id: str | None) -> bytes | None:
    """Return a message's block; None where it is filtered out, or cannot be encoded (which is logged and counted)."""
    try:
        return subscription.encode(delivery, event_id)
    except Exception:  # one message that cannot be encoded must not cost the others of its batch
        _log.exception("a message could not be encoded", route=subscription.metrics.path)
        subscription.metrics.dropped(DropReason.UNENCODABLE, len(subscription.subscribers))
        return None
