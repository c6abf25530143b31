"""Matching in process: does a message cost more when 100 000 binding keys are subscribed than with 10?

Strategy: the hub's own index (`sidecar.topic`), filled with distinct keys, asked with routing keys that each meet one
of them; CPU time, the best of several tries, the garbage collector at rest. Once with a few routing keys that come
again and again, once with routing keys never seen before, so that a cache cannot answer. The ratio reported is the
worse of the two.

usage: python -m bench.micro (prints JSON)
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Mapping, Sequence

from sidecar.amqp import FieldValue
from sidecar.topic import Index, index_for

FEW, MANY = 10, 100_000
ASKED = 20_000
TRIES = 5


def _no_headers() -> Mapping[str, FieldValue]:
    return {}


def _filled(size: int) -> Index[int]:
    index: Index[int] = index_for("topic")
    for number in range(size):
        index.add(f"order.{number}.*", (), number)
    return index


def _seconds(index: Index[int], keys: Sequence[str]) -> float:
    """CPU seconds a match."""
    match, began = index.match, time.process_time_ns()
    for key in keys:
        match(key, _no_headers)
    return (time.process_time_ns() - began) / 1e9 / len(keys)


def _check(index: Index[int], keys: Sequence[str]) -> None:
    if wrong := [key for key in keys if list(index.match(key, _no_headers)) != [int(key.split(".")[1])]]:
        raise AssertionError(f"not met by exactly its own binding key: {wrong[:3]}")


def _again(index: Index[int], size: int) -> float:
    keys = [f"order.{number % min(size, FEW)}.paid" for number in range(ASKED)]
    _check(index, keys[:FEW])
    return min(_seconds(index, keys) for _ in range(TRIES))


def _fresh(index: Index[int], size: int) -> float:
    """Routing keys spread over all bindings, each asked once."""
    tries = [[f"order.{n * 7919 % size}.paid{n}-{turn}" for n in range(ASKED)] for turn in range(TRIES)]
    _check(index, [f"order.{size - 1}.paid"])
    return min(_seconds(index, keys) for keys in tries)


def measure() -> dict[str, float]:
    """Microseconds a match: few and many binding keys, routing keys seen before and never seen; the worse ratio."""
    few, many = _filled(FEW), _filled(MANY)
    gc.collect()
    gc.disable()
    try:
        again = _again(few, FEW), _again(many, MANY)
        fresh = _fresh(few, FEW), _fresh(many, MANY)
    finally:
        gc.enable()
    return {
        "few_us": again[0] * 1e6,
        "many_us": again[1] * 1e6,
        "few_fresh_us": fresh[0] * 1e6,
        "many_fresh_us": fresh[1] * 1e6,
        "cost_ratio": max(again[1] / again[0], fresh[1] / fresh[0]),
    }


if __name__ == "__main__":
    print(json.dumps(measure()))
