"""HTTP/2: any number of event streams on one connection, each with a flow-control window of its own."""

from __future__ import annotations

import pytest
import trio

from tests.e2e.conftest import Client
from tests.lab import wire
from tests.lab.publisher import Publisher


async def test_3000_streams_one_after_another_250_at_once(client: Client, publisher: Publisher, name: str) -> None:
    connection = await wire.open_http2(client.nursery, client.service.http)
    for wave in range(12):
        streams = [await connection.get(f"/plain/{name}") for _ in range(250)]
        for stream in streams:
            await stream.response.until_open()
        publisher.publish("e2e.topic", f"plain.{name}", str(wave))
        for stream in streams:
            await stream.response.until_events(1)
            assert stream.response.data == [str(wave)]
        for stream in streams:
            await stream.reset()
    assert not connection.goaway
    assert connection.broken is None
    await trio.to_thread.run_sync(
        lambda: client.service.sidecar.wait_metric("sidecar_subscribers", 0, route="/plain/{name}")
    )


async def test_streams_that_overlap_like_a_browsers(client: Client, publisher: Publisher, name: str) -> None:
    connection = await wire.open_http2(client.nursery, client.service.http)
    kept = (await connection.get(f"/plain/{name}")).response
    await kept.until_open()
    for number in range(200):
        passing = await connection.get(f"/plain/{name}.x" if number % 3 == 0 else f"/plain/{name}")
        if number % 2:
            await passing.response.until_head()
        await passing.reset()
        publisher.publish("e2e.topic", f"plain.{name}", str(number))
    await kept.until_events(200)
    assert kept.data == [str(number) for number in range(200)]


@pytest.mark.parametrize("path", ["/plain/a", "/plain/a.b", "/nowhere"])
async def test_a_request_and_its_reset_in_one_packet(client: Client, name: str, path: str) -> None:
    connection = await wire.open_http2(client.nursery, client.service.http)
    kept = (await connection.get(f"/plain/{name}")).response
    await kept.until_open()
    passing = await connection.get(path, flush=False)
    connection.state.reset_stream(passing.id)
    await (await connection.get(f"/plain/{name}")).response.until_open()  # all three in one write
    assert kept.end is None


@pytest.mark.parametrize(("path", "status"), [("/plain/a", 405), ("/nowhere", 404)])
async def test_a_body_that_comes_after_the_answer(client: Client, name: str, path: str, status: int) -> None:
    connection = await wire.open_http2(client.nursery, client.service.http)
    kept = (await connection.get(f"/plain/{name}")).response
    await kept.until_open()
    posted = await connection.get(path, method="POST", end=False)
    assert (await posted.response.until_head()).status == status
    await posted.response.until_end()
    if posted.response.end == "clean":
        await connection.send(posted.id, b"x" * 1000, end=False)
        await connection.send(posted.id, b"y")
    await (await connection.get(f"/plain/{name}")).response.until_open()
    assert kept.end is None


async def test_a_stream_whose_window_is_shut_waits_and_loses_nothing(
    client: Client, publisher: Publisher, name: str
) -> None:
    connection = await wire.open_http2(client.nursery, client.service.http, initial_window=400)
    shut = await connection.get(f"/plain/{name}", reading=False)
    open_ = await connection.get(f"/plain/{name}")
    await shut.response.until_open()
    await open_.response.until_open()
    bodies = [f"{number}:" + "x" * 90 for number in range(50)]
    for body in bodies:
        publisher.publish("e2e.topic", f"plain.{name}", body)
    await open_.response.until_events(50)
    assert len(shut.response.body) == 400
    await connection.widen(1_000, shut.id)
    await shut.response.until(lambda self: len(self.body) == 1_400)
    await connection.widen(100_000, shut.id)
    await shut.response.until_events(50)
    assert shut.response.data == open_.response.data == bodies


async def test_a_shut_connection_window_stops_its_own_connection_only(
    client: Client, publisher: Publisher, name: str
) -> None:
    greedy = await wire.open_http2(client.nursery, client.service.http, initial_window=1_000_000)
    stuck = [await greedy.get(f"/plain/{name}", reading=False) for _ in range(3)]
    greedy.returning_window = False
    other = await client.listen(f"/plain/{name}")
    for stream in stuck:
        await stream.response.until_open()
    bodies = [f"{number}:" + "x" * 1_000 for number in range(60)]
    for body in bodies:
        publisher.publish("e2e.topic", f"plain.{name}", body)
    await other.until_events(60)
    greedy.returning_window = True
    await greedy.widen(1_000_000)
    for stream in stuck:
        await stream.response.until_events(60)
        assert stream.response.data == bodies


async def test_the_connection_outlives_a_stream_that_the_server_ended(client: Client, name: str) -> None:
    connection = await wire.open_http2(client.nursery, client.service.http)
    aged = await connection.get(f"/aged/{name}")
    assert (await connection.get("/nowhere")).response is not aged.response
    assert await aged.response.until_end() == "clean"
    again = await connection.get(f"/plain/{name}")
    await again.response.until_open()
    assert connection.broken is None


async def test_more_requests_at_once_than_a_tree_of_priorities_has_places_for(client: Client, name: str) -> None:
    connection = await wire.open_http2(client.nursery, client.service.http)
    kept = (await connection.get(f"/plain/{name}")).response
    await kept.until_open()
    streams = [await connection.get("/nowhere", flush=False) for _ in range(1_200)]
    await connection.flush()
    for stream in streams:
        assert await stream.response.until_end() == "clean"
        assert stream.response.status == 404
    assert (kept.end, connection.broken) == (None, None)
