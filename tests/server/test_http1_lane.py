"""A lane calls one `send` after the other in C code; whoever could not take it all is found afterwards."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator, Sequence

import pytest
import trio

from sidecar.backlog import Backlog
from sidecar.server.http1 import Http1Lane, Http1Outlet
from sidecar.server.outlet import Header
from sidecar.server.wire import Wire
from tests.lab.certificates import Certificates
from tests.server.test_wire import encrypted, receive_exactly

BLOCK = b"data: a block\n\n"
CHUNK = b"f\r\n" + BLOCK + b"\r\n"


class Beneath:
    """The connection below an outlet, over a socket pair."""

    chunked = True
    client: socket.socket

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.spawned = 0
        self.outlet = Http1Outlet(self)
        self.outlet.backlog = Backlog(100, 1_000_000, "disconnect")
        wire.on_room = self.outlet._refill  # as `start` would

    @classmethod
    def plain(cls) -> Beneath:
        ours, client = socket.socketpair()
        ours.setblocking(False)
        client.setblocking(False)
        beneath = cls(Wire(ours))
        beneath.client, beneath.wire.spawn = client, beneath._spawn
        return beneath

    def _spawn(self, *_: object) -> None:
        self.spawned += 1

    def start(self, status: int, headers: Sequence[Header], first: bytes) -> None:
        raise AssertionError("nobody starts a response")

    def reply(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        raise AssertionError("nobody replies")

    def complete(self) -> None:
        raise AssertionError("nobody ends one")

    def fill(self) -> None:
        """Until its buffers take nothing more."""
        for size in (65536, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.wire.sock.send(bytes(size))

    def received(self) -> bytes:
        """What its client finds now."""
        try:
            return self.client.recv(1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
async def five() -> AsyncIterator[list[Beneath]]:
    beneath = [Beneath.plain() for _ in range(5)]
    yield beneath
    for each in beneath:
        each.wire.close()
        each.client.close()


def lane_of(beneath: Sequence[Beneath]) -> Http1Lane:
    lane = beneath[0].outlet.open_lane()
    assert isinstance(lane, Http1Lane)
    for each in beneath:
        lane.add(each.outlet)
    return lane


@pytest.mark.parametrize("where", [0, 2, 4])
async def test_whose_socket_is_full_is_behind_and_everybody_else_hears(five: list[Beneath], where: int) -> None:
    lane, full = lane_of(five), five[where]
    full.fill()
    assert lane.write([BLOCK]) == 5
    assert [each.received() for each in five if each is not full] == [CHUNK] * 4
    assert full.outlet.behind
    assert (full.wire.pending, full.spawned) == (len(CHUNK), 1)
    assert lane.write([BLOCK]) == 5  # the next one waits in its backlog
    assert (full.wire.pending, full.outlet.backlog.size) == (len(CHUNK), len(BLOCK))
    assert [each.received() for each in five if each is not full] == [CHUNK] * 4


@pytest.mark.parametrize("where", [0, 2, 4])
async def test_whose_client_is_gone_is_aborted_and_everybody_else_hears(five: list[Beneath], where: int) -> None:
    lane, gone = lane_of(five), five[where]
    gone.client.close()
    lane.write([BLOCK])
    assert [each.received() for each in five if each is not gone] == [CHUNK] * 4
    assert gone.wire.closed
    lane.discard(gone.outlet)
    assert lane.write([BLOCK]) == 4


async def test_several_at_once(five: list[Beneath]) -> None:
    lane = lane_of(five)
    five[0].client.close()
    five[1].fill()
    five[3].fill()
    five[4].client.close()
    lane.write([BLOCK])
    assert five[2].received() == CHUNK
    assert [each.wire.closed for each in five] == [True, False, False, False, True]
    assert [each.outlet.behind for each in five] == [False, True, False, True, False]


async def test_what_was_taken_in_part_goes_on_where_it_stopped(five: list[Beneath]) -> None:
    lane, slow = lane_of(five), five[2]
    large = b"data: %b\n\n" % bytes(range(32, 127)) * 30_000  # more than the buffers of a pair
    lane.write([large])
    head = b"%x\r\n" % len(large)
    taken = slow.received()
    while more := slow.received():
        taken += more
    whole = head + large + b"\r\n"
    assert 0 < len(taken) < len(whole)
    assert whole.startswith(taken)
    assert slow.wire.pending == len(whole) - len(taken)


async def test_the_empty_lane_writes_to_nobody() -> None:
    assert Http1Lane(chunked=True).write([BLOCK]) == 0


async def test_over_tls_nobody_hears_another_order_and_who_stalls_stalls_alone(certificates: Certificates) -> None:
    """Records are numbered (RFC 8446 §5.3): one encrypted and not sent in its turn would end the connection."""
    async with contextlib.AsyncExitStack() as stack:
        ends = [await stack.enter_async_context(encrypted(certificates, ssl.TLSVersion.TLSv1_3)) for _ in range(3)]
        beneath = [Beneath(wire) for wire, _ in ends]
        lane = lane_of(beneath)
        blocks = [b"data: %d %s\n\n" % (number, b"x" * 2000) for number in range(60)]
        for block in blocks:
            assert lane.write([block]) == 3
            for _, client in (ends[0], ends[2]):
                chunk = b"%x\r\n%b\r\n" % (len(block), block)
                assert await receive_exactly(client, len(chunk)) == chunk
        assert [each.outlet.behind for each in beneath] == [False, True, False]
        received = b""
        with trio.fail_after(10):
            while received.count(b"\n\n") < len(blocks):
                received += await ends[1][1].receive_some(65536)
        assert b"".join(re.split(rb"(?:^|\r\n)[0-9a-f]+\r\n", received)).rstrip(b"\r\n") == b"".join(blocks).rstrip()
        assert lane.write([BLOCK]) == 3
        assert (await receive_exactly(ends[0][1], len(CHUNK))) == CHUNK
