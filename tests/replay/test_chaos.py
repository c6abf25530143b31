"""Replay on real parts, and everything that may happen to them: the broker killed, sidecars killed, clients vanishing.

Strategy: random, but told again by its seed (printed; ``CHAOS_SEED`` sets it). Nothing is timed: what happens next
happens when the publisher has come so far.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trio

from tests.lab.publisher import publishing
from tests.lab.rabbitmq import RabbitNode
from tests.replay.numbering import STREAM, Numbers
from tests.replay.replicas import Pair, pair
from tests.replay.returning import MANNERS, Returning
from tests.replay.test_outage import remember

CLIENTS = 20
COUNT = 3000
WITHIN = 120.0
"""Seconds for one story; it takes a fifth of them on a machine that does nothing else."""


def seeded() -> random.Random:
    """Where all that is random comes from."""
    seed = os.environ.get("CHAOS_SEED") or str(random.randrange(10**9))
    print(f"CHAOS_SEED={seed}")
    return random.Random(seed)


def clients_of(address: tuple[str, int], chance: random.Random, longest: int) -> list[Returning]:
    """Those who listen, each with a chance of its own."""
    return [Returning(address, "/numbers", random.Random(chance.random()), longest) for _ in range(CLIENTS)]


def told(clients: Sequence[Returning]) -> str:
    """How the visits of all have ended."""
    ends = [end for client in clients for end in client.visits]
    return ", ".join(f"{sum(client.visits.get(end, 0) for client in clients)} {end}" for end in sorted(set(ends)))


def runs_of(numbers: Sequence[str]) -> str:
    """What was heard, for a person: runs of numbers and resets."""
    keyed = [(place - int(text) if text.isdigit() else text, text) for place, text in enumerate(numbers)]
    runs = [[text for _, text in group] for _, group in itertools.groupby(keyed, key=lambda pair: pair[0])]
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]}…{run[-1]}" for run in runs)


async def in_thread(call: Callable[..., object], *arguments: object) -> None:
    await trio.to_thread.run_sync(lambda: call(*arguments), abandon_on_cancel=True)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RabbitNode]:
    """A RabbitMQ that may be killed."""
    (tmp_path / "node").mkdir()
    node = RabbitNode(tmp_path / "node")
    try:
        node.start()
        yield node
    finally:
        node.stop()


# Broker and sidecar killed


async def broker_and_sidecar_killed(folder: Path, node: RabbitNode, count: int, within: float = WITHIN) -> None:
    """Every client hears exactly the numbers from 1 to `count`, in order."""
    chance = seeded()
    with pair(folder, node.url()) as sidecars:
        numbers = Numbers(node.url())
        clients = clients_of(sidecars.address, chance, max(50, count // 8))
        blows = [node.restart, sidecars.replicas[0].replace, node.restart]
        with trio.fail_after(within):
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(client.until, str(count))
                for client in clients:
                    await client.arrived.wait()
                await in_thread(remember, node)
                nursery.start_soon(in_thread, numbers.publish_until, count)
                for number, blow in enumerate(blows, 1):
                    await in_thread(numbers.wait_confirmed, count * number // 4, within)
                    await in_thread(blow)
        print(f"{told(clients)}; {numbers.breaks} breaks of the publisher")
        for client in clients:
            assert client.heard == numbers.texts(1, count), runs_of(client.heard)
        assert numbers.breaks >= 2
        for manner in MANNERS:
            assert sum(client.visits.get(manner, 0) for client in clients) > 5, told(clients)


async def test_broker_and_sidecar_killed(tmp_path: Path, node: RabbitNode) -> None:
    await broker_and_sidecar_killed(tmp_path, node, COUNT)


# One reset


async def with_clients(
    sidecars: Pair, numbers: Numbers, count: int, between: Callable[[Sequence[Returning]], Awaitable[None]]
) -> list[Returning]:
    """The first half of the numbers, what happens between, and the second half, under clients that come and go."""
    clients = clients_of(sidecars.address, seeded(), max(50, count // 8))
    with trio.fail_after(WITHIN):
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.until, numbers.text(count))
            for client in clients:
                await client.arrived.wait()
            await in_thread(numbers.publish_until, count // 2)
            await between(clients)
            await in_thread(numbers.publish_until, count)
    print(told(clients))
    return clients


def assert_one_reset(client: Returning, numbers: Numbers, reason: str, count: int) -> tuple[int, int]:
    """Numbers without a gap, the reset, numbers without a gap to the last; returns the two at its sides."""
    story = runs_of(client.heard)
    at = client.heard.index(f"reset: {reason}")
    before, after = client.heard[:at], client.heard[at + 1 :]
    assert before == numbers.texts(1, len(before)), story
    assert after == numbers.texts(int(after[0]), count), story
    return len(before), int(after[0])


async def test_the_stream_is_deleted_and_made_anew(tmp_path: Path, vhost_url: str) -> None:
    count = 1000
    with pair(tmp_path, vhost_url) as sidecars:
        numbers = Numbers(vhost_url)

        async def delete(_: Sequence[Returning]) -> None:
            with publishing(vhost_url) as operator:
                operator.delete_queue(STREAM)

        clients = await with_clients(sidecars, numbers, count, delete)
        for client in clients:
            last, first = assert_one_reset(client, numbers, "recreated", count)
            assert last <= count // 2
            assert first == count // 2 + 1
