"""The end of the process, seen by its clients: nothing that was sent is lost to a reset; and what clients leave behind.

Each kind of client comes many times and goes in its own way; afterwards the process must be as it was before the first.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
from structlog.testing import capture_logs

from sidecar.broker.memory import MemoryBroker
from sidecar.broker.port import Declaration
from sidecar.hub import hub as hub_module
from sidecar.server import connection as module
from sidecar.server import listener
from sidecar.server.http2 import Cork
from sidecar.service import Service
from tests.lab.certificates import Certificates
from tests.lab.wire import Http1, connect, open_http1, open_http2
from tests.server.serving import Raw, Serving, address_of, configuration, eventually, news, serving

RESET = b"\1\0\0\0\0\0\0\0"


async def test_http_2_clients_hear_goaway_and_the_end_of_their_streams() -> None:
    async with serving() as served:
        client = await open_http2(served.nursery, served.address)
        stream = await client.get("/events/a")
        await stream.response.until_open()
        served.service.stop()
        assert await stream.response.until_end() == "clean"
        await eventually(lambda: client.broken is not None)
        assert client.goaway


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process waits for its last readers however slow the machine is."""
    monkeypatch.setattr(listener, "FAREWELL", 10)


async def test_what_is_still_on_its_way_arrives_though_the_client_goes_on_talking(patient: None) -> None:
    """A client that opens windows while it reads would have its connection reset if it were just closed."""
    config = configuration([news(backlog={"events": 1000, "bytes": "50MB"})], drain={"within": 2})
    async with serving(config, farewell=10) as served:
        client = await open_http2(served.nursery, served.address, initial_window=2**24)
        await client.widen(2**24)
        stream = await client.get("/events/a")
        await stream.response.until_open()
        await served.publish(*("x" * 100_000 for _ in range(30)))
        served.service.stop()
        assert await stream.response.until_end() == "clean"
        assert len(stream.response.events) == 30
        await client.aclose()


async def test_http_1_0_over_tls_ends_with_close_notify(certificates: Certificates, patient: None) -> None:
    """For such a client the end of the connection is the end of the answer: cut short, it would count as an attack."""
    async with serving(configuration(tls=certificates), farewell=10) as served:
        assert isinstance(served.address, tuple)
        stream = trio.SSLStream(
            await connect(served.address), certificates.client(), server_hostname="localhost", https_compatible=False
        )
        client = Raw(stream)
        await client.get("/events/a", version="1.0")
        await client.until(b":\n\n")
        served.service.stop()
        assert await client.rest() == b""  # BrokenResourceError without close_notify


# What clients leave behind


async def vanishes(served: Serving) -> None:
    """It resets the connection, as a machine that was switched off and on again."""
    client = await a_stream(served)
    await client.response.until_open()
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    await client.aclose()


async def closes(served: Serving) -> None:
    client = await a_stream(served)
    await client.response.until_open()
    await client.aclose()


async def closes_at_once(served: Serving) -> None:
    client = await a_stream(served)
    await client.aclose()


async def half_closes(served: Serving) -> None:
    client = await a_stream(served)
    await client.response.until_open()
    assert isinstance(client.stream, trio.SocketStream)
    await client.stream.send_eof()
    await client.response.until_end()
    await client.aclose()


async def stalls(served: Serving) -> None:
    """It never reads, so that its backlog runs over, and goes at last."""
    client = Raw(await connect(served.address))
    await client.get("/events/a")
    await eventually(lambda: served.metrics.subscribers > 0)
    await served.publish(*("x" * 2_000_000 for _ in range(3)))
    assert isinstance(client.stream, trio.SocketStream)
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    await client.stream.aclose()


async def ends_cleanly(served: Serving) -> None:
    client = Raw(await connect(served.address))
    await client.get("/short/a")
    await client.until(b"0\r\n\r\n")
    await client.stream.aclose()


async def many_streams(served: Serving) -> None:
    client = await open_http2(served.nursery, served.address)
    streams = [await client.get("/events/a") for _ in range(20)]
    await streams[-1].response.until_open()
    for stream in streams[::2]:
        await stream.reset()
    await client.aclose()


