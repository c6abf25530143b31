"""The seam to aiormq: what of its insides is relied on, and the reader and writer that it is given."""

from __future__ import annotations

import asyncio
import importlib.metadata
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import aiormq.connection
import pytest
import trio
import trio.testing
import trio_asyncio  # type: ignore[import-untyped]
from pamqp import body, commands, frame, header

from sidecar.amqp import HEARTBEAT, Delivery, Splitter
from sidecar.broker.pace import GATHER, Pace
from sidecar.broker.transport import READ_SIZE, UNREAD_LIMIT, UNSENT_LIMIT, Transport, Writer

MOVED = "aiormq's insides have moved: look at sidecar/broker/transport.py, then at the pin in pyproject.toml"


def test_aiormq_is_the_minor_version_that_was_looked_at() -> None:
    assert importlib.metadata.version("aiormq").startswith("7.2."), MOVED


def test_aiormq_uses_of_reader_and_writer_what_they_have() -> None:
    source = inspect.getsource(aiormq.connection)
    used = set(re.findall(r"\bwriter\.(\w+)", source))
    assert used <= set(dir(Writer(None))), MOVED  # type: ignore[arg-type]
    assert "write" in used, MOVED
    assert set(re.findall(r"\breader\.(\w+)", source)) == {"at_eof", "readexactly", "read"}, MOVED


def test_aiormq_asks_the_factory_it_was_given() -> None:
    source = inspect.getsource(aiormq.connection.Connection)
    assert "await self._transport_factory.create(" in source, MOVED
    assert source.count("self.write_queue") >= 3, MOVED
    assert "transport_factory" in inspect.signature(aiormq.connection.Connection.__init__).parameters, MOVED
    factory: Any = aiormq.connection.TransportFactory
    assert [*inspect.signature(factory.create).parameters] == ["self", "url", "kwargs"], MOVED


def test_aiormq_believes_in_frames_alone() -> None:
    """Why it is fed heartbeats; should this ever change, the feeding can go."""
    source = inspect.getsource(aiormq.connection.Connection)
    assert "self.__last_frame_time = self.loop.time()" in source, MOVED
    assert aiormq.connection.Connection.HEARTBEAT_GRACE_MULTIPLIER == 3, MOVED


