"""Event streams over HTTP/2, at full speed, to clients that are exact about RFC 9113.

The clients are h2's: a DATA frame that overruns a window, a frame out of order or on the wrong stream ends them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import h2.settings
import pytest
import trio
from structlog.testing import capture_logs

from sidecar.observe.reasons import CloseReason, DropReason, ResetReason
from sidecar.server import connection as module
from sidecar.server.http2 import FRAME, Cork
from sidecar.server.protocol import Http2 as ServerSide
from tests.lab.wire import Http2, Http2Stream, open_http2
from tests.server.serving import configuration, eventually, news, serving

WIDE = 2**24
NO_REQUEST = b"the request needs a method and a path of visible ASCII\n"


@pytest.fixture
def protocols(monkeypatch: pytest.MonkeyPatch) -> list[ServerSide]:
    """The server's side of each connection, as they come."""
    made: list[ServerSide] = []

    class Kept(ServerSide):
        def __init__(self, *args: object) -> None:
            super().__init__(*args)  # type: ignore[arg-type]
            made.append(self)

    monkeypatch.setattr(module, "Http2", Kept)
    return made


def patient(**more: object) -> dict[str, object]:
    """A route that lets a reader fall behind as far as it likes."""
    return news(backlog={"events": 1_000_000, "bytes": "1GB"}, **more)


def bodies(number: int, rng: random.Random) -> Iterator[str]:
    """Numbered bodies, mostly short, some of several frames."""
    for index in range(number):
        size = rng.choice([0, 1, 10, 130, 130, 2000, FRAME, 40_000] if index % 20 == 0 else [1, 130, 700])
        yield f"{index}:" + "x" * size


def numbers(stream: Http2Stream) -> list[int]:
    """The events' numbers, each event being whole."""
    for data in stream.response.data:
        assert set(data.partition(":")[2]) <= {"x"}
    return [int(data.partition(":")[0]) for data in stream.response.data]


@pytest.mark.parametrize("window", [0, 1, 100, 65_535])
async def test_at_full_speed_with_windows_that_open_and_close(window: int) -> None:
    rng = random.Random(window)
    number = 300
    async with serving(configuration([patient()])) as served:
        client = await open_http2(served.nursery, served.address, initial_window=window)
        client.returning_window = False
        streams = [await client.get("/events/a", reading=False) for _ in range(6)]
        await served.until_streams(6)
        served.nursery.start_soon(_open_windows, client, streams, rng)
        for body in bodies(number, rng):
            await served.publish(body)
            if rng.random() < 0.05:
                await trio.lowlevel.checkpoint()
        for stream in streams:
            await stream.response.until_events(number)
            assert numbers(stream) == list(range(number))
        assert client.broken is None


async def _open_windows(client: Http2, streams: list[Http2Stream], rng: random.Random) -> None:
    """Give window in odd sizes and at odd times, in frames of their own, then as much as is wanted."""
    for round_ in range(10_000):
        for stream in rng.sample(streams, 3):
            await client.widen(rng.choice([1, 3, 900, 5000] if round_ < 40 else [70_000]), stream.id)
        await client.widen(rng.choice([1, 50, 7000] if round_ < 40 else [200_000]))
        await trio.sleep(0.001)
        if all(len(stream.response.events) >= 300 for stream in streams):
            return


async def test_a_settings_change_makes_windows_negative_and_they_are_waited_for(protocols: list[ServerSide]) -> None:
    async with serving(configuration([patient()])) as served:
        client = await open_http2(served.nursery, served.address, initial_window=50_000)
        await client.widen(WIDE)
        stream = await client.get("/events/a", reading=False)
        await stream.response.until_open()
        await served.publish("0:" + "x" * 40_000)
        await stream.response.until_events(1)
        client.state.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 10})
        await client.flush()
        server_side = protocols[0].connection.streams[stream.id]
        await eventually(lambda: server_side.outbound_flow_control_window < -30_000)
        await served.publish(*(f"{index}:" + "x" * 100 for index in range(1, 20)))
        await client.widen(-server_side.outbound_flow_control_window, stream.id)
        await eventually(lambda: server_side.outbound_flow_control_window == 0)
        assert len(stream.response.events) == 1  # a window of nothing is still nothing
        await client.widen(100_000, stream.id)
        await stream.response.until_events(20)
        assert numbers(stream) == list(range(20))


async def test_a_settings_change_that_opens_windows_is_enough_to_go_on() -> None:
    async with serving(configuration([patient()])) as served:
        client = await open_http2(served.nursery, served.address, initial_window=0)
        streams = [await client.get("/events/a", reading=False) for _ in range(3)]
        await served.until_streams(3)
        await served.publish("0:x", "1:x")
        assert [bytes(stream.response.body) for stream in streams] == [b"", b"", b""]
        client.state.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        await client.flush()
        for stream in streams:
            await stream.response.until_events(2)
            assert numbers(stream) == [0, 1]


