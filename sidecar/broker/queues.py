"""What both brokers say of streams and queues alike: the arguments that declare them, and the refusals."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sidecar.amqp import FieldValue
from sidecar.broker.port import BrokerAway, BrokerRefused, StreamQueue, WorkQueue

_INEQUIVALENT: Final = re.compile(r"inequivalent arg '[^']*' for queue '[^']*'")


def stream_arguments(stream: StreamQueue) -> dict[str, FieldValue]:
    """The arguments that declare a stream (https://www.rabbitmq.com/docs/streams); an age is at least a second."""
    age = stream.max_age
    return _given(
        {
            "x-queue-type": "stream",
            "x-max-age": None if age is None else f"{max(1, round(age))}s",
            "x-max-length-bytes": stream.max_bytes,
            "x-stream-max-segment-size-bytes": stream.segment_bytes,
        }
    )


def queue_arguments(queue: WorkQueue) -> dict[str, FieldValue]:
    """The arguments that declare a queue (https://www.rabbitmq.com/docs/ttl, /maxlength): the route's and its own."""
    expires = queue.expires
    known: dict[str, FieldValue] = {
        "x-expires": None if expires is None else max(1, round(expires * 1000)),
        "x-max-length": queue.max_length,
    }
    return _given({**queue.arguments, **_given(known)})


def _given(arguments: Mapping[str, FieldValue]) -> dict[str, FieldValue]:
    return {name: value for name, value in arguments.items() if value is not None}


def missing(name: str) -> BrokerRefused:
    """There is no such queue or stream."""
    return BrokerRefused(f"no queue '{name}'")


def no_stream(name: str) -> BrokerRefused:
    """A queue of another type has the name."""
    return BrokerRefused(f"queue '{name}' exists and is no stream: name another, or delete it")


class NoReplica(BrokerAway):
    """The node of a cluster that answers cannot read the stream; it may be able to soon, or another may."""


def no_replica(name: str) -> NoReplica:
    """There is no replica of the stream where we are connected."""
    return NoReplica(
        f"this node has no running replica of stream '{name}': name one that has in broker.url, or add one "
        "(rabbitmq-streams add_replica)"
    )


def inequivalent(name: str, argument: str, received: object, current: object) -> BrokerRefused:
    """A queue of that name was declared otherwise (§1.7.2.1, equivalence)."""
    said = (
        f"inequivalent arg '{argument}' for queue '{name}': received {_said(received)} but current is {_said(current)}"
    )
    return with_way_out(BrokerRefused(said))


def with_way_out(refusal: BrokerRefused) -> BrokerRefused:
    """The same refusal; where a queue exists with other arguments, with what can be done about it."""
    if _INEQUIVALENT.search(str(refusal)):
        return BrokerRefused(f"{refusal}; a queue's arguments never change: configure the same ones, or delete it")
    return refusal


def _said(value: object) -> str:
    return "none" if value is None else f"'{str(value).lower() if isinstance(value, bool) else value}'"
