"""What only a real RabbitMQ can show: outages, refusals at the door, TLS, permissions, alarms, silence."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from pydantic import SecretStr

from sidecar.broker import link, rabbitmq
from sidecar.broker.exchanges import check_type
from sidecar.broker.port import Binding, BrokerAway, BrokerRefused, Declaration, Exchange
from sidecar.broker.rabbitmq import RabbitMQ, pause, tls_context
from sidecar.config.model import BrokerTls, Reconnect
from tests.broker.sinks import PATIENCE, Recorder
from tests.lab.certificates import Certificates
from tests.lab.ports import free_port
from tests.lab.publisher import Publisher, publishing
from tests.lab.rabbitmq import RabbitNode

TOPIC = Exchange("orders", Declaration("topic"))
QUICK = Reconnect(min=0.05, max=0.2)


class Watched(RabbitMQ):
    """Lets a test wait for the next problem that is told."""

    def __init__(self, *urls: str, **more: Any) -> None:
        super().__init__([SecretStr(url) for url in urls], reconnect=QUICK, **more)
        self.said: list[str] = []
        self._changed = trio.Event()

    def _say(self, problem: str) -> None:
        super()._say(problem)
        self.said.append(problem)
        self._changed.set()
        self._changed = trio.Event()

    async def until_said(self, pattern: str) -> str:
        with trio.fail_after(PATIENCE):
            while not any(re.search(pattern, each) for each in self.said):
                await self._changed.wait()
        return next(each for each in self.said if re.search(pattern, each))


@asynccontextmanager
async def running(*urls: str, **more: Any) -> AsyncIterator[Watched]:
    broker = Watched(*urls, **more)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        yield broker
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(*urls: str, **more: Any) -> AsyncIterator[Watched]:
    async with running(*urls, **more) as broker:
        with trio.fail_after(PATIENCE):
            await broker.wait_connected()
        yield broker


@pytest.fixture
def publisher(vhost_url: str) -> Iterator[Publisher]:
    with publishing(vhost_url) as opened:
        yield opened


# Outages


async def test_killed_and_started_again(mortal_rabbitmq: RabbitNode) -> None:
    url = mortal_rabbitmq.url(mortal_rabbitmq.vhost())
    with publishing(url) as publisher:
        publisher.exchange("passing", "topic", durable=False)
    async with connected(url) as broker:
        sink, gone = Recorder(), Recorder()
        tap = await broker.tap(TOPIC, sink)
        for number in range(50):
            await tap.bind(Binding(f"k.{number}"))
        await broker.tap(Exchange("passing"), gone)
        await trio.to_thread.run_sync(mortal_rabbitmq.kill)
        await sink.until_event("lost")
        assert not broker.connected
        assert broker.problem
        assert broker.problem.startswith(f"localhost:{mortal_rabbitmq.port}: ")
        with pytest.raises(BrokerAway):
            await tap.bind(Binding("never kept"))
        await tap.unbind(Binding("k.0"))
        with pytest.raises(BrokerAway):
            await broker.publish("orders", "k.1", b"")
        await trio.to_thread.run_sync(mortal_rabbitmq.start)
        with trio.fail_after(PATIENCE):
            await broker.wait_connected()
        assert broker.problem is None
        for key in ("never kept", "k.0", "k.1", "k.49"):
            await broker.publish("orders", key, b"")
        assert await sink.until_key("k.49") == ["k.1"]
        assert sink.events == ["lost", "restored"]
        await gone.until_event("lost", "refused")
        assert "no exchange 'passing'" in str(gone.refusal)


async def test_closed_by_an_operator(rabbitmq: RabbitNode, vhost_url: str, publisher: Publisher) -> None:
    async with connected(vhost_url) as broker:
        sink = Recorder()
        tap = await broker.tap(TOPIC, sink)
        await tap.bind(Binding("#"))
        command = ("close_all_connections", "--vhost", vhost_url.rpartition("/")[2], "by an operator")
        await trio.to_thread.run_sync(rabbitmq.control, *command)
        said = await broker.until_said("operator")
        assert "CONNECTION_FORCED - by an operator" in said
        await sink.until_event("lost", "restored")
        await broker.publish("orders", "k", b"")
        await sink.until_key("k")


async def test_a_silent_peer_is_given_up(rabbitmq: RabbitNode, vhost_url: str, nursery: trio.Nursery) -> None:
    relay = Relay(rabbitmq.port)
    port = await nursery.start(relay.run)
    async with connected(vhost_url.replace(str(rabbitmq.port), str(port)), heartbeat=1.0) as broker:
        sink = Recorder()
        tap = await broker.tap(TOPIC, sink)
        await tap.bind(Binding("#"))
        relay.freeze()
        await broker.until_said("nothing was heard of the broker for 2 s")
        await sink.until_event("lost")
        relay.thaw()
        await sink.until_event("lost", "restored")
        await broker.publish("orders", "k", b"")
        await sink.until_key("k")


class Relay:
    """TCP forwarding to a local port, which can fall silent without closing anything."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open = trio.Event()
        self._open.set()

    def freeze(self) -> None:
        self._open = trio.Event()

    def thaw(self) -> None:
        self._open.set()

    async def run(self, task_status: trio.TaskStatus[int]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        task_status.started(listener.socket.getsockname()[1])
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, client: trio.SocketStream) -> None:
        async with (
            await trio.open_tcp_stream("127.0.0.1", self._port) as server,
            client,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._forward, client, server, nursery.cancel_scope)
            nursery.start_soon(self._forward, server, client, nursery.cancel_scope)

    async def _forward(self, source: trio.SocketStream, target: trio.SocketStream, ended: trio.CancelScope) -> None:
        try:
            async for data in source:
                await self._open.wait()
                await target.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        ended.cancel()


