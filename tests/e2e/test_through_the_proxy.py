"""The application's own traffic through the sidecar: many small requests, large bodies, WebSockets in a browser.

The longer run of the same is in `tests/longer`.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_websocket
from selenium import webdriver

from tests.e2e.test_browser import until
from tests.lab import wire
from tests.lab.certificates import Certificates
from tests.lab.nginx import nginx
from tests.lab.process import Service, Sidecar, running

MB = 1024 * 1024
SMALL = 1000
LARGE = 256 * MB
GROWTH = 16 * MB
"""What the process may have grown by, whatever has passed through it: allocators keep some."""

LOCATION = """
root {directory}/files;
keepalive_requests 1000000;
sendfile on;
if ($request_uri = /small) {{ return 200 "hello\\n"; }}
"""


@contextlib.contextmanager
def behind_nginx(directory: Path, size: int, certificates: Certificates) -> Iterator[Service]:
    """A sidecar whose application is nginx, with ``/small`` and a file ``/large`` of so many bytes."""
    (directory / "files").mkdir()
    with (directory / "files" / "large").open("wb") as file:
        file.truncate(size)
    tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    with nginx(directory, LOCATION.format(directory=directory)) as (host, port):
        config = {"broker": {"url": "memory://"}, "upstream": {"url": f"http://{host}:{port}"}}
        with running(directory, config, tls=tls) as service:
            yield service


@pytest.fixture(scope="module")
def nginx_behind(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The same, for this module."""
    with behind_nginx(tmp_path_factory.mktemp("nginx"), LARGE, certificates) as service:
        yield service


class Memory:
    """The most a process has resident during a block, sampled."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._run)
        self.before = self.most = sidecar.memory

    def __enter__(self) -> Memory:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    @property
    def growth(self) -> int:
        """Bytes above the beginning."""
        return self.most - self.before

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self.most = max(self.most, self._sidecar.memory)


def read_small(address: tuple[str, int], times: int) -> int:
    """Ask for ``/small`` on one kept connection, one after another; returns how many answers were right."""
    request = b"GET /small HTTP/1.1\r\nHost: app.example\r\n\r\n"
    right = 0
    with socket.create_connection(address, timeout=20) as connection:
        for _ in range(times):
            connection.sendall(request)
            answer = b""
            while not answer.endswith(b"hello\n"):
                data = connection.recv(65536)
                assert data, answer
                answer += data
            right += answer.startswith(b"HTTP/1.1 200 OK\r\n")
    return right


def read_large(address: tuple[str, int]) -> int:
    """Download ``/large`` without keeping it; returns its size."""
    size = 0
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(65536)
        size = len(head.partition(b"\r\n\r\n")[2])
        buffer = bytearray(MB)
        while got := connection.recv_into(buffer):
            size += got
    return size


def small_requests(service: Service, times: int) -> None:
    """So many requests on four connections at once, at constant memory."""
    read_small(service.http, 50)  # what is made once is made
    counts: list[int] = []
    readers = [threading.Thread(target=lambda: counts.append(read_small(service.http, times // 4))) for _ in range(4)]
    with Memory(service.sidecar) as memory:
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert counts == [times // 4] * 4
    assert memory.growth < GROWTH, memory.growth


def large_download(service: Service, size: int) -> None:
    """A download of so many bytes at constant memory."""
    read_small(service.http, 50)
    with Memory(service.sidecar) as memory:
        assert read_large(service.http) == size
    assert memory.growth < GROWTH, memory.growth


def test_small_requests_at_constant_memory(nginx_behind: Service) -> None:
    before = nginx_behind.sidecar.metric("sidecar_upstream_requests_total", code="200")
    small_requests(nginx_behind, SMALL)
    after = nginx_behind.sidecar.metric("sidecar_upstream_requests_total", code="200")
    assert after - before == SMALL + 50


def test_a_large_download_at_constant_memory(nginx_behind: Service) -> None:
    large_download(nginx_behind, LARGE)


async def test_small_requests_at_once_over_http2(
    nursery: trio.Nursery, nginx_behind: Service, certificates: Certificates
) -> None:
    assert nginx_behind.https is not None
    connection = await wire.open_http2(nursery, nginx_behind.https, tls=certificates.client("h2"))
    for _ in range(5):
        streams = [await connection.get("/small", flush=False) for _ in range(100)]
        await connection.flush()
        for stream in streams:
            assert await stream.response.until_end() == "clean"
            assert (stream.response.status, bytes(stream.response.body)) == (200, b"hello\n")


async def test_a_reader_that_stops_stops_the_application_too(nginx_behind: Service) -> None:
    """A large answer that nobody reads waits in the application, not in this process."""
    stuck = await wire.never_read(nginx_behind.http, "/large")
    with Memory(nginx_behind.sidecar) as memory:
        assert await trio.to_thread.run_sync(read_large, nginx_behind.http) == LARGE  # meanwhile, for somebody else
    assert memory.growth < GROWTH, memory.growth
    await stuck.aclose()


# ---------------------------------------------------------------------- WebSockets

OPEN = """
const [url, done] = arguments
window.heard = []
window.socket = new WebSocket(url, ["chat"])
socket.binaryType = "arraybuffer"
socket.onmessage = event => heard.push(typeof event.data === "string" ? event.data : event.data.byteLength)
socket.onclose = event => window.left = [event.code, event.reason]
socket.onopen = () => done(socket.protocol)
socket.onerror = () => done("error")
"""
SPEAK = "socket.send('hello'); socket.send('žluť ♥'); socket.send(''); socket.send(new Uint8Array(300000))"


async def echo(request: trio_websocket.WebSocketRequest) -> None:
    """Say everything again, until it is ``bye``."""
    socket_ = await request.accept(subprotocol=(request.proposed_subprotocols or [None])[0])
    with contextlib.suppress(trio_websocket.ConnectionClosed):
        while (message := await socket_.get_message()) != "bye":
            await socket_.send_message(message)
        await socket_.aclose(4000, "as you like")


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_a_websocket_in_a_browser(
    nursery: trio.Nursery,
    chromium: webdriver.Chrome,
    certificates: Certificates,
    tmp_path: Path,
    scheme: str,
) -> None:
    """Over HTTP/1.1 by upgrade, and over HTTP/2 by an extended CONNECT (RFC 8441), whatever the browser takes."""
    server = await nursery.start(trio_websocket.serve_websocket, echo, "127.0.0.1", 0, None)
    config = {"broker": {"url": "memory://"}, "upstream": {"url": f"http://127.0.0.1:{server.port}"}}
    tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    with running(tmp_path, config, tls=tls) as service:
        await trio.to_thread.run_sync(talk, chromium, service, scheme)
        assert service.sidecar.metric("sidecar_upstream_requests_total", code="101") == 1
        nursery.cancel_scope.cancel()


def talk(browser: webdriver.Chrome, service: Service, scheme: str) -> None:
    """What the page says and hears."""
    assert service.https is not None
    host, port = service.https if scheme == "wss" else service.http
    browser.get(f"{scheme.replace('ws', 'http')}://{host}:{port}/")  # whatever it answers: a page of this origin
    assert browser.execute_async_script(OPEN, f"{scheme}://{host}:{port}/echo?a=b") == "chat"
    browser.execute_script(SPEAK)
    until(browser, "return heard", lambda heard: heard == ["hello", "žluť ♥", "", 300_000])
    browser.execute_script("socket.send('bye')")
    left: Any = until(browser, "return window.left", bool)
    assert left == [4000, "as you like"]