async def unheard(served: Serving) -> None:
    """It opens no window at all."""
    client = await open_http2(served.nursery, served.address, initial_window=0)
    for _ in range(5):
        await client.get("/events/a", reading=False)
    await eventually(lambda: served.metrics.subscribers >= 5)
    await served.publish("x" * 1000)
    await client.aclose()


async def is_refused(served: Serving) -> None:
    client = Raw(await connect(served.address))
    await client.get("/events/x%00")
    assert (await client.answer())[0] == 400
    await client.stream.aclose()


async def a_stream(served: Serving) -> Http1:
    return await open_http1(served.nursery, served.address, "/events/a")


Kind = Callable[[Serving], Awaitable[None]]
KINDS: list[Kind] = [
    vanishes, closes, closes_at_once, half_closes, stalls, ends_cleanly, many_streams, unheard, is_refused,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_clients_leave_nothing_behind(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINGER_FOR", 0.1)
    routes = [news(backlog={"events": 2, "bytes": "100KB"}), news(path="/short/{name}", max_age="50ms")]
    async with serving(configuration(routes)) as served:
        served.service._hub._linger = 0.1  # instead of 30 seconds
        await kind(served)  # what is made once, and kept, is there from now on
        before = await _settled(served)
        for _ in range(8):
            await kind(served)
        assert await _settled(served) == before
        assert served.metrics.subscribers == 0
        assert served.metrics.backlog_bytes == 0
    assert hub_module.LINGER > 1


async def _settled(served: Serving) -> dict[str, int]:
    """Count what is there once every stream and every lingering binding is gone, and a moment has changed nothing."""
    service = served.service
    await eventually(lambda: not service._streams.open and not service._hub.subscriptions)
    await eventually(lambda: not service._server.connections and not served.nursery.child_tasks)
    await eventually(lambda: not served.broker.taps)
    before, counted = {}, _counted(served)
    while counted != before:
        await trio.sleep(0.1)
        before, counted = counted, _counted(served)
    return counted


def _counted(served: Serving) -> dict[str, int]:
    service = served.service
    service.metrics.measure()
    return {
        "deadlines": len(service._deadlines),
        "corks": len(Cork.corked),
        "tasks": trio.lowlevel.current_statistics().tasks_living,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "connections": service.connections,
    }


async def test_without_time_those_who_read_end_in_good_order_too(certificates: Certificates) -> None:
    async with serving(configuration(tls=certificates, drain={"within": 0}), farewell=10) as served:
        connected = await connect(served.address)
        stream = trio.SSLStream(connected, certificates.client(), server_hostname="localhost", https_compatible=False)
        client = Raw(stream)
        await client.get("/events/a", version="1.0")
        await client.until(b":\n\n")
        served.service.stop()
        assert await client.rest() == b""  # without close_notify it would break


@pytest.mark.parametrize("version", [1, 2])
async def test_a_cancelled_process_leaves_no_queue_stream(version: int) -> None:
    """As by a second signal: whatever is cancelled first, no connection fails of it."""
    route = {"path": "/q", "queue": "q", "declare": {"bind": [{"exchange": "news", "binding_key": "#"}]}}
    for _ in range(8):  # trio shuffles what is cancelled together
        with capture_logs() as lines:
            broker = MemoryBroker()
            broker.declare("news", Declaration("topic"))
            service = Service(configuration([route]), broker=broker)
            async with trio.open_nursery() as clients:
                async with trio.open_nursery() as nursery:
                    await nursery.start(service.run)
                    await queue_streams(clients, address_of(service.addresses[0]), version)
                    routes = service.metrics.routes
                    await eventually(lambda routes=routes: sum(each.subscribers for each in routes) == 5)
                    nursery.cancel_scope.cancel()
                clients.cancel_scope.cancel()
        assert [line for line in lines if line["log_level"] not in ("info", "debug")] == []
        assert not service._streams.open


async def queue_streams(nursery: trio.Nursery, address: tuple[str, int], version: int) -> None:
    """Five streams, on a connection each or on one."""
    if version == 1:
        for _ in range(5):
            await open_http1(nursery, address, "/q")
    else:
        client = await open_http2(nursery, address)
        for _ in range(5):
            await client.get("/q")
