"""The README, followed as it stands: its configuration, its commands, its lines of curl."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import trio

from tests.lab import wire
from tests.lab.ports import free_port, two_free_ports
from tests.lab.process import Sidecar, run_command

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(language: str, word: str) -> str:
    """The first code block of this language that holds a word."""
    blocks: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return next(text for tongue, text in blocks if tongue == language and word in text)


def shape(text: bytes) -> bytes:
    """A text without its numbers and the last word of its JSON, which differ each time."""
    return re.sub(rb'\d+|"\w+"}', b"N", text)


def test_the_demo_is_one_line() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert block("sh", "make run") == "make run\n"
    assert re.search(r"^run: .*\n\t.*sidecar demo", makefile, re.MULTILINE)


async def test_the_demo_answers_the_curl_line_as_shown(nursery: trio.Nursery) -> None:
    (path,) = re.findall(r"^curl -N http://127\.0\.0\.1:8080(\S+)$", block("sh", "curl -N http://127"), re.MULTILINE)
    port = two_free_ports()
    demo = Sidecar(["demo", "--port", str(port)], port + 1)
    try:
        await trio.to_thread.run_sync(demo.wait_ready)
        stream = (await wire.open_http1(nursery, ("127.0.0.1", port), path)).response
        event, *_ = await stream.until_events(1)
        shown = block("", "retry:").encode()
        assert shape(bytes(stream.body)).startswith(shape(shown[: shown.index(b"event")]))
        assert shape(f"data: {event.data}".encode()) == shape(shown.splitlines()[-1])
        assert await trio.to_thread.run_sync(demo.terminate) == 0, demo.log
    finally:
        demo.process.kill()


async def test_the_configuration_and_the_commands(nursery: trio.Nursery, vhost_url: str, tmp_path: Path) -> None:
    port, admin = free_port(), free_port()
    config = tmp_path / "config.yaml"
    text = block("yaml", "routes:").replace("0.0.0.0:8080", f"127.0.0.1:{port}")
    config.write_text(f"admin: {{bind: 127.0.0.1:{admin}}}\n{text}")  # 9400 may be taken on this machine
    lines = {line.split()[1]: line for line in block("sh", "sidecar check").splitlines() if line.startswith("sidecar ")}
    env = {"AMQP_URL": vhost_url}
    assert set(lines) == {"check", "run", "publish"}
    sidecar = Sidecar(["run", "-c", str(config)], admin, env=env)
    try:
        await trio.to_thread.run_sync(sidecar.wait_ready)
        check = shlex.split(lines["check"], comments=True)[1:]
        checked = await trio.to_thread.run_sync(lambda: run_command(*check, "-c", str(config), env=env))
        assert checked.returncode == 0, checked
        client = await wire.open_http1(nursery, ("127.0.0.1", port), "/events/orders/7")
        stream = await client.response.until_open()
        publish = shlex.split(lines["publish"], comments=True)[1:]
        published = await trio.to_thread.run_sync(lambda: run_command(*publish, "-c", str(config), env=env))
        assert published.returncode == 0, published
        (event,) = await stream.until_events(1)
        assert (event.type, event.data) == ("order.7.paid", '{"total": 12}')
        await client.aclose()
        assert await trio.to_thread.run_sync(sidecar.terminate) == 0, sidecar.log
    finally:
        sidecar.process.kill()
