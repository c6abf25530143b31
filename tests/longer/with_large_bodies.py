"""10 000 small requests, and 2 GB each way: what `tests/e2e/test_through_the_proxy.py` does, at full length."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_through_the_proxy import GROWTH, MB, Memory, behind_nginx, large_download, small_requests
from tests.lab.certificates import Certificates
from tests.lab.process import Service, running

LARGE = 2048 * MB


@pytest.fixture(scope="module")
def service(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A sidecar before nginx, which has a file of 2 GB (a sparse one: it takes no room)."""
    with behind_nginx(tmp_path_factory.mktemp("nginx"), LARGE, certificates) as service:
        yield service


def test_10_000_requests(service: Service) -> None:
    small_requests(service, 10_000)


def test_a_download_of_2_gb(service: Service) -> None:
    large_download(service, LARGE)


def test_an_upload_of_2_gb(tmp_path: Path) -> None:
    """The application counts what arrives, in chunks of unknown number, and answers with the sum."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        application = threading.Thread(target=count_an_upload, args=(listener,))
        application.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with running(tmp_path, {"broker": {"url": "memory://"}, "upstream": {"url": url}}) as service:
            with Memory(service.sidecar) as memory:
                assert upload(service.http, LARGE) == LARGE
            assert memory.growth < GROWTH, memory.growth
            application.join()


def count_an_upload(listener: socket.socket) -> None:
    """Read one request with a length, answer how long its body was, close."""
    connection, _ = listener.accept()
    with connection:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, rest = data.partition(b"\r\n\r\n")
        lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
        size, buffer = len(rest), bytearray(MB)
        while size < int(lengths[0]):
            size += connection.recv_into(buffer)
        body = b"%d" % size
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))


def upload(address: tuple[str, int], size: int) -> int:
    """Send a body of so many bytes; returns how many the application has counted."""
    piece = bytes(MB)
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"PUT /large HTTP/1.1\r\nHost: app.example\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // MB):
            connection.sendall(piece)
        answer = b""
        while not answer.endswith(b"%d" % size):
            data = connection.recv(65536)
            assert data, answer
            answer += data
    return int(answer.rpartition(b"\r\n\r\n")[2])
