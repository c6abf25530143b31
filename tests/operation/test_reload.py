"""Another configuration under a running process: what it changes, and what it must leave alone."""

from __future__ import annotations

import signal
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
import trustme

from tests.lab import wire
from tests.lab.certificates import Certificates
from tests.lab.ports import free_port
from tests.lab.process import Service, running
from tests.operation.changes import WAYS, changed, hang_up, memory, reloads, route, until_reloads

KEPT, OTHER = route("/kept/{name}"), route("/other/{name}")


async def listen(nursery: trio.Nursery, service: Service, path: str) -> wire.Response:
    """An event stream that is open."""
    return await (await wire.open_http1(nursery, service.http, path)).response.until_open()


def publish(service: Service, key: str, body: bytes = b"x") -> None:
    """One message into the embedded broker."""
    assert service.sidecar.ask(f"/publish/operation/{key}", "POST", body).status < 300


@pytest.mark.parametrize("way", WAYS)
async def test_the_file_changes_on_disk(nursery: trio.Nursery, tmp_path: Path, way: str) -> None:
    with running(tmp_path, memory(KEPT, OTHER), publish=True) as service:
        kept, other = await listen(nursery, service, "/kept/a"), await listen(nursery, service, "/other/a")
        WAYS[way](service.config, changed(service, routes=[KEPT, route("/new/{name}")]))
        assert await other.until_end() == "clean"
        new = await listen(nursery, service, "/new/a")
        publish(service, "a")
        assert (len(await kept.until_events(1)), len(await new.until_events(1))) == (1, 1)
        assert reloads(service) == (1, 0)
        assert service.sidecar.metric("sidecar_streams_closed_total", route="/other/{name}", reason="route_gone") == 1
        gone = (await wire.open_http1(nursery, service.http, "/other/a")).response
        assert (await gone.until_head()).status == 404
        if way == "symlink swap":  # and once more, now that it is one
            WAYS[way](service.config, changed(service, routes=[KEPT]))
            assert await new.until_end() == "clean"
            assert reloads(service) == (2, 0)
        assert kept.end is None
        nursery.cancel_scope.cancel()


CHANGES: dict[str, dict[str, Any]] = {
    "source": {"exchange": "another"},
    "binding key": {"binding_key": "{name}.more"},
    "event": {"event": "{routing_key}"},
    "heartbeat": {"heartbeat": "3s"},
    "who may read": {"access": {"jwt": {"keys": {"secret": "s" * 32}, "algorithms": ["HS256"]}}},
}


async def test_a_route_that_says_anything_else_is_another_one(nursery: trio.Nursery, tmp_path: Path) -> None:
    routes = {name: route(f"/{name.replace(' ', '-')}/{{name}}") for name in CHANGES}
    with running(tmp_path, memory(KEPT, *routes.values()), publish=True) as service:
        kept = await listen(nursery, service, "/kept/a")
        for name, change in CHANGES.items():
            path = f"/{name.replace(' ', '-')}/a"
            before = await listen(nursery, service, path)
            routes[name] |= change
            await hang_up(service, changed(service, routes=[*routes.values(), KEPT]))
            assert await before.until_end() == "clean", name
        refused = (await wire.open_http1(nursery, service.http, "/who-may-read/a")).response
        assert (await refused.until_head()).status == 401
        publish(service, "a")
        await kept.until_events(1)
        assert reloads(service) == (len(CHANGES), 0)
        nursery.cancel_scope.cancel()


async def test_streams_of_a_route_that_goes_end_over_the_window(nursery: trio.Nursery, tmp_path: Path) -> None:
    with running(tmp_path, memory(KEPT, OTHER, drain={"within": "2s"})) as service:
        http2 = await wire.open_http2(nursery, service.http)
        streams = [(await http2.get("/other/a")).response for _ in range(50)]
        for stream in streams:
            await stream.until_open()
        await hang_up(service, changed(service, routes=[KEPT]))
        began, ends = trio.current_time(), list[float]()
        for stream in streams:
            assert await stream.until_end() == "clean"
            ends.append(trio.current_time())
        assert 0.5 < ends[-1] - began < 3
        assert service.sidecar.metric("sidecar_streams_closed_total", reason="route_gone") == 50


BROKEN = {
    "two mistakes": "routes: [{path: nowhere}]\nunknown: key\n",
    "no YAML": "routes: [\n",
    "a certificate that is not there": "listen: [{bind: '127.0.0.1:1', tls: {certificate: no.pem, key: no.key}}]\n",
    "not UTF-8": "routes: \udcff\n",
}


async def test_a_bad_file_changes_nothing_and_is_told_whole(nursery: trio.Nursery, tmp_path: Path) -> None:
    with running(tmp_path, memory(KEPT), publish=True) as service:
        good = service.config.read_text()
        kept = await listen(nursery, service, "/kept/a")
        for number, text in enumerate(BROKEN.values(), 1):
            service.config.write_text(text, errors="surrogateescape")
            service.sidecar.signal(signal.SIGHUP)
            await until_reloads(service, 0, number)
            assert service.sidecar.ask("/readyz").status == 200
        told = [line["mistake"] for line in service.sidecar.log.lines if "mistake" in line]
        assert sum(f"{service.config}:1:" in mistake for mistake in told) >= 3
        assert any(f"{service.config}:2:1: unknown" in mistake for mistake in told)
        publish(service, "a")
        await kept.until_events(1)
        await hang_up(service, good)
        assert reloads(service) == (1, len(BROKEN))
        assert kept.end is None
        nursery.cancel_scope.cancel()


