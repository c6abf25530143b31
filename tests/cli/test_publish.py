"""`sidecar publish` both ways: through a scripted admin listener, and to a real RabbitMQ."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pika  # type: ignore[import-untyped]
import pytest
import trio
from pika.adapters.blocking_connection import BlockingChannel  # type: ignore[import-untyped]

from sidecar.http.answer import Scope
from sidecar.http.publish import Publication, read_publication
from tests.lab.ports import free_port
from tests.lab.rabbitmq import RabbitNode
from tests.lab.scripted import Asked, scripted

CONFIRMED = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"


def refused(status: str, text: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


async def publish(*arguments: str | bytes, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command: Sequence[str | bytes] = [sys.executable, "-m", "sidecar", "publish", *arguments]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    with trio.fail_after(30):
        return await trio.run_process(
            command, stdin=stdin, capture_stdout=True, capture_stderr=True, check=False, env=environment
        )


async def understood(asked: Asked) -> Publication:
    """What a real admin listener makes of a request."""
    parts = urlsplit(asked.target)
    fields = [(name.encode(), value.encode("latin-1")) for name, value in asked.fields.items()]
    scope: Scope = {"raw_path": parts.path.encode(), "query_string": parts.query.encode(), "headers": fields}

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": asked.body, "more_body": False}

    return await read_publication(scope, receive)


# Through a running sidecar


async def test_a_message_goes_to_the_admin_listener_as_it_is() -> None:
    async with scripted(CONFIRMED) as server:
        result = await publish(
            "a/b ü", "order.7.%2F?#", b'{"total": "\xff\n"}', "--admin", f"{server.url}/",
            "--header", "tenant=a&b=c+d", "--header", "empty=", "--type", "order.paid", "--message-id", "ü 1",
            "--content-type", "application/json",
        )  # fmt: skip
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
        (asked,) = server.asked
        assert asked.method == "POST"
        assert asked.target.startswith("/publish/a%2Fb%20%C3%BC/order.7.%252F%3F%23?")
        assert dict(parse_qsl(urlsplit(asked.target).query, keep_blank_values=True)) == {
            "type": "order.paid",
            "message_id": "ü 1",
            "header.tenant": "a&b=c+d",
            "header.empty": "",
        }
        message = await understood(asked)
    assert (message.exchange, message.routing_key) == ("a/b ü", "order.7.%2F?#")
    assert message.body == b'{"total": "\xff\n"}'
    assert message.properties.content_type == "application/json"
    assert (message.properties.type, message.properties.message_id) == ("order.paid", "ü 1")
    assert message.properties.headers == {"tenant": "a&b=c+d", "empty": ""}


async def test_what_is_not_given_is_not_sent() -> None:
    async with scripted(CONFIRMED) as server:
        assert (await publish("", "", "", "--admin", server.url)).returncode == 0
        message = await understood(server.asked[0])
    assert server.asked[0].target == "/publish//"
    assert (message.exchange, message.routing_key, message.body) == ("", "", b"")
    assert message.properties.content_type is message.properties.type is None


async def test_each_line_of_input_is_a_message() -> None:
    async with scripted(CONFIRMED) as server:
        result = await publish("e", "k", "--admin", server.url, stdin=b"one\r\n\ntwo \xff\nlast")
    assert (result.returncode, result.stderr) == (0, b"")
    assert [asked.body for asked in server.asked] == [b"one", b"", b"two \xff", b"last"]


async def test_no_input_is_no_message() -> None:
    async with scripted(CONFIRMED) as server:
        assert (await publish("e", "k", "--admin", server.url)).returncode == 0
        assert server.asked == []


async def test_a_refusal_ends_it_and_says_how_far_it_came() -> None:
    no = refused("409 Conflict", "the broker refused: no exchange 'e'\nmore\n")
    async with scripted(CONFIRMED, CONFIRMED, no, CONFIRMED) as server:
        result = await publish("e", "k", "--admin", server.url, stdin=b"1\n2\n3\n4\n")
    url = f"{server.url}/publish/e/k"
    assert result.returncode == 1
    assert result.stderr.decode() == f"{url}: 409: the broker refused: no exchange 'e' (2 published before it)\n"
    assert len(server.asked) == 3


async def test_an_admin_listener_that_does_not_answer_is_waited_for_so_long() -> None:
    async with scripted(b"HOLD") as server:
        result = await publish("e", "k", "x", "--admin", server.url, "--timeout", "300ms")
    assert result.returncode == 1
    assert "within 0.3 s; it may have the message" in result.stderr.decode()


async def test_an_admin_listener_that_is_not_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = await publish("e", "k", "x", "--admin", url)
    assert result.returncode == 1
    assert result.stderr.decode().startswith(f"{url}/publish/e/k: ")
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("lines", "answers", "said"),
    [
        (b"one\ntwo\n", [CONFIRMED, b"HOLD"], b"stopped (1 published before it)\n"),  # while an answer is awaited
        (b"one\n", [b"HOLD"], b"stopped\n"),
        (b"unfinished", [CONFIRMED], b"stopped\n"),  # while a person types
    ],
)
async def test_ctrl_c(lines: bytes, answers: list[bytes], said: bytes) -> None:
    async with scripted(*answers) as server, trio.open_nursery() as nursery:
        command = [sys.executable, "-m", "sidecar", "publish", "e", "k", "--admin", server.url]
        pipes = partial(trio.run_process, stdin=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        process: trio.Process = await nursery.start(pipes, command)
        assert process.stdin is not None
        assert process.stderr is not None
        await process.stdin.send_all(lines)
        await server.wait_asked(lines.count(b"\n"))
        with trio.fail_after(20):
            await reading_in_a_thread(process)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 1
            assert await process.stderr.receive_some() == said


async def reading_in_a_thread(process: trio.Process) -> None:
    """Return once the command has got as far as reading its input in a worker thread."""
    while len(os.listdir(f"/proc/{process.pid}/task")) < 2:  # noqa: ASYNC110
        await trio.sleep(0.01)  # another process has no event to wait for


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--admin", "localhost:9400"], "has no http:// or https:// in front"),
        (["--admin", "http://x", "--header", "tenant"], "write NAME=VALUE"),
        (["--admin", "http://x", "--timeout", "soon"], "soon is no duration"),
    ],
)
async def test_a_bad_command_line_exits_with_2(arguments: list[str], said: str) -> None:
    result = await publish("e", "k", "x", *arguments)
    assert result.returncode == 2
    assert said in result.stderr.decode()


async def test_a_key_that_a_url_cannot_hold_is_refused() -> None:
    result = await publish("e", "..", "x", "--admin", "http://127.0.0.1:1")
    assert result.returncode == 2
    assert "cannot stand in a URL" in result.stderr.decode()


# To the broker


@pytest.fixture
def configured(tmp_path: Path) -> Callable[[str], str]:
    """Write a configuration for a broker; returns its path."""

    def write(url: str) -> str:
        file = tmp_path / "config.yaml"
        file.write_text(f'broker: {{url: "{url}"}}\nroutes: [{{path: /e, exchange: e}}]\n')
        return str(file)

    return write


@pytest.fixture
def channel(vhost_url: str) -> BlockingChannel:
    """A channel with an exchange ``e`` (topic) whose messages all come to the queue ``q``."""
    channel = pika.BlockingConnection(pika.URLParameters(vhost_url)).channel()
    channel.exchange_declare("e", "topic")
    channel.queue_declare("q")
    channel.queue_bind("q", "e", "#")
    return channel


async def test_a_message_reaches_rabbitmq_with_all_its_properties(
    channel: BlockingChannel, vhost_url: str, configured: Callable[[str], str]
) -> None:
    result = await publish(
        "e", "order.7.paid", b"\xff\n", "-c", configured(vhost_url), "--header", "tenant=ü", "--type", "order.paid",
        "--message-id", "m1", "--content-type", "text/plain",
    )  # fmt: skip
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    method, properties, body = channel.basic_get("q", auto_ack=True)
    assert (method.routing_key, body) == ("order.7.paid", b"\xff\n")
    assert (properties.type, properties.message_id, properties.content_type) == ("order.paid", "m1", "text/plain")
    assert properties.headers == {"tenant": "ü"}


async def test_lines_reach_rabbitmq_in_order(
    channel: BlockingChannel, vhost_url: str, configured: Callable[[str], str]
) -> None:
    lines = [str(number).encode() for number in range(200)]
    result = await publish("e", "k", "-c", configured(vhost_url), stdin=b"\n".join(lines))
    assert (result.returncode, result.stderr) == (0, b"")
    assert [channel.basic_get("q", auto_ack=True)[2] for _ in lines] == lines


async def test_a_missing_exchange_is_told(vhost_url: str, configured: Callable[[str], str]) -> None:
    result = await publish("nowhere", "k", "x", "-c", configured(vhost_url))
    assert (result.returncode, result.stdout) == (1, b"")
    assert "nowhere" in result.stderr.decode()
    assert len(result.stderr.splitlines()) == 1


async def test_no_broker_is_told_in_time_without_the_password(configured: Callable[[str], str]) -> None:
    config = configured(f"amqp://guest:hushhush@127.0.0.1:{free_port()}/")
    result = await publish("e", "k", "x", "-c", config, "--timeout", "500ms")
    assert (result.returncode, result.stdout) == (1, b"")
    assert "no connection to the broker within 0.5 s" in result.stderr.decode()
    assert "hushhush" not in result.stderr.decode()


async def test_a_wrong_password_is_told(rabbitmq: RabbitNode, configured: Callable[[str], str]) -> None:
    result = await publish("e", "k", "x", "-c", configured(rabbitmq.url(password="hushhush")), "--timeout", "3s")
    assert result.returncode == 1
    assert "hushhush" not in result.stderr.decode()
    assert "within 3 s: " in result.stderr.decode()


async def test_the_embedded_broker_of_another_process_cannot_be_met(configured: Callable[[str], str]) -> None:
    config = configured("memory://")
    result = await publish("e", "k", "x", "-c", config)
    assert result.returncode == 1
    assert result.stderr.decode() == (
        f"{config}: broker.url is memory://, a broker inside the running sidecar; publish through that one: "
        "--admin http://127.0.0.1:9400\n"
    )


async def test_a_bad_configuration_exits_with_2(configured: Callable[[str], str]) -> None:
    result = await publish("e", "k", "x", "-c", configured("http://nowhere"))
    assert result.returncode == 2
    assert "broker.url" in result.stderr.decode()
