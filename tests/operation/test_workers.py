"""Several processes that are one sidecar: what a client, a scrape and a signal see of them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.lab import wire
from tests.lab.certificates import Certificates
from tests.lab.process import Service, running
from tests.lab.publisher import Publisher, publishing
from tests.operation.changes import changed, hang_up, reloads, route

WORKERS = 3
KEPT, OTHER = route("/kept/{name}"), route("/other/{name}")


@contextmanager
def crew(directory: Path, url: str, **options: Any) -> Iterator[tuple[Service, Publisher]]:
    """Three workers on a broker, all of them up, and somebody who publishes there."""
    config = {"broker": {"url": url}, "workers": WORKERS, "drain": {"within": "1s"}, "routes": [KEPT, OTHER]}
    with (
        running(directory, {**config, **options.pop("config", {})}, **options) as service,
        publishing(url) as publisher,
    ):
        publisher.exchange("operation", "topic", durable=True)
        yield service, publisher


def others(service: Service) -> list[int]:
    """The processes beside the first."""
    threads = Path(f"/proc/{service.sidecar.process.pid}/task").iterdir()
    return sorted(int(child) for thread in threads for child in (thread / "children").read_text().split())


def connections_of(pid: int) -> int:
    """TCP connections that a process holds (its own to the broker is one)."""
    inodes = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = {f"socket:[{row[9]}]" for row in rows if row[3] == "01"}
    return len(inodes & established)


def until_gone(pids: list[int]) -> None:
    """Wait for the ends of processes that are not our children."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            ended, _, _ = select.select([process], [], [], 10)
            os.close(process)
            assert ended, f"process {pid} is still there"


async def listen(nursery: trio.Nursery, service: Service, number: int, path: str = "/kept/a") -> list[wire.Response]:
    """So many event streams, each on a connection of its own."""
    streams = [(await wire.open_http1(nursery, service.http, path)).response for _ in range(number)]
    for stream in streams:
        await stream.until_open()
    return streams


async def test_three_processes_serve_as_one(nursery: trio.Nursery, tmp_path: Path, vhost_url: str) -> None:
    with crew(tmp_path, vhost_url, ready=False) as (service, publisher):
        starting = await trio.to_thread.run_sync(service.sidecar.wait_answer, "/readyz", 503)
        assert starting.body
        assert service.sidecar.ask("/livez").status == 200
        await trio.to_thread.run_sync(service.sidecar.wait_ready)
        assert len(others(service)) == WORKERS - 1
        assert {line.get("worker") for line in service.sidecar.log.lines} == {None, 2, 3}
        streams = await listen(nursery, service, 30)
        http2 = await wire.open_http2(nursery, service.http)
        left = await (await http2.get("/kept/a")).response.until_open()
        streams.append(left)
        streams.append(await (await wire.open_http1(nursery, service.unix, "/kept/a")).response.until_open())
        for number in range(5):
            publisher.publish("operation", "a", str(number))
        for stream in streams:
            await stream.until_events(5)
            assert stream.data == list("01234")
        shares = [connections_of(pid) for pid in others(service)]
        assert all(8 <= share <= 14 for share in shares), shares
        wait_metric = service.sidecar.wait_metric
        await trio.to_thread.run_sync(lambda: wait_metric("sidecar_subscribers", 32, route="/kept/{name}"))
        await trio.to_thread.run_sync(lambda: wait_metric("sidecar_events_sent_total", 160, route="/kept/{name}"))
        await trio.to_thread.run_sync(lambda: wait_metric("sidecar_messages_received_total", 15, route="/kept/{name}"))
        kept = service.sidecar.ask("/routes").json()["routes"][0]
        assert (kept["subscribers"], kept["subscriptions"], kept["sent"]) == (32, WORKERS, 160)
        await http2.aclose()
        closed = {"route": "/kept/{name}", "reason": "client_left"}
        await trio.to_thread.run_sync(lambda: wait_metric("sidecar_streams_closed_total", 1, **closed))
        page = await wire.open_http1(nursery, ("127.0.0.1", service.sidecar.admin_port), "/overview/stream")
        news = await page.response.until(lambda response: any(event.type == "closed" for event in response.events))
        (told,) = json.loads(next(event.data for event in news.events if event.type == "closed"))
        assert (told["route"], told["reason"], told["events"]) == ("/kept/{name}", "client_left", 5)
        service.sidecar.signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(service.sidecar.wait) == 0
        assert [await stream.until_end() for stream in streams if stream is not left] == ["clean"] * 31