async def test_a_file_that_is_gone_or_half_written_changes_nothing(nursery: trio.Nursery, tmp_path: Path) -> None:
    with running(tmp_path, memory(KEPT), publish=True) as service:
        text = service.config.read_text()
        kept = await listen(nursery, service, "/kept/a")
        service.config.unlink()
        await until_reloads(service, 0, 1)
        with service.config.open("w") as file:  # somebody writes slowly, but goes on writing
            for part in (text[:40], text[40:80], text[80:]):
                file.write(part)
                file.flush()
                await trio.sleep(0.3)
        await until_reloads(service, 1, 1)
        publish(service, "a")
        await kept.until_events(1)
        nursery.cancel_scope.cancel()


async def test_listeners_come_and_go_and_connections_stay(nursery: trio.Nursery, tmp_path: Path) -> None:
    with running(tmp_path, memory(KEPT), publish=True) as service:
        old, new, unix = service.http, ("127.0.0.1", free_port()), tmp_path / "another.sock"
        kept = await listen(nursery, service, "/kept/a")
        binds = [f"127.0.0.1:{new[1]}", f"unix:{unix}"]
        await hang_up(service, changed(service, listen=[{"bind": bind} for bind in binds]))
        for address in (new, unix):
            await (await wire.open_http1(nursery, address, "/kept/b")).response.until_open()
        with pytest.raises(OSError, match=r".*"):
            await trio.open_tcp_stream(*old)
        assert not service.unix.exists()
        publish(service, "a")
        await kept.until_events(1)  # it came in by a door that is closed
        with socket.create_server(("127.0.0.1", free_port())) as taken:
            there = f"127.0.0.1:{taken.getsockname()[1]}"
            await hang_up(service, changed(service, listen=[{"bind": there}], routes=[]))
        assert reloads(service) == (1, 1)
        service.sidecar.log.wait(lambda line: there in str(line.get("problem")))
        assert (await (await wire.open_http1(nursery, new, "/kept/c")).response.until_open()).status == 200
        nursery.cancel_scope.cancel()


async def test_certificates_are_renewed_without_a_word(
    nursery: trio.Nursery, tmp_path: Path, certificates: Certificates
) -> None:
    files = {"certificate": tmp_path / "tls.crt", "key": tmp_path / "tls.key"}
    files["certificate"].write_bytes(certificates.certificate.read_bytes())
    files["key"].write_bytes(certificates.key.read_bytes())
    with running(tmp_path, memory(KEPT), tls={name: str(file) for name, file in files.items()}) as service:
        assert service.https is not None
        before = await wire.open_http2(nursery, service.https, tls=certificates.client("h2"))
        kept = await (await before.get("/kept/a")).response.until_open()
        authority = trustme.CA()
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(files["certificate"])
        issued.private_key_pem.write_to_path(files["key"])
        await until_reloads(service, 1, 0)
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        trusting.set_alpn_protocols(["h2"])
        after = await wire.open_http2(nursery, service.https, tls=trusting)
        await (await after.get("/kept/a")).response.until_open()
        with pytest.raises(trio.BrokenResourceError):
            await wire.open_http2(nursery, service.https, tls=certificates.client("h2"))
        assert kept.end is None
        nursery.cancel_scope.cancel()


async def test_a_secret_that_is_read_from_a_file_is_read_again(nursery: trio.Nursery, tmp_path: Path) -> None:
    file, old, new = tmp_path / "secret", "a" * 32, "b" * 32
    file.write_text(old)
    access = {"jwt": {"keys": {"secret": "${file:secret}"}, "algorithms": ["HS256"]}}

    async def status(secret: str) -> int:
        token = jwt.encode({"exp": time.time() + 60}, secret, "HS256")
        headers = [("Authorization", f"Bearer {token}"), ("Accept", "text/event-stream")]
        client = await wire.open_http1(nursery, service.http, "/secret/a", headers=headers)
        return (await client.response.until_head()).status

    with running(tmp_path, memory(KEPT, route("/secret/{name}", access=access))) as service:
        kept = await listen(nursery, service, "/kept/a")
        assert (await status(old), await status(new)) == (200, 401)
        file.write_text(new)
        await until_reloads(service, 1, 0)
        assert (await status(old), await status(new)) == (401, 200)
        assert kept.end is None
        nursery.cancel_scope.cancel()


async def test_what_needs_a_restart_is_named_and_the_rest_is_taken(nursery: trio.Nursery, tmp_path: Path) -> None:
    with running(tmp_path, memory(OTHER)) as service:
        change = {"admin": {"bind": "127.0.0.1:1"}, "broker": {"url": "amqp://somebody:secret@elsewhere/"}}
        await hang_up(service, changed(service, routes=[KEPT], **change))
        await listen(nursery, service, "/kept/a")
        assert reloads(service) == (1, 0)
        named = {line["key"] for line in service.sidecar.log.lines if "needs a restart" in str(line.get("event"))}
        assert named == {"admin", "broker"}
        assert "secret" not in service.sidecar.log.text
        nursery.cancel_scope.cancel()