async def test_steady_traffic_is_no_silence(vhost_url: str) -> None:
    """Aiormq gives up after 3 × (heartbeat + 1) s without a frame; deliveries never reach it as frames."""
    async with connected(vhost_url, heartbeat=1.0) as broker, connected(vhost_url) as other:
        sink = Recorder()
        tap = await broker.tap(TOPIC, sink)
        await tap.bind(Binding("#"))
        end = trio.current_time() + 7.5
        count = 0
        while trio.current_time() < end:
            await other.publish("orders", "k", b"")
            count += 1
            await trio.sleep(0.05)
        await sink.until(lambda: len(sink.deliveries) == count)
        assert sink.events == []
        assert broker.connected


# Not let in: each with its clear line, and the tries go on


async def test_wrong_password(rabbitmq: RabbitNode) -> None:
    async with running(rabbitmq.url(user="guest", password="hunter2")) as broker:
        said = await broker.until_said("rejected")
        assert said == f"localhost:{rabbitmq.port}: the credentials of user 'guest' were rejected"
        assert broker.problem == said
        assert not broker.connected


async def test_missing_vhost(rabbitmq: RabbitNode) -> None:
    async with running(rabbitmq.url("nowhere")) as broker:
        assert await broker.until_said("vhost") == f"localhost:{rabbitmq.port}: vhost nowhere not found"


async def test_a_vhost_of_others(rabbitmq: RabbitNode) -> None:
    url = await trio.to_thread.run_sync(rabbitmq.user, "stranger", rabbitmq.vhost())
    other = re.sub("/test-.*", f"/{rabbitmq.vhost()}", url)
    async with running(other) as broker:
        assert "refused for user 'stranger'" in await broker.until_said("vhost")


async def test_nobody_listens() -> None:
    port = free_port()
    async with running(f"amqp://guest:hunter2@localhost:{port}/") as broker:
        assert await broker.until_said("refused") == f"localhost:{port}: connection refused"


async def test_no_such_host() -> None:
    async with running("amqp://guest:hunter2@nowhere.invalid/") as broker:
        said = await broker.until_said("nowhere")
        assert said.startswith("nowhere.invalid:5672: ")
        assert "hunter2" not in said


@pytest.mark.parametrize(
    ("answer", "pattern"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "not AMQP|broke|Unexpected|closed"),
        (b"AMQP\x00\x01\x00\x00", "not AMQP|broke|Unexpected|closed"),
        (b"", "no answer in time"),
    ],
)
async def test_something_else_listens(
    answer: bytes, pattern: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "CONNECT_WITHIN", 0.5)

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await trio.sleep_forever()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, [listener])
    port = listener.socket.getsockname()[1]
    async with running(f"amqp://guest:hunter2@127.0.0.1:{port}/") as broker:
        said = await broker.until_said(pattern)
        assert said.startswith(f"127.0.0.1:{port}: ")
        await broker.until_said(pattern)


async def test_the_next_url_is_tried(vhost_url: str) -> None:
    dead = f"amqp://guest:guest@localhost:{free_port()}/"
    async with connected(dead, vhost_url) as broker:
        assert len(broker.said) == 1
        sink = Recorder()
        tap = await broker.tap(Exchange("amq.topic"), sink)
        await tap.bind(Binding("#"))
        await broker.publish("amq.topic", "k", b"")
        await sink.until_key("k")