async def test_one_that_is_killed_is_started_again_and_its_counts_are_kept(
    nursery: trio.Nursery, tmp_path: Path, vhost_url: str
) -> None:
    with crew(tmp_path, vhost_url) as (service, publisher):
        streams = await listen(nursery, service, 12)
        publisher.publish("operation", "a", "before")
        for stream in streams:
            await stream.until_events(1)
        metric, wait_metric = service.sidecar.metric, service.sidecar.wait_metric
        await trio.to_thread.run_sync(lambda: wait_metric("sidecar_events_sent_total", 12))
        victim = others(service)[0]
        os.kill(victim, signal.SIGKILL)
        line = await trio.to_thread.run_sync(
            service.sidecar.log.wait, lambda line: line.get("event") == "a worker has ended"
        )
        assert (line["level"], line["code"]) == ("error", -signal.SIGKILL)
        await trio.to_thread.run_sync(
            service.sidecar.until,
            lambda: len(others(service)) == WORKERS - 1 and victim not in others(service),
            "3 again",
        )
        assert service.sidecar.ask("/readyz").status == 200
        assert metric("sidecar_events_sent_total") == 12
        assert metric("sidecar_subscribers") == sum(stream.end is None for stream in streams) == 8
        assert metric("sidecar_worker_restarts_total") == 1
        await trio.to_thread.run_sync(
            service.sidecar.until,
            lambda: sum(line.get("event") == "a worker serves" for line in service.sidecar.log.lines) == WORKERS,
            "a new worker",
        )
        again = await listen(nursery, service, 4)  # the new one has the fewest: they are all its own
        publisher.publish("operation", "a", "after")
        for stream in again:
            assert (await stream.until_events(1))[0].data == "after"
        nursery.cancel_scope.cancel()


async def test_a_reload_reaches_all(
    nursery: trio.Nursery, tmp_path: Path, vhost_url: str, certificates: Certificates
) -> None:
    tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    with crew(tmp_path, vhost_url, tls=tls) as (service, publisher):
        assert service.https is not None
        for _ in range(WORKERS):
            http2 = await wire.open_http2(nursery, service.https, tls=certificates.client("h2"))
            await (await http2.get("/kept/a")).response.until_open()
        kept = await listen(nursery, service, 9)
        gone = await listen(nursery, service, 9, "/other/a")
        await hang_up(service, changed(service, routes=[KEPT, route("/new/{name}")]))
        for stream in gone:
            assert await stream.until_end() == "clean"
        new = await listen(nursery, service, 9, "/new/a")
        publisher.publish("operation", "a", "x")
        for stream in kept + new:
            await stream.until_events(1)
        await hang_up(service, "routes: nothing\n")
        assert reloads(service) == (1, 1)
        assert all(stream.end is None for stream in kept + new)
        await trio.to_thread.run_sync(
            lambda: service.sidecar.wait_metric("sidecar_streams_closed_total", 9, reason="route_gone")
        )
        nursery.cancel_scope.cancel()


async def test_a_drain_reaches_all_and_ends_no_process(nursery: trio.Nursery, tmp_path: Path, vhost_url: str) -> None:
    with crew(tmp_path, vhost_url) as (service, _):
        streams, pids = await listen(nursery, service, 12), others(service)
        assert (await trio.to_thread.run_sync(lambda: service.sidecar.ask("/drain", "POST", b""))).status == 200
        for stream in streams:
            assert await stream.until_end() == "clean"
        assert service.sidecar.metric("sidecar_streams_closed_total", reason="drained") == 12
        assert service.sidecar.ask("/readyz").status == 503
        assert others(service) == pids
        late = (await wire.open_http1(nursery, service.http, "/kept/a")).response
        assert (await late.until_end(), late.status, late.events) == ("clean", 200, [])
        assert await trio.to_thread.run_sync(service.sidecar.terminate, 5.0) == 0
        await trio.to_thread.run_sync(until_gone, pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_they_all_end_with_the_first(
    nursery: trio.Nursery, tmp_path: Path, vhost_url: str, number: signal.Signals
) -> None:
    with crew(tmp_path, vhost_url, config={"drain": {"within": "60s"}}) as (service, _):
        streams, pids = await listen(nursery, service, 6), others(service)
        service.sidecar.signal(number)
        if number == signal.SIGINT:  # as a terminal does: to all of the group, and a second time
            for pid in pids:
                os.kill(pid, number)
            await trio.to_thread.run_sync(service.sidecar.wait_answer, "/readyz", 503)
            assert not any(stream.end for stream in streams)
            service.sidecar.signal(number)
        assert await trio.to_thread.run_sync(service.sidecar.wait, 10.0) == (1 if number == signal.SIGINT else -number)
        await trio.to_thread.run_sync(until_gone, pids)
        nursery.cancel_scope.cancel()


async def test_a_signal_while_a_hook_drains(nursery: trio.Nursery, tmp_path: Path, vhost_url: str) -> None:
    """A preStop hook's request is under way when SIGTERM comes: the workers are asked twice."""
    with crew(tmp_path, vhost_url, config={"drain": {"within": "3s"}}) as (service, _):
        streams = await listen(nursery, service, 30)
        hook = f"http://127.0.0.1:{service.sidecar.admin_port}/drain"
        nursery.start_soon(trio.to_thread.run_sync, lambda: urllib.request.urlopen(hook, timeout=20).close())
        await trio.to_thread.run_sync(service.sidecar.wait_answer, "/readyz", 503)
        service.sidecar.signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(service.sidecar.wait) == 0
        assert [line for line in service.sidecar.log.lines if line["level"] in ("error", "critical")] == []
        assert [await stream.until_end() for stream in streams] == ["clean"] * 30
