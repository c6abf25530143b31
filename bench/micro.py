"""In process: does a message cost more when 100 000 binding keys are subscribed than with 10?

Strategy: what the hub does with a message that one subscription hears, up to the sockets: the broker's bytes are split
(`sidecar.amqp`), the message is matched (`sidecar.topic`) and encoded (`sidecar.hub`). Distinct binding keys, each
message meeting one of them; CPU time, the best of several tries, the garbage collector at rest. Once with a few routing
keys that come again and again, once with routing keys never seen before, so that a cache cannot answer. The ratio
reported is the worse of the two. Beside it, what the match alone takes: among a hundred thousand keys whatever it
touches is in no cache of the processor's.

usage: python -m bench.micro (prints JSON)
"""

from __future__ import annotations

import gc
import json
import struct
import time
from collections.abc import Callable, Mapping, Sequence

from sidecar.amqp import FieldValue, Splitter
from sidecar.hub.encoder import Encoder
from sidecar.topic import Index, index_for

FEW, MANY = 10, 100_000
ASKED = 20_000
TOGETHER = 200
"""Messages in one read of the broker's socket."""
TRIES = 9
TAG = "sidecar.1"
BODY = b'{"n":"000000000000","t":"0000000000000000000","state":"paid","order":4711,"total":"129.90 EUR","note":"ok"}'


def _no_headers() -> Mapping[str, FieldValue]:
    return {}


def _filled(size: int) -> Index[int]:
    index: Index[int] = index_for("topic")
    for number in range(size):
        index.add(f"order.{number}.*", (), number)
    return index


def _frame(kind: int, payload: bytes) -> bytes:
    """A frame on channel 1 (AMQP 0-9-1 §4.2.3)."""
    return struct.pack(">BHI", kind, 1, len(payload)) + payload + b"\xce"


def _short(text: str) -> bytes:
    return struct.pack("B", len(text)) + text.encode()


def _delivery(key: str) -> bytes:
    """The frames of one Basic.Deliver (§1.8.3.9)."""
    method = struct.pack(">HH", 60, 60) + _short(TAG) + struct.pack(">QB", 1, 0) + _short("bench") + _short(key)
    header = struct.pack(">HHQH", 60, 0, len(BODY), 0)
    return _frame(1, method) + _frame(2, header) + _frame(3, BODY)


def _reads(keys: Sequence[str]) -> list[bytes]:
    return [b"".join(map(_delivery, keys[at : at + TOGETHER])) for at in range(0, len(keys), TOGETHER)]


def _match(index: Index[int], keys: Sequence[str]) -> float:
    """CPU seconds a match."""
    match, began = index.match, time.process_time_ns()
    for key in keys:
        match(key, _no_headers)
    return (time.process_time_ns() - began) / 1e9 / len(keys)


def _message(index: Index[int], keys: Sequence[str]) -> float:
    """CPU seconds a message, from the broker's bytes to the block."""
    splitter, reads = Splitter(), _reads(keys)
    splitter.add(TAG)
    encoder, blocks = Encoder(event=None, envelope=False, where={}, parameters={}), 0
    began = time.process_time_ns()
    for data in reads:
        for delivery in splitter.feed(data)[0]:
            for _ in index.match(delivery.routing_key, lambda: delivery.properties.headers):  # noqa: B023
                blocks += encoder.encode(delivery) is not None
    seconds = (time.process_time_ns() - began) / 1e9
    if blocks != len(keys):
        raise AssertionError(f"{blocks} blocks of {len(keys)} messages")
    return seconds / len(keys)


def _check(index: Index[int], keys: Sequence[str]) -> None:
    if wrong := [key for key in keys if list(index.match(key, _no_headers)) != [int(key.split(".")[1])]]:
        raise AssertionError(f"not met by exactly its own binding key: {wrong[:3]}")


def _again(size: int, _turn: int) -> list[str]:
    """A few routing keys, again and again."""
    return [f"order.{number % min(size, FEW)}.paid" for number in range(ASKED)]


def _fresh(size: int, turn: int) -> list[str]:
    """Routing keys spread over all bindings, each asked once."""
    return [f"order.{n * 7919 % size}.paid{n}-{turn}" for n in range(ASKED)]


Cost = Callable[[Index[int], Sequence[str]], float]
Keys = Callable[[int, int], list[str]]


def _best(cost: Cost, few: Index[int], many: Index[int], keys: Keys, first: int) -> tuple[float, float]:
    """The best of several tries of each; they take turns, so that a machine that drifts does so for both."""
    turns = range(first, first + TRIES)
    tries = [(cost(few, keys(FEW, turn)), cost(many, keys(MANY, turn))) for turn in turns]
    return min(each for each, _ in tries), min(each for _, each in tries)


def measure() -> dict[str, float]:
    """Microseconds a message and a match: few and many binding keys, routing keys never seen; the worse ratios."""
    few, many = _filled(FEW), _filled(MANY)
    for index, size in ((few, FEW), (many, MANY)):
        _check(index, [*_again(size, 0)[:FEW], f"order.{size - 1}.paid"])
    gc.collect()
    gc.disable()
    try:
        again, fresh = (_best(_message, few, many, keys, 0) for keys in (_again, _fresh))
        alone = _best(_match, few, many, _fresh, TRIES)
    finally:
        gc.enable()
    return {
        "few_us": again[0] * 1e6,
        "many_us": again[1] * 1e6,
        "few_fresh_us": fresh[0] * 1e6,
        "many_fresh_us": fresh[1] * 1e6,
        "cost_ratio": max(again[1] / again[0], fresh[1] / fresh[0]),
        "few_match_us": alone[0] * 1e6,
        "many_match_us": alone[1] * 1e6,
    }


if __name__ == "__main__":
    print(json.dumps(measure()))
