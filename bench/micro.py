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
from collections.abc import Callable, Mapping, Sequence

from sidecar.amqp import FieldValue
from sidecar.topic import Index, index_for

FEW, MANY = 10, 100_000
ASKED = 20_000
TRIES = 9


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


def _again(size: int, _turn: int) -> list[str]:
    """A few routing keys, again and again."""
    return [f"order.{number % min(size, FEW)}.paid" for number in range(ASKED)]


def _fresh(size: int, turn: int) -> list[str]:
    """Routing keys spread over all bindings, each asked once."""
    return [f"order.{n * 7919 % size}.paid{n}-{turn}" for n in range(ASKED)]


def _best(few: Index[int], many: Index[int], keys: Callable[[int, int], list[str]]) -> tuple[float, float]:
    """The best of several tries of each; they take turns, so that a machine that drifts does so for both."""
    tries = [(_seconds(few, keys(FEW, turn)), _seconds(many, keys(MANY, turn))) for turn in range(TRIES)]
    return min(each for each, _ in tries), min(each for _, each in tries)


def measure() -> dict[str, float]:
    """Microseconds a match: few and many binding keys, routing keys seen before and never seen; the worse ratio."""
    few, many = _filled(FEW), _filled(MANY)
    for index, size in ((few, FEW), (many, MANY)):
        _check(index, [*_again(size, 0)[:FEW], f"order.{size - 1}.paid"])
    gc.collect()
    gc.disable()
    try:
        again, fresh = _best(few, many, _again), _best(few, many, _fresh)
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
