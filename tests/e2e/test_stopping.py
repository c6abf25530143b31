"""How a process ends: cleanly, in time, spread over the window, with 0."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.conftest import topic_route
from tests.lab import wire
from tests.lab.process import Service, run_command, running

STREAMS = 60


def config(within: str, url: str = "memory://") -> dict[str, Any]:
    """A process whose end may take this long."""
    route = topic_route("/plain/{name}", heartbeat="200ms")
    return {"broker": {"url": url}, "drain": {"within": within}, "routes": [route]}


async def open_streams(nursery: trio.Nursery, service: Service) -> list[wire.Response]:
    """Open streams, half of them on HTTP/2."""
    http2 = await wire.open_http2(nursery, service.http)
    streams = [(await http2.get("/plain/a")).response for _ in range(STREAMS // 2)]
    streams += [(await wire.open_http1(nursery, service.http, "/plain/a")).response for _ in range(STREAMS // 2)]
    for stream in streams:
        await stream.until_open()
    return streams


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_open_streams_end_cleanly_and_not_all_at_once(
    nursery: trio.Nursery, tmp_path: Path, vhost_url: str, number: signal.Signals
) -> None:
    with running(tmp_path, config("2s", vhost_url)) as service:
        streams = await open_streams(nursery, service)
        ends: list[float] = []

        async def note_the_end(stream: wire.Response) -> None:
            assert await stream.until_end() == "clean"
            ends.append(trio.current_time())

        started = trio.current_time()
        async with trio.open_nursery() as noting:
            for stream in streams:
                noting.start_soon(note_the_end, stream)
            service.sidecar.signal(number)
            assert (await trio.to_thread.run_sync(service.sidecar.wait_answer, "/readyz", 503)).body
            late = (await wire.open_http1(nursery, service.http, "/plain/late")).response
            assert await late.until_end() == "clean"
            assert (late.status, late.events) == (200, [])
            assert late.stream.retry is not None
        assert await trio.to_thread.run_sync(service.sidecar.wait) == 0
        assert max(ends) - min(ends) > 0.5  # spread over the window ...
        assert max(ends) - started < 2 + 3  # ... and not far beyond it
        reasons = [line["reason"] for line in service.sidecar.log.lines if "reason" in line and "route" in line]
        assert reasons.count("drained") >= STREAMS


async def test_a_second_signal_ends_it_now(nursery: trio.Nursery, tmp_path: Path) -> None:
    with running(tmp_path, config("60s")) as service:
        streams = await open_streams(nursery, service)
        service.sidecar.signal(signal.SIGTERM)
        await trio.to_thread.run_sync(service.sidecar.wait_answer, "/readyz", 503)
        service.sidecar.signal(signal.SIGTERM)
        await trio.to_thread.run_sync(service.sidecar.wait, 10.0)
        for stream in streams:
            await stream.until_end()


async def test_without_streams_it_is_gone_at_once(tmp_path: Path) -> None:
    with running(tmp_path, config("60s")) as service:
        assert await trio.to_thread.run_sync(service.sidecar.terminate, 10.0) == 0


async def test_idle_connections_do_not_hold_it_up(nursery: trio.Nursery, tmp_path: Path) -> None:
    with running(tmp_path, config("1s")) as service:
        silent = await trio.open_tcp_stream(*service.http)
        idle = await wire.open_http2(nursery, service.http)
        kept_alive = await trio.open_tcp_stream(*service.http)
        await kept_alive.send_all(wire.request_bytes("GET", "/nowhere", "localhost", "1.1", []))
        await kept_alive.receive_some()
        assert await trio.to_thread.run_sync(service.sidecar.terminate, 10.0) == 0
        for stream in (silent, kept_alive):
            await trio.aclose_forcefully(stream)
        await idle.aclose()


async def test_a_port_that_is_taken_is_said_and_is_1(tmp_path: Path) -> None:
    with running(tmp_path, config("1s")) as service:
        other = tmp_path / "other.yaml"
        other.write_text(service.config.read_text().replace("sidecar.sock", "other.sock"))
        done = await trio.to_thread.run_sync(lambda: run_command("run", "-c", str(other)))
        assert done.returncode == 1
        text = done.stdout + done.stderr
        assert str(service.http[1]) in text or str(service.sidecar.admin_port) in text
        assert "Traceback" not in text
