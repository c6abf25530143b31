"""The application next door is asked who may read: its words to the client, and what becomes of a stream without them.

The application here does what the client's cookies tell it to, so that each test writes its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import trio

from tests.e2e.access.conftest import ACCEPT, APP
from tests.e2e.conftest import Client
from tests.lab import wire
from tests.lab.certificates import Certificates
from tests.lab.ports import free_port
from tests.lab.process import Service, running


class Doorkeeper(ThreadingHTTPServer):
    """An application that answers with the status of the cookie ``say`` and the user of the cookie ``user``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[dict[str, str]] = []
        self.shut: set[str] = set()
        """Users that may not read any more."""
        self.waited_for = threading.Event()
        self.closing = threading.Event()

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that the sidecar has closed."""


class _Answer(BaseHTTPRequestHandler):
    server: Doorkeeper
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append({name.lower(): value for name, value in self.headers.items()})
        cookies = {name: morsel.value for name, morsel in SimpleCookie(self.headers.get("cookie", "")).items()}
        user, status = cookies.get("user"), int(cookies.get("say", "200"))
        if cookies.get("say") == "0":
            self.server.waited_for.set()
            self.server.closing.wait(20)  # it never answers
        body = b"" if status < 300 else b"the application says no\n"
        self.send_response(403 if user in self.server.shut else status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", "seen=1; Path=/")
        self.send_header("X-Internal", "not for the client")
        if status == 302:
            self.send_header("Location", "https://app.example/login?next=%2Fevents")
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="shop"')
        if user is not None:
            self.send_header("X-User-Id", user)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def doorkeeper() -> Iterator[Doorkeeper]:
    """The application, for a block."""
    server = Doorkeeper()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Beside:
    """The process and the application."""

    service: Service
    application: Doorkeeper

    def publish(self, user: str, body: str) -> None:
        """One message for a user."""
        assert self.service.sidecar.ask(f"/publish/e2e.forward/user.{user}", "POST", body.encode()).status < 300


@pytest.fixture(scope="module")
def beside(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    """A process that asks an application, and one route each that asks where nobody listens."""
    source = {"exchange": "e2e.forward", "declare": {"type": "topic"}, "binding_key": "user.{auth.user}"}
    tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    with doorkeeper() as application:

        def route(path: str, port: int, **options: Any) -> dict[str, Any]:
            forward = {"url": f"http://127.0.0.1:{port}/may-read", "take": {"user": "x-user-id"}, "within": "300ms"}
            access = {"forward": forward, "cors": {"origins": [APP], "credentials": True}}
            return {"path": path, "access": access, "retry": "100ms-200ms", **source, **options}

        here, nobody = application.server_address[1], free_port()
        routes = [
            route("/events", here),
            route("/honest", here, overload="503"),
            route("/away", nobody),
            route("/away/honest", nobody, overload="503"),
        ]
        config = {"broker": {"url": "memory://"}, "routes": routes}
        with running(tmp_path_factory.mktemp("beside"), config, tls=tls, publish=True) as service:
            yield Beside(service, application)


@pytest.fixture(params=["http/1.1", "h2"])
def client(request: pytest.FixtureRequest, nursery: trio.Nursery, beside: Beside, certificates: Certificates) -> Client:
    """A client of HTTP/1.1, and one of HTTP/2."""
    return Client(nursery, beside.service, certificates, request.param)


def told(**cookies: str) -> wire.Headers:
    """The header fields of a client whose cookies tell the application what to answer."""
    return [ACCEPT, ("origin", APP), ("cookie", "; ".join(f"{name}={value}" for name, value in cookies.items()))]


async def test_the_application_s_yes_names_the_reader(client: Client, beside: Beside, name: str) -> None:
    own = await client.listen("/events", headers=told(user=name))
    other = await client.listen("/events", headers=told(user=f"{name}x"))
    beside.publish(name, "yours")
    beside.publish(f"{name}x", "another's")
    await own.until_events(1)
    await other.until_events(1)
    assert (own.data, other.data) == (["yours"], ["another's"])
    assert own.header("set-cookie") == "seen=1; Path=/"
    assert own.header("x-internal") is None
    assert own.header("access-control-allow-origin") == APP


async def test_what_the_application_is_told(client: Client, beside: Beside, name: str) -> None:
    query = "a=%C5%BE&b"
    headers = [*told(user=name), ("x-user-id", "root"), ("x-forwarded-uri", "/admin"), ("x-forwarded-for", "10.0.0.1")]
    await client.listen(f"/events?{query}", headers=headers)
    asked = next(asked for asked in reversed(beside.application.asked) if f"user={name}" in asked["cookie"])
    assert "x-user-id" not in asked
    assert asked["x-forwarded-method"] == "GET"
    assert asked["x-forwarded-uri"] == f"/events?{query}"
    assert asked["x-forwarded-for"] == "127.0.0.1"
    assert asked["x-forwarded-proto"] == ("https" if client.kind == "h2" else "http")
    assert "x-forwarded-host" in asked


@pytest.mark.parametrize(
    ("status", "field", "value"),
    [
        (401, "www-authenticate", 'Basic realm="shop"'),
        (403, "content-length", "24"),
        (302, "location", "https://app.example/login?next=%2Fevents"),
        (404, "content-length", "24"),
        (429, "content-length", "24"),
    ],
)
async def test_its_no_is_passed_on(client: Client, status: int, field: str, value: str) -> None:
    response = await client.get("/events", headers=told(say=str(status), user="ada"))
    await response.until_end()
    assert response.status == status
    assert response.header(field) == value
    assert response.header("set-cookie") == "seen=1; Path=/"
    assert response.header("x-internal") is None
    assert response.header("access-control-allow-origin") == APP
    assert response.body == b"the application says no\n"


@pytest.mark.parametrize(
    ("user", "status"), [(None, 403), ("", 400), ("a.b", 400), ("*", 400), ("#", 400), ("ada", 200)]
)
async def test_its_word_must_be_one_word(client: Client, user: str | None, status: int) -> None:
    headers = told(say="200") if user is None else told(user=user)
    assert (await client.get("/events", headers=headers)).status == status


async def test_it_is_asked_again_on_every_reconnect(client: Client, beside: Beside, name: str) -> None:
    stream = await client.listen("/events", headers=told(user=name))
    beside.application.shut.add(name)
    beside.publish(name, "until the stream ends, the right holds")
    await stream.until_events(1)
    again = await client.get("/events", headers=[*told(user=name), ("last-event-id", "1-2")])
    assert again.status == 403


@pytest.mark.parametrize(
    ("path", "cookies"),
    [("/away", {}), ("/events", {"say": "500"}), ("/events", {"say": "503"}), ("/events", {"say": "0"})],
    ids=["nobody listens", "500", "503", "silence"],
)
async def test_without_its_word_a_browser_comes_back(client: Client, path: str, cookies: dict[str, str]) -> None:
    response = await client.get(path, headers=told(user="ada", **cookies))
    assert await response.until_end() == "clean"
    assert (response.status, response.events) == (200, [])
    assert response.header("content-type") == "text/event-stream; charset=utf-8"
    assert response.header("access-control-allow-origin") == APP
    assert 100 <= (response.stream.retry or 0) <= 200


@pytest.mark.parametrize(("path", "cookies"), [("/away/honest", {}), ("/honest", {"say": "500"})])
async def test_or_hears_the_honest_status(client: Client, path: str, cookies: dict[str, str]) -> None:
    response = await client.get(path, headers=told(user="ada", **cookies))
    assert response.status == 503
    assert response.header("retry-after") == "1"
    assert response.header("access-control-allow-origin") == APP


async def test_a_client_that_leaves_while_it_is_asked_about(client: Client, beside: Beside, name: str) -> None:
    """The silent application holds nothing of it, and the connection serves on."""
    beside.application.waited_for.clear()
    leaving = Client(client.nursery, client.service, client.certificates, "h2")
    connection = await leaving.http2()
    waiting = await connection.get("/events", headers=told(say="0", user=name))
    assert await trio.to_thread.run_sync(beside.application.waited_for.wait, 5)
    await waiting.reset()
    assert (await leaving.listen("/events", headers=told(user=name))).end is None