@pytest.mark.parametrize("largest", [16_384, 2**20])
async def test_ten_megabytes_in_frames_the_peer_accepts(largest: int) -> None:
    async with serving() as served:
        client = await open_http2(served.nursery, served.address, initial_window=WIDE)
        client.state.update_settings({h2.settings.SettingCodes.MAX_FRAME_SIZE: largest})
        await client.widen(WIDE)
        stream = await client.get("/events/a")
        await stream.response.until_open()
        await served.publish("0:" + "x" * 10_000_000, "1:x")
        await stream.response.until_events(2)
        assert numbers(stream) == [0, 1]
        assert len(stream.response.data[0]) == 10_000_002


async def test_a_large_event_does_not_leave_its_stream_behind() -> None:
    """With windows so wide that the client sends no frame, nothing but ourselves can tell that all is written."""
    async with serving(configuration([patient(heartbeat="100ms")])) as served:
        client = await open_http2(served.nursery, served.address, initial_window=WIDE)
        client.returning_window = False
        await client.widen(WIDE)
        stream = await client.get("/events/a", reading=False)
        await stream.response.until_open()
        await served.publish("0:" + "x" * 3 * FRAME)
        await stream.response.until_events(1)
        comments = len(stream.response.stream.comments)
        await stream.response.until(lambda response: len(response.stream.comments) >= comments + 2)
        served.service.stop()
        assert await stream.response.until_end() == "clean"


async def test_a_batch_that_fits_the_window_is_no_slow_reader() -> None:
    """The bound on the backlog is for what the client's window holds up, not for what is larger than a frame."""
    async with serving(configuration([news(backlog={"events": 1, "bytes": 1})])) as served:
        client = await open_http2(served.nursery, served.address)
        stream = await client.get("/events/a")
        await stream.response.until_open()
        for index in range(20):
            await served.publish(f"{index}:" + "x" * 20_000)
            await stream.response.until_events(index + 1)
        assert numbers(stream) == list(range(20))


async def test_heartbeats_leave_no_corks_behind() -> None:
    async with serving(configuration([patient(heartbeat="50ms")])) as served:
        client = await open_http2(served.nursery, served.address)
        streams = [await client.get("/events/a") for _ in range(5)]
        for stream in streams:
            await stream.response.until(lambda response: len(response.stream.comments) > 3)
        assert not Cork.corked


async def test_a_full_backlog_ends_the_stream_cleanly_behind_what_was_begun() -> None:
    async with serving(configuration([news(backlog={"events": 5, "bytes": "1MB"})])) as served:
        client = await open_http2(served.nursery, served.address)
        slow = await client.get("/events/a", reading=False)
        await slow.response.until_open()
        other = await client.get("/events/a")
        await other.response.until_open()
        window = 65_535 - len(slow.response.body)
        for index in range(100):
            await served.publish(f"{index}:" + "x" * 1000)
            await other.response.until_events(index + 1)
        whole = len(slow.response.events)
        assert 50 < whole <= window // 1000
        assert slow.response.end is None
        await client.widen(WIDE, slow.id)
        assert await slow.response.until_end() == "clean"
        assert numbers(slow) == list(range(whole + 1))  # the event that was begun, and none of the backlog
        assert served.metrics.closes[CloseReason.SLOW] == 1
        assert numbers(other) == list(range(100))


async def test_drop_oldest_says_so_exactly_where_events_are_missing() -> None:
    limits = {"events": 5, "bytes": "1MB", "when_full": "drop_oldest"}
    async with serving(configuration([news(backlog=limits)])) as served:
        client = await open_http2(served.nursery, served.address)
        slow = await client.get("/events/a", reading=False)
        await slow.response.until_open()
        await served.publish(*(f"{index}:" + "x" * 1000 for index in range(100)))
        await slow.response.until_events(50)
        await client.widen(WIDE, slow.id)
        await slow.response.until(lambda response: response.data[-1].startswith("99:"))
        await served.publish("100:x")
        await slow.response.until(lambda response: response.data[-1].startswith("100:"))
        types = [event.type for event in slow.response.events]
        gap = types.index("sidecar.reset")
        assert types.count("sidecar.reset") == 1
        assert slow.response.data[gap] == '{"reason": "slow"}'
        seen = [int(data.partition(":")[0]) for data in slow.response.data[:gap] + slow.response.data[gap + 1 :]]
        assert seen == [*range(gap), *range(95, 101)]
        assert served.metrics.drops[DropReason.SLOW] == 95 - gap
        assert served.metrics.resets[ResetReason.SLOW] == 1


