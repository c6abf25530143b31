"""What goes between workers: messages of any size in any pieces, connections until there is no room, configurations."""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path
from typing import cast

import pytest
import trio

from sidecar.channel import Channel, carriers, hand_over, take_over
from sidecar.config import Config, load
from sidecar.crew import Crew, Member, packed, processors, unpacked
from sidecar.observe.metrics import Metrics
from sidecar.observe.reasons import ResetReason

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"


def channels() -> tuple[Channel, Channel]:
    """Both ends."""
    one, other = socket.socketpair()
    return Channel(one), Channel(other)


async def test_messages_arrive_whole_and_in_order(nursery: trio.Nursery) -> None:
    here, there = channels()
    sent = [{"number": number, "text": "ü\n" * number * 5000} for number in range(20)]

    async def send() -> None:
        for message in sent:
            await here.send(message)
        here.close()

    nursery.start_soon(send)
    assert [await there.receive() for _ in sent] == sent
    assert await there.receive() is None
    with pytest.raises(trio.BrokenResourceError):
        await there.send({})


async def test_a_message_that_breaks_off_is_none() -> None:
    one, other = socket.socketpair()
    there = Channel(other)
    with one:
        one.sendall(b'{"a": 1}\n{"b"')
    assert await there.receive() == {"a": 1}
    assert await there.receive() is None


async def test_a_connection_goes_over_with_its_door() -> None:
    here, there = carriers()
    client, accepted = socket.socketpair()
    assert hand_over(here, "0.0.0.0:8080 1", accepted)
    assert accepted.fileno() == -1
    taken = await take_over(there)
    assert taken is not None
    assert taken[0] == "0.0.0.0:8080 1"
    with client, taken[1]:
        taken[1].sendall(b"hello")
        assert client.recv(5) == b"hello"
    here.close()
    with there:
        assert await take_over(there) is None


async def test_what_is_not_taken_stays_ours() -> None:
    here, there = carriers()
    before = len(os.listdir("/proc/self/fd"))
    with here, there, socket.socket() as one:
        sent = 0
        while hand_over(here, "door", one.dup()):
            sent += 1
        left = one.dup()
        assert not hand_over(here, "door", left)
        assert left.fileno() > 0
        left.close()
        for _ in range(sent):
            taken = await take_over(there)
            assert taken is not None
            taken[1].close()
        there.close()
        assert not hand_over(here, "door", one)
        assert one.fileno() > 0
    assert sent > 50
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_configuration_goes_over_as_it_is() -> None:
    config = load(EXAMPLE, {})
    assert unpacked(packed(config)) == config


@pytest.mark.parametrize(
    ("text", "number"), [("max 100000\n", None), ("100000 100000", 1), ("10000 100000", 1), ("?", None), (None, None)]
)
def test_a_containers_limit_counts(tmp_path: Path, text: str | None, number: int | None) -> None:
    limit = tmp_path / "cpu.max"
    if text is not None:
        limit.write_text(text)
    assert processors(limit) == (number or len(os.sched_getaffinity(0)))


def test_resets_elsewhere_are_told_once() -> None:
    metrics, elsewhere = Metrics(), Metrics()
    crew, (one, other) = Crew(Config(workers=2), metrics), socket.socketpair()
    member = Member(2, cast(trio.Process, None), cast(Channel, None), one)
    for _ in range(3):
        elsewhere.route("/a").reset(ResetReason.SLOW)
        for _ in range(2):  # a report that brings nothing new
            crew._heard(member, {"counts": elsewhere.counts(), "subscriptions": {}, "closed": []})
    assert sum(reset.count for reset in metrics.recent.resets_after(0)) == 3
    one.close()
    other.close()


async def test_a_shortage_of_descriptors_is_a_pause(nursery: trio.Nursery) -> None:
    """Recvmsg(2) drops a descriptor that there is no room for: that is not the end of the other side."""
    ours, theirs = carriers()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    assert hand_over(ours, "door", listener.accept()[0])
    taken: list[tuple[str, socket.socket] | None] = []

    async def take() -> None:
        taken.append(await take_over(theirs))

    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        nursery.start_soon(take)
        await trio.sleep(0.05)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with trio.fail_after(5):
        while not taken:  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert taken[0] is not None
    assert taken[0][1].getpeername() == client.getsockname()
    for each in (taken[0][1], client, listener, ours, theirs):
        each.close()
