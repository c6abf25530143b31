"""The end of a process under load: spread, whole, in time, and nothing is lost for those who come back."""

from __future__ import annotations

import signal
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.lab import wire
from tests.lab.process import LogLine, Service, running
from tests.lab.publisher import Publisher, publishing
from tests.operation.changes import changed, hang_up, memory, reloads, route

STREAMS, CONNECTIONS, FOLLOWED = 2000, 20, 60
WITHIN = 3.0

REPLAYED = route("/numbers/{name}", replay={"stream": "operation.numbers"})


async def open_streams(nursery: trio.Nursery, service: Service, number: int, path: str) -> list[wire.Response]:
    """So many event streams on a few connections, all of them open."""
    connections = [await wire.open_http2(nursery, service.http) for _ in range(CONNECTIONS)]
    streams = []
    for index in range(number):
        connection = connections[index % CONNECTIONS]
        streams.append((await connection.get(path, keep_body=False, flush=index >= number - CONNECTIONS)).response)
    for stream in streams:
        await stream.until_open(60)
    return streams


class Counting:
    """Somebody who publishes 0, 1, 2 … in a thread until told to stop."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.published = 0

    def __enter__(self) -> Counting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let it publish no more."""
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._enough.wait(0.4):  # the pace
            self._publisher.publish("operation", "a", str(self.published))
            self.published += 1


async def until_all_end(streams: list[wire.Response]) -> None:
    """Wait for the streams' ends; every one is clean, and no event is torn."""
    for stream in streams:
        assert await stream.until_end(30) == "clean"
        assert not stream.stream._rest


def closes(service: Service) -> list[float]:
    """When each stream was closed, by the log, in seconds from when the drain began."""
    lines = service.sidecar.log.lines
    began = next(_seconds(line) for line in lines if line.get("event") == "draining")
    return sorted(_seconds(line) - began for line in lines if line.get("reason") == "drained")


def _seconds(line: LogLine) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


