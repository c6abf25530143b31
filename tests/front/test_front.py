"""docs/how-to/in-front.md keeps what it says, with real proxies and a real sidecar."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trio

from tests.front.fronts import FRONTS, PAGE, Front, running
from tests.lab import process, wire
from tests.lab.certificates import Certificates
from tests.lab.process import Service

ROUTE = {
    "path": "/events/{room}",
    "exchange": "rooms",
    "declare": {"type": "direct"},
    "binding_key": "{room}",
    "heartbeat": "300ms",
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A sidecar with a broker inside, for all fronts."""
    with sidecar(tmp_path_factory.mktemp("sidecar")) as service:
        yield service


def sidecar(folder: Path) -> AbstractContextManager[Service]:
    return process.running(folder, {"broker": {"url": "memory://"}, "routes": [ROUTE]}, publish=True)


@pytest.fixture(params=list(FRONTS))
def front(request: pytest.FixtureRequest) -> Front:
    """Each configuration of the page in turn."""
    return FRONTS[request.param]


@pytest.fixture
def port(front: Front, service: Service, tmp_path: Path, certificates: Certificates) -> Iterator[int]:
    """That configuration, running in front of the sidecar."""
    with running(front, service.http, tmp_path, certificates) as port:
        yield port


@pytest.fixture
def tls(front: Front, certificates: Certificates) -> ssl.SSLContext | None:
    """What a client needs to speak HTTP/1.1 to it."""
    return certificates.client("http/1.1") if front.tls else None


def publish(service: Service, room: str, body: str) -> None:
    assert service.sidecar.ask(f"/publish/rooms/{room}", "POST", body.encode()).status == 204


async def test_each_event_arrives_on_its_own(
    nursery: trio.Nursery, service: Service, front: Front, port: int, tls: ssl.SSLContext | None
) -> None:
    client = await wire.open_http1(nursery, ("localhost", port), "/events/a", tls=tls, headers=GZIP)
    stream = await client.response.until_open()
    for number in range(5):
        publish(service, "a", str(number))
        await stream.until_events(number + 1)  # before the next one is published
    await stream.until(lambda self: len(self.stream.comments) >= 4)  # heartbeats pass too
    assert stream.data == ["0", "1", "2", "3", "4"]
    assert (stream.header("content-type"), stream.header("content-encoding")) == (EVENT_STREAM, None)


GZIP = (("accept", "text/event-stream"), ("accept-encoding", "gzip, br"))
EVENT_STREAM = "text/event-stream; charset=utf-8"


@pytest.mark.parametrize("front", [front for front in FRONTS.values() if front.tls], ids=lambda front: front.program)
async def test_many_streams_share_a_connection_over_http_2(
    nursery: trio.Nursery, service: Service, front: Front, port: int, certificates: Certificates
) -> None:
    connection = await wire.open_http2(nursery, ("localhost", port), tls=certificates.client("h2"))
    streams = [(await connection.get(f"/events/{number}")).response for number in range(12)]
    for number, stream in enumerate(streams):
        await stream.until_open()
        publish(service, str(number), f"for {number}")
        await stream.until_events(1)
    assert [stream.data for stream in streams] == [[f"for {number}"] for number in range(12)]


async def test_a_restart_is_a_clean_end_and_an_invitation_to_come_again(
    nursery: trio.Nursery, front: Front, tls: ssl.SSLContext | None, tmp_path: Path, certificates: Certificates
) -> None:
    with sidecar(tmp_path) as service, running(front, service.http, tmp_path, certificates) as port:
        before = (await wire.open_http1(nursery, ("localhost", port), "/events/a", tls=tls)).response
        await before.until_open()
        assert await trio.to_thread.run_sync(service.sidecar.terminate) == 0
        assert await before.until_end() == "clean"
        away = (await wire.open_http1(nursery, ("localhost", port), "/events/a", tls=tls)).response
        await away.until_end()
        other = (await wire.open_http1(nursery, ("localhost", port), "/elsewhere", tls=tls)).response
        assert (await other.until_head()).status in (502, 503)
    if front is FRONTS["nginx as it comes"]:
        assert away.status == 502
    else:
        assert (away.status, str(away.header("content-type")).partition(";")[0]) == (200, "text/event-stream")
        assert (away.stream.retry, away.events, away.end) == (3000, [], "clean")


def test_the_page_has_no_configuration_that_is_not_run() -> None:
    text = PAGE.read_text()
    for front in FRONTS.values():
        assert front.text()
    for language in ("nginx", "haproxy", "caddyfile"):
        assert text.count(f"```{language}\n") == sum(front.language == language for front in FRONTS.values())
