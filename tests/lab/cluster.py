"""A RabbitMQ cluster of several throwaway nodes, each of which can be killed alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab.rabbitmq import RabbitNode


@contextlib.contextmanager
def cluster(folder: Path, size: int) -> Iterator[list[RabbitNode]]:
    """A cluster for a block; killed nodes may be started again within it."""
    nodes: list[RabbitNode] = []
    for number in range(size):
        (folder / f"node{number}").mkdir()
        nodes.append(RabbitNode(folder / f"node{number}", joins=nodes[0] if nodes else None))
    try:
        nodes[0].start()
        with ThreadPoolExecutor(size) as pool:
            list(pool.map(RabbitNode.start, nodes[1:]))
        yield nodes
    finally:
        for node in nodes:
            node.kill()
        nodes[0].stop()