# TLS


async def test_amqps_with_verification(rabbitmq: RabbitNode, certificates: Certificates) -> None:
    tls = BrokerTls(
        ca=str(certificates.authority), certificate=str(certificates.certificate), key=str(certificates.key)
    )
    async with connected(rabbitmq.url(rabbitmq.vhost(), tls=True), tls=tls) as broker:
        sink = Recorder()
        tap = await broker.tap(TOPIC, sink)
        await tap.bind(Binding("#"))
        await broker.publish("orders", "k", bytes(1_000_000))
        await sink.until(lambda: sink.deliveries)
        assert sink.bodies == [bytes(1_000_000)]


async def test_a_certificate_of_nobody_we_trust(rabbitmq: RabbitNode) -> None:
    async with running(rabbitmq.url(tls=True)) as broker:
        said = await broker.until_said("TLS")
        assert said.startswith(f"localhost:{rabbitmq.tls_port}: TLS: self-signed certificate in certificate chain")


async def test_a_certificate_for_another_name(rabbitmq: RabbitNode, certificates: Certificates) -> None:
    url = rabbitmq.url(tls=True).replace("localhost", "127.0.0.2")
    async with running(url, tls=BrokerTls(ca=str(certificates.authority))) as broker:
        assert await broker.until_said("refused|TLS")


async def test_tls_to_a_plain_port(rabbitmq: RabbitNode) -> None:
    async with running(f"amqps://guest:guest@localhost:{rabbitmq.port}/") as broker:
        assert "TLS: " in await broker.until_said("TLS")


async def test_a_missing_authority_file(rabbitmq: RabbitNode, tmp_path: Path) -> None:
    authority = tmp_path / "authority.pem"
    authority.touch()
    tls = BrokerTls(ca=str(authority))
    authority.unlink()
    async with running(rabbitmq.url(tls=True), tls=tls) as broker:
        assert "no such file" in await broker.until_said("file")


def test_the_context_verifies() -> None:
    context = tls_context(None)
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


# Taps that fall while the connection stands


async def test_a_deleted_queue_is_opened_again(rabbitmq: RabbitNode, vhost_url: str) -> None:
    async with connected(vhost_url) as broker:
        sink, other = Recorder(), Recorder()
        tap = await broker.tap(TOPIC, sink)
        await tap.bind(Binding("a"))
        await (await broker.tap(TOPIC, other)).bind(Binding("a"))
        await trio.to_thread.run_sync(rabbitmq.control, "eval", delete_queue(vhost_url, tap._queue))
        await sink.until_event("lost", "restored")
        await broker.publish("orders", "a", b"")
        await sink.until_key("a")
        await other.until_key("a")
        assert other.events == []
        assert broker.connected


def delete_queue(url: str, queue: str) -> str:
    vhost = url.rpartition("/")[2]
    return (
        f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)), '
        'rabbit_amqqueue:delete(Q, false, false, <<"tests">>).'
    )


async def test_a_deleted_exchange_is_noticed_at_the_next_binding(vhost_url: str, publisher: Publisher) -> None:
    publisher.exchange("orders", "topic")
    async with connected(vhost_url) as broker:
        sink = Recorder()
        tap = await broker.tap(Exchange("orders"), sink)
        await tap.bind(Binding("a"))
        publisher.delete_exchange("orders")
        with pytest.raises(BrokerRefused, match="no exchange 'orders'"):
            await tap.bind(Binding("b"))
        await sink.until_event("lost", "refused")
        assert "no exchange 'orders'" in str(sink.refusal)
        with pytest.raises(BrokerRefused, match="closed"):
            await tap.bind(Binding("c"))


async def test_an_exchange_of_another_type_is_another_exchange(
    rabbitmq: RabbitNode, vhost_url: str, publisher: Publisher
) -> None:
    publisher.exchange("orders", "topic")
    async with connected(vhost_url) as broker:
        sink = Recorder()
        tap = await broker.tap(Exchange("orders"), sink)
        publisher.delete_exchange("orders")
        publisher.exchange("orders", "fanout")
        await trio.to_thread.run_sync(rabbitmq.control, "eval", delete_queue(vhost_url, tap._queue))
        await sink.until_event("lost", "refused")
        assert str(sink.refusal) == "exchange 'orders' was of type 'topic' and is now of type 'fanout'"