class Seam:
    """A transport over an in-memory stream, `peer` being the broker's end."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.batches: list[list[bytes]] = []
        self.deliver: Callable[[], object] = lambda: None
        ours, self.peer = trio.testing.memory_stream_pair()
        splitter = Splitter()
        splitter.add("t")
        self.transport = Transport(ours, loop, splitter, self._take, Pace())
        self.aio = trio_asyncio.aio_as_trio

    def _take(self, deliveries: Sequence[Delivery]) -> None:
        self.batches.append([each.body for each in deliveries])
        self.deliver()
        self.delivered_at = trio.current_time()

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await self.aio(self.transport.create)(None)  # type: ignore[no-any-return]


QOS_OK = frame.marshal(commands.Basic.QosOk(), 1)


async def test_bytes_pass_both_ways_until_the_peer_closes() -> None:
    async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
        seam = Seam(loop)
        reader, writer = await seam.open()
        nursery.start_soon(seam.transport.run)
        writer.write(b"AMQP")
        assert await seam.peer.receive_some() == b"AMQP"
        await seam.peer.send_all(QOS_OK)
        assert await seam.aio(reader.readexactly)(len(QOS_OK)) == QOS_OK
        await seam.peer.aclose()
        assert await seam.aio(reader.read)() == b""
        await seam.aio(writer.wait_closed)()
        with pytest.raises(ConnectionResetError, match="the broker closed the connection"):
            await seam.aio(writer.drain)()
        assert seam.transport.ended == "the broker closed the connection"


async def test_what_was_written_before_close_is_sent() -> None:
    async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
        seam = Seam(loop)
        _, writer = await seam.open()
        writer.write(b"good")
        writer.write(b"bye")
        writer.close()
        writer.write(b"too late")
        assert writer.is_closing()
        nursery.start_soon(seam.transport.run)
        assert await seam.peer.receive_some() == b"goodbye"
        assert await seam.peer.receive_some() == b""


async def test_drain_waits_while_too_much_is_unsent() -> None:
    async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
        seam = Seam(loop)
        _, writer = await seam.open()
        writer.write(bytes(UNSENT_LIMIT))
        await seam.aio(writer.drain)()
        writer.write(b"x")
        drained = trio.Event()

        async def drain() -> None:
            await seam.aio(writer.drain)()
            drained.set()

        nursery.start_soon(drain)
        await trio.testing.wait_all_tasks_blocked()
        assert not drained.is_set()
        nursery.start_soon(seam.transport.run)
        await drained.wait()
        seam.transport.abort("done")


async def test_unread_bytes_hold_back_the_socket() -> None:
    async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
        seam = Seam(loop)
        reader, _ = await seam.open()
        nursery.start_soon(seam.transport.run)
        flood = QOS_OK * (3 * UNREAD_LIMIT // len(QOS_OK))
        for at in range(0, len(flood), 65_536):
            await seam.peer.send_all(flood[at : at + 65_536])
            await trio.testing.wait_all_tasks_blocked()
        await seam.peer.send_all(QOS_OK)
        await trio.testing.wait_all_tasks_blocked()
        assert len(reader._buffer) < len(flood)  # type: ignore[attr-defined]
        assert await seam.aio(reader.readexactly)(len(flood) + len(QOS_OK)) == flood + QOS_OK
        seam.transport.abort("done")


async def test_bytes_that_are_not_amqp_end_it_after_aiormq_has_seen_them() -> None:
    async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
        seam = Seam(loop)
        reader, _ = await seam.open()
        nursery.start_soon(seam.transport.run)
        await seam.peer.send_all(QOS_OK + b"nonsense")
        assert await seam.aio(reader.read)() == QOS_OK + b"nonsense"
        assert seam.transport.ended == "the broker sent bytes that are not AMQP 0-9-1"


def message(text: bytes) -> bytes:
    parts = commands.Basic.Deliver("t", 1, False, "", "k"), header.ContentHeader(0, len(text)), body.ContentBody(text)
    return b"".join(frame.marshal(part, 1) for part in parts)


async def test_messages_are_gathered_where_delivering_is_work_and_else_are_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
        seam = Seam(loop)
        await seam.open()
        nursery.start_soon(seam.transport.run)

        async def send(*texts: bytes) -> None:
            for text in texts:
                await seam.peer.send_all(message(text))
                for _ in range(10):  # whoever can run does, and no time passes
                    await trio.lowlevel.checkpoint()

        await trio.sleep(1)
        await send(b"1", b"2", b"3")
        assert seam.batches == [[b"1"], [b"2"], [b"3"]]
        await trio.sleep(1)
        seam.deliver = lambda: autojump_clock.jump(0.001)  # what it takes from now on
        await send(b"4", b"5", b"6", b"7")
        began = trio.current_time()
        await trio.sleep(1)
        seam.transport.abort("done")
        # At the first nobody knew that others would come so soon.
        assert seam.batches[3:] == [[b"4"], [b"5"], [b"6", b"7"]]
        assert seam.delivered_at <= began + GATHER + 0.001


async def test_a_full_read_is_followed_by_the_next_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
        seam = Seam(loop)
        await seam.open()
        flood = message(bytes(1000)) * (3 * READ_SIZE // 1000)
        await seam.peer.send_all(flood)
        began = trio.current_time()
        nursery.start_soon(seam.transport.run)
        for _ in range(30):
            await trio.lowlevel.checkpoint()
        assert len(seam.batches) > 3
        assert sum(map(len, seam.batches)) == 3 * READ_SIZE // 1000
        assert trio.current_time() == began
        seam.transport.abort("done")


async def test_the_farewell_is_remembered() -> None:
    async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
        seam = Seam(loop)
        await seam.open()
        nursery.start_soon(seam.transport.run)
        close = frame.marshal(commands.Connection.Close(320, "CONNECTION_FORCED - so", 0, 0), 0)
        await seam.peer.send_all(QOS_OK + close)
        await trio.testing.wait_all_tasks_blocked()
        assert seam.transport.farewell is not None
        assert seam.transport.farewell.reply_text == "CONNECTION_FORCED - so"
        seam.transport.abort("done")


async def test_heartbeats_are_fed_while_anything_is_heard(autojump_clock: trio.testing.MockClock) -> None:
    async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
        seam = Seam(loop)
        reader, _ = await seam.open()
        nursery.start_soon(seam.transport.run)
        nursery.start_soon(seam.transport.watch, 10.0)
        for _ in range(4):
            await seam.peer.send_all(HEARTBEAT)
            await trio.sleep(5.01)
        assert await seam.aio(reader.readexactly)(8 * 8) == HEARTBEAT * 8
        began = trio.current_time()
        assert await seam.aio(reader.read)() == b""
        assert 15 <= trio.current_time() - began <= 20
        assert seam.transport.ended == "nothing was heard of the broker for 20 s"


async def test_nothing_is_fed_after_the_end(autojump_clock: trio.testing.MockClock) -> None:
    async with trio_asyncio.open_loop() as loop, trio.open_nursery() as nursery:
        seam = Seam(loop)
        reader, _ = await seam.open()
        nursery.start_soon(seam.transport.run)
        nursery.start_soon(seam.transport.watch, 10.0)
        await seam.peer.send_all(HEARTBEAT)
        await seam.peer.aclose()
        await trio.sleep(11)
        assert await seam.aio(reader.read)() == HEARTBEAT
