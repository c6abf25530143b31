"""The other commands, as an operator types them."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import yaml

from tests.e2e.conftest import topic_route
from tests.lab import wire
from tests.lab.ports import two_free_ports
from tests.lab.process import Service, Sidecar, run_command, running
from tests.lab.publisher import Publisher

in_thread = trio.to_thread.run_sync


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Service]:
    """A process with the embedded broker, into which anybody on the admin listener may publish."""
    routes = [topic_route("/plain/{name}", event="{type}", retry="50ms-50ms")]
    with running(tmp_path, {"broker": {"url": "memory://"}, "routes": routes}, publish=True) as service:
        yield service


# run and check


BROKEN = """\
broker: {url: http://localhost}
listen:
  - bind: nowhere
routes:
  - path: /events/{a}/{a}
    exchange: orders
    binding_kee: "order.{b}"
    heartbeat: soon
"""


@pytest.mark.parametrize("command", ["run", "check"])
def test_every_mistake_of_a_configuration_at_once(tmp_path: Path, command: str) -> None:
    file = tmp_path / "sidecar.yaml"
    file.write_text(BROKEN)
    done = run_command(command, "-c", str(file))
    assert done.returncode == 2
    text = done.stdout + done.stderr
    for line, word in ((1, "broker.url"), (3, "bind"), (5, "path"), (7, "binding_key"), (8, "heartbeat")):
        assert re.search(rf"{re.escape(file.name)}:{line}:\d+.*{word}", text), (line, word, text)
    assert "Traceback" not in text


@pytest.mark.parametrize("command", ["run", "check", "explain"])
def test_a_file_that_is_not_there(tmp_path: Path, command: str) -> None:
    arguments = ["/events"] if command == "explain" else []
    done = run_command(command, "-c", str(tmp_path / "absent.yaml"), *arguments)
    assert done.returncode == 2
    assert "absent.yaml" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_check_of_a_good_file_lists_its_routes(service: Service) -> None:
    done = run_command("check", "-c", str(service.config))
    assert done.returncode == 0, done
    assert "/plain/{name}" in done.stdout
    assert "e2e.headers" in done.stdout


def test_explain(service: Service) -> None:
    done = run_command("explain", "-c", str(service.config), "/topic/42")
    assert done.returncode == 0, done
    for word in ("/topic/{order}", "42", "e2e.topic", "order.42.*"):
        assert word in done.stdout
    assert run_command("explain", "-c", str(service.config), "/nowhere").returncode == 1


def test_schema_accepts_what_check_accepts(service: Service) -> None:
    done = run_command("schema")
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    whole = yaml.safe_load(service.config.read_text())
    assert set(whole) <= set(schema["properties"])


@pytest.mark.parametrize("command", ["run", "check", "demo", "tail", "publish", "explain", "schema"])
def test_help_has_an_example(command: str) -> None:
    done = run_command(command, "--help", env={"NO_COLOR": "1", "COLUMNS": "80"})
    assert done.returncode == 0
    assert f"sidecar {command}" in done.stdout.replace("Usage: sidecar", "")
    assert "\x1b[" not in done.stdout


# tail


async def test_tail_prints_events_and_stops_after_n(service: Service, publisher: Publisher, name: str) -> None:
    url = "http://{}:{}/typed/{}".format(*service.http, name)
    before = service.sidecar.metric("sidecar_subscribers", route="/typed/{name}")
    async with trio.open_nursery() as nursery:
        tail = functools.partial(run_command, "tail", "--json", "-n", "2", url)
        done = []

        async def run() -> None:
            done.append(await in_thread(tail))

        nursery.start_soon(run)
        await in_thread(lambda: service.sidecar.wait_metric("sidecar_subscribers", before + 1, route="/typed/{name}"))
        publisher.publish("e2e.topic", f"plain.{name}", "one\ntwo", type="first")
        publisher.publish("e2e.topic", f"plain.{name}", "three", type="second")
    assert done[0].returncode == 0, done
    events = [json.loads(line) for line in done[0].stdout.splitlines()]
    assert [event["data"] for event in events] == ["one\ntwo", "three"]
    assert [event.get("event", event.get("type")) for event in events] == ["first", "second"]


@pytest.mark.parametrize("path", ["/nowhere", "/plain/a.b"])
async def test_tail_gives_up_on_what_will_not_pass(service: Service, path: str) -> None:
    done = await in_thread(run_command, "tail", "-n", "1", "http://{}:{}{}".format(*service.http, path))
    assert done.returncode == 1
    assert re.search("40[04]", done.stderr + done.stdout)


async def test_tail_comes_back_after_an_end(service: Service, publisher: Publisher, name: str) -> None:
    url = "http://{}:{}/brief/{}".format(*service.http, name)
    closed = service.sidecar.metric("sidecar_streams_closed_total", route="/brief/{name}", reason="expired")
    tail = Sidecar(["tail", "-n", "1", url], 0)
    try:
        await in_thread(lambda: wait_more(service, closed + 2))
        await in_thread(publish_until_gone, publisher, f"plain.{name}", tail)
        assert tail.wait() == 0
        assert "at last" in tail.log.text
    finally:
        tail.process.kill()


def publish_until_gone(publisher: Publisher, key: str, tail: Sidecar) -> None:
    """Publish again and again, since a message may fall between two connections of a route without replay."""
    for _ in range(200):
        publisher.publish("e2e.topic", key, "at last")
        with contextlib.suppress(subprocess.TimeoutExpired):
            tail.process.wait(0.05)
            return


def wait_more(service: Service, number: float) -> None:
    """Wait until streams of the brief route have expired that often."""
    metric = functools.partial(service.sidecar.metric, route="/brief/{name}", reason="expired")
    service.sidecar.until(lambda: metric("sidecar_streams_closed_total") >= number, "two more expired streams")


# publish


async def test_publish_to_the_broker_of_a_configuration(
    nursery: trio.Nursery, service: Service, publisher: Publisher, name: str
) -> None:
    stream = (await wire.open_http1(nursery, service.http, f"/named/{name}")).response
    await stream.until_open()
    command = ["publish", "-c", str(service.config), "--header", "tenant=acme", "--type", "paid", "--message-id", "m-1"]
    done = await in_thread(functools.partial(run_command, *command, "e2e.topic", f"plain.{name}", "hello"))
    assert done.returncode == 0, done
    (event,) = await stream.until_events(1)
    assert (event.type, event.data) == (f"e2e.topic|plain.{name}|paid|m-1||acme|{name}", "hello")


async def test_publish_each_line_of_standard_input(
    nursery: trio.Nursery, service: Service, publisher: Publisher, name: str
) -> None:
    stream = (await wire.open_http1(nursery, service.http, f"/plain/{name}")).response
    await stream.until_open()
    command = functools.partial(
        run_command, "publish", "-c", str(service.config), "e2e.topic", f"plain.{name}", stdin="one\ntwo\nthree\n"
    )
    done = await in_thread(command)
    assert done.returncode == 0, done
    await stream.until_events(3)
    assert stream.data == ["one", "two", "three"]


async def test_publish_that_the_broker_refuses_is_1(service: Service, publisher: Publisher) -> None:
    done = await in_thread(run_command, "publish", "-c", str(service.config), "e2e.absent", "key", "body")
    assert done.returncode == 1
    assert "e2e.absent" in done.stderr
    assert "Traceback" not in done.stderr


async def test_publish_through_a_running_process(nursery: trio.Nursery, memory: Service) -> None:
    stream = (await wire.open_http1(nursery, memory.http, "/plain/a")).response
    await stream.until_open()
    admin = f"http://127.0.0.1:{memory.sidecar.admin_port}"
    done = await in_thread(run_command, "publish", "--admin", admin, "--type", "paid", "e2e.topic", "plain.a", "hello")
    assert done.returncode == 0, done
    (event,) = await stream.until_events(1)
    assert (event.type, event.data) == ("paid", "hello")
    nursery.cancel_scope.cancel()


# demo


async def test_the_demo_serves_the_lines_it_prints(nursery: trio.Nursery) -> None:
    port = two_free_ports()
    demo = Sidecar(["demo", "--port", str(port)], port + 1)
    try:
        line = await in_thread(demo.log.wait, lambda line: "Ctrl-C" in str(line))
        assert line
        printed = "\n".join(str(line.get("text")) for line in demo.log.lines)
        paths = re.findall(rf"curl -N http://[^/]+:{port}(/\S+)", printed)
        assert paths
        for path in paths[:2]:
            stream = (await wire.open_http1(nursery, ("127.0.0.1", port), path, headers=[("accept", "*/*")])).response
            await stream.until_open()
            await stream.until_events(2)
        assert demo.ask("/livez").status == 200
        demo.signal(signal.SIGINT)
        assert await in_thread(demo.wait) == 0
    finally:
        demo.process.kill()