async def test_two_thousand_streams_end_over_the_window_and_lose_nothing(
    nursery: trio.Nursery, tmp_path: Path, vhost_url: str
) -> None:
    config: dict[str, Any] = {"broker": {"url": vhost_url}, "drain": {"within": f"{WITHIN:g}s"}, "routes": [REPLAYED]}
    folders = tmp_path / "leaves", tmp_path / "stays"
    for folder in folders:
        folder.mkdir()
    with (
        running(folders[0], config) as leaves,
        running(folders[1], config) as stays,
        publishing(vhost_url) as publisher,
    ):
        streams = await open_streams(nursery, leaves, STREAMS, "/numbers/a")
        with Counting(publisher) as counting:
            for stream in streams:
                await stream.until_events(2, 30)
            leaves.sidecar.signal(signal.SIGTERM)
            assert await trio.to_thread.run_sync(leaves.sidecar.wait, 20.0) == 0
            await until_all_end(streams)
            back = [await _again(nursery, stays, stream) for stream in streams[:: STREAMS // FOLLOWED]]
            counting.stop()
            publisher.publish("operation", "a", "the end")
        for before, after in zip(streams[:: STREAMS // FOLLOWED], back, strict=True):
            await after.until(lambda response: "the end" in response.data)
            assert [*before.data, *after.data] == [*map(str, range(counting.published)), "the end"]
        times = closes(leaves)
        assert len(times) == STREAMS
        assert times[-1] < WITHIN + 1
        for tenth in range(1, 10):  # even over four fifths of the window, give or take a busy machine
            assert abs(times[STREAMS * tenth // 10] - 0.8 * WITHIN * tenth / 10) < 0.2 * WITHIN, times[:: STREAMS // 10]
        nursery.cancel_scope.cancel()


async def _again(nursery: trio.Nursery, service: Service, stream: wire.Response) -> wire.Response:
    headers = [("Accept", "text/event-stream"), ("Last-Event-ID", stream.stream.last_id)]
    return (await wire.open_http1(nursery, service.http, "/numbers/a", headers=headers)).response


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_now_and_is_1(
    nursery: trio.Nursery, tmp_path: Path, number: signal.Signals
) -> None:
    with running(tmp_path, memory(route("/kept/{name}"), drain={"within": "60s"})) as service:
        streams = await open_streams(nursery, service, CONNECTIONS, "/kept/a")
        service.sidecar.signal(signal.SIGTERM)
        await trio.to_thread.run_sync(service.sidecar.wait_answer, "/readyz", 503)
        service.sidecar.signal(number)
        assert await trio.to_thread.run_sync(service.sidecar.wait, 5.0) == 1
        for stream in streams:
            await stream.until_end()


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_drain_over_http_does_not_end_the_process(nursery: trio.Nursery, tmp_path: Path, method: str) -> None:
    with running(tmp_path, memory(route("/kept/{name}"), drain={"within": "1s"})) as service:
        streams = await open_streams(nursery, service, 100, "/kept/a")
        answers = []

        def drain() -> None:
            answers.append(service.sidecar.ask("/drain", method))
            answers.append(service.sidecar.ask("/drain", method))  # once more is no mistake

        async with trio.open_nursery() as asking:
            asking.start_soon(trio.to_thread.run_sync, drain)
            await until_all_end(streams)
        times = closes(service)
        assert times[-1] - times[0] > 0.3
        assert [answer.status for answer in answers] == [200, 200]
        assert service.sidecar.process.poll() is None
        assert (service.sidecar.ask("/livez").status, service.sidecar.ask("/readyz").status) == (200, 503)
        late = (await wire.open_http1(nursery, service.http, "/kept/a")).response
        assert (await late.until_end(), late.status, late.events) == ("clean", 200, [])
        assert late.stream.retry is not None
        began = trio.current_time()
        assert await trio.to_thread.run_sync(service.sidecar.terminate) == 0
        assert trio.current_time() - began < 10  # there is nothing to wait for any more


async def test_a_reload_is_not_taken_while_draining(nursery: trio.Nursery, tmp_path: Path) -> None:
    with running(tmp_path, memory(route("/kept/{name}"))) as service:
        service.sidecar.ask("/drain")
        service.config.write_text(changed(service, routes=[]))
        service.sidecar.signal(signal.SIGHUP)
        service.sidecar.log.wait(lambda line: "while draining" in str(line.get("event")))
        assert reloads(service) == (0, 0)


async def test_a_hundred_reloads_leave_nothing_behind(nursery: trio.Nursery, tmp_path: Path, vhost_url: str) -> None:
    kept = [route("/kept/{name}"), route("/remembered/{name}", replay={"memory": 10}), REPLAYED]
    config = {"broker": {"url": vhost_url}, "drain": {"within": "50ms"}}

    def routes(number: int) -> list[dict[str, Any]]:
        return [*kept, route("/other/{name}", heartbeat=f"{60 + number}s")]

    with running(tmp_path, {**config, "routes": routes(0)}) as service, publishing(vhost_url) as publisher:
        publisher.exchange("operation", "topic", durable=True)
        paths = ("/kept/a", "/remembered/a", "/numbers/a")
        streams = [stream for path in paths for stream in await open_streams(nursery, service, 40, path)]
        with Counting(publisher) as counting:
            for number in range(1, 101):
                other = await (await wire.open_http1(nursery, service.http, "/other/a")).response.until_open()
                await hang_up(service, changed(service, routes=routes(number)))
                assert await other.until_end() == "clean"
                if number == 20:
                    before = await trio.to_thread.run_sync(_measure, service)
        sidecar = service.sidecar
        await trio.to_thread.run_sync(sidecar.until, lambda: _measure(service) == before, f"{before} as at the 20th")
        assert reloads(service) == (100, 0)
        for stream in streams:
            await stream.until(lambda response: len(response.data) >= counting.published)
            assert stream.data == list(map(str, range(counting.published)))
            assert stream.end is None
        closed = service.sidecar.metric("sidecar_streams_closed_total")
        assert service.sidecar.metric("sidecar_streams_closed_total", reason="route_gone") == closed == 100
        nursery.cancel_scope.cancel()


def _measure(service: Service) -> tuple[int, float, int]:
    """Open files, streams and subscriptions, once what must go has gone."""
    sidecar = service.sidecar
    sidecar.wait_metric("sidecar_subscribers", 120)
    listed = sidecar.ask("/routes").json()["routes"]
    return sidecar.open_files, sidecar.metric("sidecar_subscribers"), sum(each["subscriptions"] for each in listed)
