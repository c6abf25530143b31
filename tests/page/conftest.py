"""A sidecar with the embedded broker, and a person in front of its debug page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from selenium import webdriver

from tests.lab.process import Service, Sidecar, running
from tests.page.person import Person

TOPIC = {"exchange": "orders", "declare": {"type": "topic", "durable": False}, "event": "{type}"}
SECRET = "0123456789abcdef0123456789abcdef"
QUICK = {"retry": "100ms-200ms"}

ROUTES: list[dict[str, Any]] = [
    {"path": "/events/orders", "binding_key": "order.#", "replay": {"memory": 100}, **TOPIC},
    {"path": "/events/orders/{order}", "binding_key": "order.{order}.*", **TOPIC},
    {"path": "/events/of", "binding_key": "of.{query.kind}", **TOPIC},
    {"path": "/brief/{name}", "binding_key": "{name}", "replay": {"memory": 1000}, "max_age": "1s", **QUICK, **TOPIC},
    {
        "path": "/beating/{name}",
        "binding_key": "{name}",
        "heartbeat": {"every": "200ms", "event": True},
        **QUICK,
        **TOPIC,
    },
    {
        "path": "/guarded",
        "binding_key": "guarded",
        "access": {"jwt": {"keys": {"secret": SECRET}, "algorithms": ["HS256"], "from": ["header", "query:ticket"]}},
        **TOPIC,
    },
]


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The process that all of these tests look at."""
    config = {"broker": {"url": "memory://"}, "routes": ROUTES}
    with running(tmp_path_factory.mktemp("page"), config, publish=True) as service:
        yield service


@pytest.fixture
def person(chromium: webdriver.Chrome, watched: Service) -> Iterator[Person]:
    """Somebody who has just opened the page; whatever they do, nothing may be wrong in the browser's console."""
    person = Person(chromium, f"http://127.0.0.1:{watched.sidecar.admin_port}")
    person.complaints()  # those of other tests in the same browser
    person.open()
    yield person
    wrong = person.complaints()
    person.leave()
    assert wrong == []


@pytest.fixture(scope="session")
def token() -> str:
    """A token that the guarded route takes."""
    return jwt.encode({"sub": "ada", "exp": 2**33}, SECRET, "HS256")


@contextlib.contextmanager
def started(config: Path, admin_port: int) -> Iterator[Sidecar]:
    """`sidecar run` at addresses that the test has chosen; SIGTERM at the end."""
    sidecar = Sidecar(["run", "-c", str(config)], admin_port)
    try:
        sidecar.wait_ready()
        yield sidecar
        assert sidecar.terminate() == 0, sidecar.log
    finally:
        sidecar.process.kill()
        sidecar.process.wait()


def publish(service: Service, routing_key: str, body: str, kind: str = "placed") -> None:
    """One message, confirmed."""
    answer = service.sidecar.ask(f"/publish/orders/{routing_key}?type={kind}", "POST", body.encode())
    assert answer.status == 204, answer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where this test's own process keeps its files."""
    return tmp_path