async def test_a_stream_reset_in_mid_event_costs_no_other_stream(protocols: list[ServerSide]) -> None:
    async with serving(configuration([patient()])) as served:
        client = await open_http2(served.nursery, served.address, initial_window=1000)
        await client.widen(WIDE)
        streams = [await client.get("/events/a", reading=number != 0) for number in range(3)]
        for stream in streams:
            await stream.response.until_open()
        await served.publish("0:" + "x" * 100_000)  # the first stream gets a piece of it
        await eventually(lambda: len(streams[0].response.body) == 1000)
        assert protocols[0].cork.lagging
        await streams[0].reset()
        for stream in streams[1:]:
            await stream.response.until_events(1)
        await served.until_streams(2)
        await served.publish(*(f"{index}:" + "x" * 1000 for index in range(1, 100)))
        for stream in streams[1:]:
            await stream.response.until_events(100)
            assert numbers(stream) == list(range(100))
        assert not protocols[0].cork.lagging
        assert client.broken is None
        assert served.metrics.closes[CloseReason.CLIENT_LEFT] == 1


async def test_250_streams_at_once_and_again() -> None:
    async with serving() as served:
        client = await open_http2(served.nursery, served.address)
        for _ in range(2):
            streams = [await client.get("/events/a") for _ in range(250)]
            for stream in streams:
                await stream.response.until_open()
            await served.publish(*(f"{index}:x" for index in range(20)))
            for stream in streams:
                await stream.response.until_events(20)
                assert numbers(stream) == list(range(20))
            for stream in streams:
                await stream.reset()
            await served.until_streams(0)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GÄT", "/events/a"),
        ("GÄT", "/nothing/here"),
        ("GE T", "/events/a"),
        ("GET", "/events/ä"),
        ("GET", "/events/a b"),
        ("GET", "/nothing/ä"),
        ("GET", "/nothing here"),
        ("CONNECT", None),
    ],
)
async def test_a_request_that_http_1_would_not_take_costs_itself_only(method: str, path: str | None) -> None:
    """h2 lets it pass; nothing of it gets into the log, and the other streams of its connection go on."""
    with capture_logs() as lines:
        async with serving() as served:
            client = await open_http2(served.nursery, served.address)
            kept = (await client.get("/events/a")).response
            await kept.until_open()
            rest = [(":scheme", "http"), (":path", path)] if path is not None else []
            strange = client.ask([(":method", method), (":authority", "localhost"), *rest]).response
            await client.flush()
            assert await strange.until_end() == "clean"
            assert (strange.status, bytes(strange.body)) == (400, NO_REQUEST)
            await served.publish("still here")
            await kept.until_events(1)
            assert client.broken is None
    assert [line for line in lines if line["log_level"] not in ("info", "debug")] == []


async def test_priorities_are_ignored_and_leave_nothing(protocols: list[ServerSide]) -> None:
    async with serving() as served:
        client = await open_http2(served.nursery, served.address)
        for number in range(500):
            client.state.prioritize(2 * number + 1001, weight=1 + number % 256, depends_on=0)
        await client.flush()
        stream = await client.get("/events/a")
        await stream.response.until_open()
        client.state.prioritize(stream.id, weight=200, depends_on=0, exclusive=True)
        await client.flush()
        await served.publish("0:x")
        await stream.response.until_events(1)
        assert len(protocols[0].priority._streams) <= 1  # the root
        assert not protocols[0].stream_buffers


async def test_a_client_that_says_goaway_leaves_nothing() -> None:
    async with serving() as served:
        client = await open_http2(served.nursery, served.address)
        streams = [await client.get("/events/a") for _ in range(3)]
        for stream in streams:
            await stream.response.until_open()
        client.state.close_connection()
        await client.flush()
        await served.until_streams(0)
        assert served.metrics.subscribers == 0
        await streams[0].response.until_end()


async def test_an_answer_that_no_window_takes_waits_for_nobody_else() -> None:
    async with serving() as served:
        client = await open_http2(served.nursery, served.address, initial_window=0)
        refused = await client.get("/events/a", method="POST", reading=False)
        await refused.response.until_head()
        assert (refused.response.status, refused.response.header("allow")) == (405, "GET, HEAD")
        stream = await client.get("/events/a", reading=False)
        await client.widen(WIDE, stream.id)
        await stream.response.until_open()
        await served.publish("0:x")
        await stream.response.until_events(1)
        await client.widen(WIDE, refused.id)
        assert await refused.response.until_end() == "clean"
        assert b"POST is not for event streams" in refused.response.body


async def test_a_connection_reset_in_mid_write_costs_no_other_connection() -> None:
    async with serving(configuration([patient()])) as served:
        clients = [await open_http2(served.nursery, served.address, initial_window=WIDE) for _ in range(3)]
        streams = []
        for client in clients:
            await client.widen(WIDE)
            streams += [await client.get("/events/a") for _ in range(4)]
        for stream in streams:
            await stream.response.until_open()
        for index in range(60):
            await served.publish(f"{index}:" + "x" * 30_000)
            if index == 30:
                stream_ = clients[0]._stream
                assert isinstance(stream_, trio.SocketStream)
                stream_.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SOL_SOCKET, SO_LINGER: close resets
                await clients[0].aclose()
        for stream in streams[4:]:
            await stream.response.until_events(60)
            assert numbers(stream) == list(range(60))
        await served.until_streams(8)