# Permissions


async def test_without_configure_an_exchange_is_taken_for_topic(rabbitmq: RabbitNode) -> None:
    vhost = rabbitmq.vhost()
    with publishing(rabbitmq.url(vhost)) as owner:
        owner.exchange("orders", "topic")
    url = await trio.to_thread.run_sync(lambda: rabbitmq.user("reader", vhost, configure="^amq\\\\.gen.*"))
    with structlog.testing.capture_logs() as lines:
        async with connected(url) as broker:
            sink = Recorder()
            tap = await broker.tap(Exchange("orders"), sink)
            await tap.bind(Binding("a.*"))
            await broker.publish("orders", "a.b", b"")
            await sink.until_key("a.b")
    assert tap.exchange_type == "topic"
    assert [line["exchange"] for line in lines if line["log_level"] == "warning" and "exchange" in line] == ["orders"]


async def test_a_forbidden_binding_disturbs_nobody(rabbitmq: RabbitNode) -> None:
    vhost = rabbitmq.vhost()
    url = await trio.to_thread.run_sync(rabbitmq.user, "picky", vhost)
    rule = ("set_topic_permissions", "-p", vhost, "picky", "amq.topic", ".*", "^a")
    await trio.to_thread.run_sync(rabbitmq.control, *rule)
    async with connected(url) as broker:
        sink = Recorder()
        tap = await broker.tap(Exchange("amq.topic"), sink)
        await tap.bind(Binding("a"))
        with pytest.raises(BrokerRefused, match="refused"):
            await tap.bind(Binding("b"))
        with pytest.raises(BrokerRefused, match="refused"):
            await tap.bind(Binding("c"))
        refused: list[str] = []

        async def try_to_bind(key: str) -> None:
            try:
                await tap.bind(Binding(key))
            except BrokerRefused:
                refused.append(key)

        keys = [f"a{number}" for number in range(20)]
        async with trio.open_nursery() as nursery:
            for key in ("d", *keys[:10], "e", *keys[10:], "f"):
                nursery.start_soon(try_to_bind, key)
        assert sorted(refused) == ["d", "e", "f"]
        for key in ("a", *keys):
            await broker.publish("amq.topic", key, b"")
        assert await sink.until_key(keys[-1]) == ["a", *keys[:-1]]
        assert sink.events == []


async def test_without_write_nothing_is_published(rabbitmq: RabbitNode) -> None:
    vhost = rabbitmq.vhost()
    url = await trio.to_thread.run_sync(lambda: rabbitmq.user("mute", vhost, write="^amq\\\\.gen.*"))
    async with connected(url) as broker:
        with pytest.raises(BrokerRefused, match=r"access to exchange 'amq\.topic'"):
            await broker.publish("amq.topic", "k", b"")
        assert broker.connected


def test_types_nobody_here_could_repeat() -> None:
    with pytest.raises(BrokerRefused, match="of type 'x-consistent-hash'; served are direct, topic, fanout, headers"):
        check_type("shards", "x-consistent-hash")


# Alarms


async def test_an_alarm_blocks_who_publishes_and_nobody_else(rabbitmq: RabbitNode, vhost_url: str) -> None:
    async with connected(vhost_url) as broker:
        sink = Recorder()
        tap = await broker.tap(TOPIC, sink)
        await broker.publish("orders", "before", b"")
        await trio.to_thread.run_sync(rabbitmq.control, "set_vm_memory_high_watermark", "absolute", "1")
        try:
            with trio.move_on_after(0.5) as scope:
                while True:  # the one that RabbitMQ notices it by is confirmed yet
                    await broker.publish("orders", "k", b"")
            assert scope.cancelled_caught
            with trio.fail_after(PATIENCE):
                await tap.bind(Binding("after"))
        finally:
            restore = ("set_vm_memory_high_watermark", "absolute", "1GB")
            await trio.to_thread.run_sync(rabbitmq.control, *restore)
        with trio.fail_after(PATIENCE):
            await broker.publish("orders", "after", b"")
        await sink.until_key("after")


# Waiting between tries


def test_pauses_are_spread_below_a_bound_that_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []
    monkeypatch.setattr(rabbitmq.random, "uniform", lambda low, high: bounds.append(high) or low)
    reconnect = Reconnect(min=0.5, max=5.0)
    assert [pause(failures, reconnect) for failures in (0, 1, 2, 3, 4, 1000)] == [0] * 6
    assert bounds == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
