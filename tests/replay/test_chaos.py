"""Replay on real parts, and everything that may happen to them: the broker killed, sidecars killed, clients vanishing.

Strategy: random, but told again by its seed (printed; ``CHAOS_SEED`` sets it). Nothing is timed: what happens next
happens when the publisher has come so far.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trio
from selenium import webdriver

from tests.e2e.test_browser import until
from tests.lab import wire
from tests.lab.publisher import publishing
from tests.lab.rabbitmq import RabbitNode
from tests.replay.numbering import STREAM, Numbers
from tests.replay.replicas import Pair, Replica, pair, routes, running
from tests.replay.returning import MANNERS, Condition, Returning, has_place, heard, heard_some
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
    with pair(folder, node.url()) as sidecars, contextlib.closing(Numbers(node.url())) as numbers:
        clients = clients_of(sidecars.address, chance, max(50, count // 8))
        blows = [node.restart, sidecars.replicas[0].replace, node.restart]
        with trio.fail_after(within):
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(client.until, heard(str(count)))
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
                nursery.start_soon(client.until, heard(numbers.text(count)))
            for client in clients:
                await client.arrived.wait()
            await in_thread(numbers.publish_until, count // 2)
            await between(clients)
            await in_thread(numbers.publish_until, count)
    print(told(clients))
    return clients


def assert_one_reset(client: Returning, numbers: Numbers, reason: str, count: int) -> tuple[int, int]:
    """Numbers without a gap, the reset, numbers without a gap to the last; returns the two at its sides.

    A reset has no id: who leaves before anything has come after it brings the old place again, and is told again.
    """
    heard, story = [text for text, _ in itertools.groupby(client.heard)], runs_of(client.heard)
    assert [text for text in heard if text.startswith("reset")] == [f"reset: {reason}"], story
    at = heard.index(f"reset: {reason}")
    before, after = heard[:at], heard[at + 1 :]
    assert before == numbers.texts(1, len(before)), story
    assert after == numbers.texts(int(after[0]), count), story
    assert len(client.heard) - client.heard.count(f"reset: {reason}") == len(before) + len(after), story
    return len(before), int(after[0])


async def test_the_stream_is_deleted_and_made_anew(tmp_path: Path, vhost_url: str) -> None:
    count = 1000
    with pair(tmp_path, vhost_url) as sidecars, contextlib.closing(Numbers(vhost_url)) as numbers:

        async def delete(_: Sequence[Returning]) -> None:
            with publishing(vhost_url) as operator:
                operator.delete_queue(STREAM)

        clients = await with_clients(sidecars, numbers, count, delete)
        for client in clients:
            last, first = assert_one_reset(client, numbers, "recreated", count)
            assert last <= count // 2
            assert first == count // 2 + 1


async def test_retention_has_passed_everybody(tmp_path: Path, vhost_url: str) -> None:
    chance, first, cut, count = seeded(), 200, 1700, 1800
    retention = {"max_bytes": "100KiB", "segment_bytes": "20KiB"}
    with (
        pair(tmp_path, vhost_url, **retention) as sidecars,
        contextlib.closing(Numbers(vhost_url, width=100)) as numbers,
    ):
        clients = clients_of(sidecars.address, chance, 100)

        async def come_and_go(last: int) -> None:
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(client.until, heard(numbers.text(last)))
                await in_thread(numbers.publish_until, last)

        with trio.fail_after(WITHIN):
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(client.until, has_place)
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(client.until, heard_some(chance.randint(1, first)))
                await in_thread(numbers.publish_until, first)
            await in_thread(numbers.publish_until, cut)
            async with trio.open_nursery() as nursery:
                for replica in sidecars.replicas:  # what they have in memory would bridge the cut
                    nursery.start_soon(in_thread, replica.replace)
            await come_and_go(cut)  # retention moves only when something is published: not while they are at its edge
            await come_and_go(count)
        print(told(clients))
        for client in clients:
            last, oldest = assert_one_reset(client, numbers, "truncated", count)
            assert last <= first < oldest, runs_of(client.heard)


# All at once

CROWD, BEHIND = 200, 500
READERS = "{rabbit_stream_queue, consume, 3}"
COUNT_READERS = f"erlang:trace_pattern({READERS}, true, [call_count]), ok."
READERS_SINCE = f"element(2, erlang:trace_info({READERS}, call_count))."


async def all_at_once(address: tuple[str, int], place: str, condition: Condition) -> list[Returning]:
    """A crowd, each staying until a condition holds of it."""
    crowd = [Returning(address, "/numbers", random.Random(0), place=place) for _ in range(CROWD)]
    async with trio.open_nursery() as nursery:
        for client in crowd:
            nursery.start_soon(client.stay, condition)
    return crowd


async def test_a_crowd_comes_back(tmp_path: Path, rabbitmq: RabbitNode, vhost_url: str) -> None:
    """Two hundred, five hundred events behind, before a process that has none of them in memory."""
    with (
        running(Replica(tmp_path / "one", vhost_url, routes())) as replica,
        contextlib.closing(Numbers(vhost_url)) as numbers,
        trio.fail_after(WITHIN),
    ):
        witness = Returning(replica.address, "/numbers", random.Random(0))
        await witness.stay(has_place)
        place = witness.place
        await in_thread(numbers.publish_until, BEHIND)
        await in_thread(replica.replace)
        async with trio.open_nursery() as nursery:
            witness = Returning(replica.address, "/numbers", random.Random(0))
            nursery.start_soon(witness.stay, heard(str(BEHIND + 1)))  # so that the live reader is there already
            await witness.arrived.wait()
            used = [replica.sidecar.cpu]
            await all_at_once(replica.address, "", has_place)
            used.append(replica.sidecar.cpu)
            await in_thread(rabbitmq.control, "eval", COUNT_READERS)
            used.append(replica.sidecar.cpu)
            crowd = await all_at_once(replica.address, place, heard(str(BEHIND)))
            used.append(replica.sidecar.cpu)
            readers = int(await trio.to_thread.run_sync(rabbitmq.control, "eval", READERS_SINCE))
            await in_thread(numbers.publish_until, BEHIND + 1)
        fresh, back = used[1] - used[0], used[3] - used[2]
        print(f"{CROWD} fresh: {fresh:.2f} s of CPU; {BEHIND} events behind: {back:.2f} s, {readers} more readers")
        for client in crowd:
            assert client.heard == numbers.texts(1, BEHIND), runs_of(client.heard)
        assert 1 <= readers <= 4  # one, or a few where a machine that is busy let the first give up


# Queues

INBOX = {"path": "/inbox", "queue": "chaos.inbox", "declare": {"durable": True}, "prefetch": 3, "data": "envelope"}
MESSAGES = 150
ROUNDS, AT_A_TIME = 15, 6


async def take_three(nursery: trio.Nursery, address: tuple[str, int]) -> wire.Http1:
    """A client that has taken three messages of the queue, or what came within a second."""
    client = await wire.open_http1(nursery, address, "/inbox", version="1.0")
    with trio.move_on_after(1):
        await client.response.until_events(3)
    return client


def bodies(response: wire.Response) -> list[int]:
    return [int(json.loads(data)["body"]) for data in response.data]


async def test_clients_that_take_three_messages_and_leave(
    nursery: trio.Nursery, tmp_path: Path, vhost_url: str
) -> None:
    """Each says that it leaves and reads what its socket was given until then: all of that, and nothing else, is gone
    from the queue.
    """
    taken: list[int] = []
    with running(Replica(tmp_path / "one", vhost_url, [INBOX])) as replica, publishing(vhost_url) as publisher:

        async def take_and_leave() -> None:
            async with trio.open_nursery() as reading:
                while len(taken) < MESSAGES:
                    client = await take_three(reading, replica.address)
                    assert isinstance(client.stream, trio.SocketStream)
                    await client.stream.send_eof()
                    assert await client.response.until_end() == "clean"
                    taken.extend(bodies(client.response))

        publisher.queue("chaos.inbox", durable=True)
        for number in range(MESSAGES):
            publisher.publish("", "chaos.inbox", str(number))
        with trio.move_on_after(WITHIN) as waiting:
            async with trio.open_nursery() as crowd:
                for _ in range(3):
                    crowd.start_soon(take_and_leave)
                while len(taken) < MESSAGES:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                crowd.cancel_scope.cancel()
        assert sorted(taken) == list(range(MESSAGES)), Counter(taken)
        assert not waiting.cancelled_caught
        last = await wire.open_http1(nursery, replica.address, "/inbox", version="1.0")
        publisher.publish("", "chaos.inbox", str(MESSAGES))
        await last.response.until_events(1)
        assert bodies(last.response) == [MESSAGES]
        nursery.cancel_scope.cancel()


async def test_a_client_that_takes_three_messages_and_vanishes(
    nursery: trio.Nursery, tmp_path: Path, vhost_url: str
) -> None:
    """Cut off without a word, it has not read all that its socket had taken: those are gone, and they follow at once
    what it has read. All others come to the next one, and nothing that anybody has read comes again.
    """
    published, rounds = itertools.count(), list[tuple[list[int], int]]()
    with running(Replica(tmp_path / "one", vhost_url, [INBOX])) as replica, publishing(vhost_url) as publisher:
        publisher.queue("chaos.inbox", durable=True)
        for _ in range(ROUNDS):
            for number in itertools.islice(published, AT_A_TIME):
                publisher.publish("", "chaos.inbox", str(number))
            client = await take_three(nursery, replica.address)
            abort(client)
            if client.response.events:
                rounds.append((bodies(client.response), number))
            await in_thread(replica.sidecar.wait_metric, "sidecar_subscribers", 0)
        last = await wire.open_http1(nursery, replica.address, "/inbox", version="1.0")
        number = next(published)
        publisher.publish("", "chaos.inbox", str(number))
        await last.response.until(lambda response: number in bodies(response)[-1:])
        rounds.append((bodies(last.response), number))
        nursery.cancel_scope.cancel()
    assert len(rounds) > ROUNDS // 2
    for (taken, there), (following, _) in itertools.pairwise(rounds):
        print(f"{taken}, then {following[0] - taken[-1] - 1} that nobody has read")
        assert following == list(range(following[0], following[-1] + 1))
        assert taken[-1] < following[0] <= there + 1


def abort(client: wire.Http1) -> None:
    """End a connection as a machine does that is gone: RST, no FIN."""
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.stream.socket.close()


# A browser

LISTEN = """
window.heard = []; window.resets = []; window.opens = 0;
window.source = new EventSource("/numbers");
window.source.onopen = () => window.opens++;
window.source.onmessage = event => window.heard.push(event.data);
window.source.addEventListener("sidecar.reset", event => window.resets.push(event.data));
"""


def reload_nginx(front: Path) -> None:
    """As `nginx -s reload` does."""
    os.kill(int((front / "nginx.pid").read_text()), signal.SIGHUP)


def subscribers(replica: Replica) -> float:
    """The streams that a replica has now."""
    return replica.sidecar.metric("sidecar_subscribers", route="/numbers")


def test_a_browser_hears_every_number(chromium: webdriver.Chrome, tmp_path: Path, vhost_url: str) -> None:
    with pair(tmp_path, vhost_url) as sidecars, contextlib.closing(Numbers(vhost_url)) as numbers:
        one, two = sidecars.replicas
        chromium.get("http://{}:{}/".format(*sidecars.address))  # any page of the origin will do
        chromium.execute_script(LISTEN)
        until(chromium, "return window.opens", lambda opens: opens == 1)

        def serving() -> Replica:
            """The one that has the browser's stream."""
            one.sidecar.until(lambda: subscribers(one) + subscribers(two) == 1, "one that serves it")
            return one if subscribers(one) else two

        def strike(blow: Callable[[], object]) -> None:
            """Publish meanwhile; return once the browser has heard all of that on another connection."""
            opens, last = chromium.execute_script("return window.opens"), numbers.confirmed + 200
            publishing = threading.Thread(target=numbers.publish_until, args=(last,))
            publishing.start()
            blow()
            until(chromium, "return window.opens", lambda now: now > opens)
            publishing.join()
            until(chromium, "return window.heard.length", lambda count: count >= last)

        strike(lambda: reload_nginx(sidecars.nginx))
        strike(lambda: serving().restart())
        strike(lambda: serving().replace())
        strike(lambda: reload_nginx(sidecars.nginx))
        heard, resets, opens = chromium.execute_script("return [window.heard, window.resets, window.opens]")
        chromium.execute_script("window.source.close()")
        print(f"opened {opens} times")
        assert heard == numbers.texts(1, 800), runs_of(heard)
        assert resets == []
        assert opens >= 5
