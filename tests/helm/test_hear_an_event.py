"""What `helm test` does in the cluster, done here: the pod's own command against a real sidecar and a real RabbitMQ."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helm.chart import Document, render, values_file
from tests.lab.process import Service, running

HEARD_WITHIN = 60.0


@pytest.fixture(scope="module")
def container() -> Document:
    """The container of the test's pod."""
    found: Document = render(values_file("alone")).one("Pod")["spec"]["containers"][0]
    return found


@pytest.fixture
def service(vhost_url: str, tmp_path: Path) -> Iterator[Service]:
    topic = {"exchange": "orders", "declare": {"type": "topic"}}
    routes = [
        {"path": "/events/orders/{order}", "binding_key": "order.{order}.*", **topic},
        {"path": "/events/other", "binding_key": "other", **topic},
    ]
    with running(tmp_path, {"broker": {"url": vhost_url}, "routes": routes}) as running_service:
        host, port = running_service.http
        with urllib.request.urlopen(f"http://{host}:{port}/events/other", timeout=HEARD_WITHIN) as stream:
            stream.read(1)  # the first reader has the exchange declared, which the pod's publisher needs
        yield running_service


def hear(container: Document, service: Service, path: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The pod's command with the pod's environment, save for where things are."""
    given = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    host, port = service.http
    here = {"STREAM": f"http://{host}:{port}{path}", "CONFIG": str(service.config), **more}
    path_of_commands = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [*container["command"], *container["args"]],
        env={**given, **here, "PATH": path_of_commands},
        capture_output=True,
        text=True,
        timeout=HEARD_WITHIN,
        check=False,
    )


def test_it_publishes_until_the_event_is_heard(container: Document, service: Service) -> None:
    done = hear(container, service, "/events/orders/0")
    assert done.returncode == 0, done.stderr
    assert "helm test" in done.stdout


def test_it_fails_when_no_event_comes(container: Document, service: Service) -> None:
    done = hear(container, service, "/events/other", TRIES="2")
    assert done.returncode == 1
    assert "no event at" in done.stderr


def test_it_fails_at_once_when_nothing_can_be_published(container: Document, service: Service) -> None:
    done = hear(container, service, "/events/orders/0", EXCHANGE="no.such.exchange")
    assert done.returncode == 1
    assert "no.such.exchange" in done.stderr
