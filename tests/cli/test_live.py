"""`sidecar live`, the image's health check, against listeners that answer, refuse, fall silent or talk nonsense."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import typer
from typer.testing import CliRunner

from sidecar.cli import live as module
from sidecar.cli.live import live
from tests.lab.ports import free_port

app = typer.Typer()
app.command()(live)


@contextmanager
def answering(answer: bytes | None) -> Iterator[tuple[str, list[bytes]]]:
    """A listener that gives this answer to one request, or none; yields its URL and what it was asked."""
    asked: list[bytes] = []
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(4096))
            if answer is None:
                over.wait(10)
            else:
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            over.set()
            thread.join(10)


def response(status: str, body: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def test_it_asks_livez_and_is_silent_when_all_is_well() -> None:
    with answering(response("200 OK", "ok")) as (url, asked):
        result = CliRunner().invoke(app, ["--admin", url])
    assert (result.exit_code, result.output) == (0, "")
    assert asked[0].startswith(b"GET /livez HTTP/1.1\r\n")


def test_the_environment_says_where_the_admin_listener_is() -> None:
    with answering(response("200 OK")) as (url, asked):
        assert CliRunner().invoke(app, [], env={"SIDECAR_ADMIN": url}).exit_code == 0
    assert asked


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (response("503 Service Unavailable", "the hub has stopped\n"), "/livez says 503: the hub has stopped"),
        (b"SSH-2.0-OpenSSH\r\n", "SSH"),
        (b"", "without response"),
    ],
    ids=["not-alive", "not-http", "nothing"],
)
def test_what_is_wrong_is_told_in_one_line(answer: bytes, reason: str) -> None:
    with answering(answer) as (url, _):
        result = CliRunner().invoke(app, ["--admin", url])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{url}: ")
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_listener_that_falls_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_WITHIN", 0.05)
    with answering(None) as (url, asked):
        result = CliRunner().invoke(app, ["--admin", url])
    assert (result.exit_code, "timed out" in result.stderr) == (1, True)
    assert asked


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param(f"http://127.0.0.1:{free_port()}", "refused", id="nobody listens"),
        ("unix:/run/admin", "looks like http://"),
        ("http://127.0.0.1:port", "port"),
    ],
)
def test_an_address_that_cannot_be_asked_is_told(url: str, reason: str) -> None:
    result = CliRunner().invoke(app, ["--admin", url])
    assert result.exit_code == 1
    assert reason in result.stderr.lower()
