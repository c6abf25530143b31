"""WebSockets and other upgrades: bytes both ways through the sidecar."""

from __future__ import annotations

import pytest
import trio
from wsproto import ConnectionType, WSConnection
from wsproto import events as ws
from wsproto.frame_protocol import CloseReason

from tests.proxy.client import Client1, client2
from tests.proxy.conftest import Beginning
from tests.proxy.origin import Conversation, Left, answering, ok
from tests.proxy.websocket import echo_websocket

UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"


class Socket:
    """A WebSocket client over a connection to the sidecar."""

    def __init__(self, client: Client1) -> None:
        self.client = client
        self.ws = WSConnection(ConnectionType.CLIENT)

    async def say(self, event: ws.Event) -> None:
        await self.client.send(self.ws.send(event))

    async def hear(self) -> ws.Event:
        while True:
            for event in self.ws.events():
                return event
            with trio.fail_after(5):
                self.ws.receive_data(await self.client.stream.receive_some(65536) or None)

    async def message(self) -> str | bytes:
        whole: str | bytes | None = None
        while True:
            event = await self.hear()
            assert isinstance(event, ws.Message), event
            whole = event.data if whole is None else whole + event.data
            if event.message_finished:
                return whole


async def test_a_websocket(beside: Beginning) -> None:
    sidecar = await beside(echo_websocket)
    async with await sidecar.client() as client:
        socket = Socket(client)
        await socket.say(ws.Request(host="shop.example", target="/chat", subprotocols=["chat"]))
        accepted = await socket.hear()
        assert isinstance(accepted, ws.AcceptConnection), accepted
        assert accepted.subprotocol == "chat"
        for text in ("hello", "ä" * 100_000, ""):
            await socket.say(ws.TextMessage(text))
            assert await socket.message() == text
        await socket.say(ws.BytesMessage(b"\x00\xff" * 300_000))
        assert await socket.message() == b"\x00\xff" * 300_000
        await socket.say(ws.Ping(b"are you there"))
        assert isinstance(await socket.hear(), ws.Pong)
        await socket.say(ws.CloseConnection(CloseReason.NORMAL_CLOSURE))
        assert isinstance(await socket.hear(), ws.CloseConnection)
        assert await client.rest() == b""
    assert sidecar.codes == {101: 1}


async def test_any_protocol_with_early_words(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        asked = await conversation.head()
        assert (asked["connection"], asked["upgrade"]) == ("upgrade", "echo")
        await conversation.send(SWITCHED + b"welcome")
        while True:
            await conversation.send((await conversation.some()).upper())

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(UPGRADE + b"early")
        status, fields = await client.head()
        assert (status, fields) == (101, {"connection": "Upgrade", "upgrade": "echo"})
        assert await client.exactly(12) == b"welcomeEARLY"
        await client.send(b"late")
        assert await client.exactly(4) == b"LATE"


async def test_a_refused_upgrade_leaves_the_connection_as_it_was(beside: Beginning) -> None:
    sidecar = await beside(answering(ok(b"no\n")))
    async with await sidecar.client() as client:
        for _ in range(2):
            await client.send(UPGRADE)
            status, fields, body = await client.answer()
            assert (status, body) == (200, b"no\n")
            assert "connection" not in fields
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer())[0] == 200
        await client.send(UPGRADE + b"cannot be put back")
        assert (await client.answer())[1]["connection"] == "close"
        assert await client.rest() == b""


async def test_no_application_to_switch(beside: Beginning) -> None:
    sidecar = await beside(answering(ok()), away=True)
    async with await sidecar.client() as client:
        await client.send(UPGRADE)
        assert (await client.answer())[0] == 502


async def test_the_client_ends_its_side_first(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(SWITCHED)
        heard = b""
        try:
            while True:
                heard += await conversation.some()
        except Left:
            await conversation.send(b"you said " + heard)

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(UPGRADE)
        await client.head()
        await client.send(b"x" * 1_000_000 + b"bye")
        await client.stream.send_eof()
        assert (await client.rest()).endswith(b"bye")


async def test_the_application_ends_it(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(SWITCHED + b"x" * 1_000_000 + b"bye")

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(UPGRADE)
        await client.head()
        rest = await client.rest()
        assert (len(rest), rest[-3:]) == (1_000_003, b"bye")


async def test_a_silent_tunnel_is_closed(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(SWITCHED)
        assert await conversation.gone()

    sidecar = await beside(script, idle=0.1)
    async with await sidecar.client() as client:
        await client.send(UPGRADE)
        await client.head()
        assert await client.rest() == b""


@pytest.mark.parametrize("reader", ["client", "application"])
async def test_a_tunnel_holds_back_who_writes_too_much(beside: Beginning, reader: str) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(SWITCHED)
        if reader == "client":
            written.append(await pour(conversation.stream))
        done.set()
        await trio.sleep_forever()

    async def pour(stream: trio.abc.SendStream) -> int:
        sent = 0
        while True:
            with trio.move_on_after(0.3) as scope:
                await stream.send_all(b"x" * 262_144)
                sent += 262_144
            if scope.cancelled_caught:
                return sent

    written: list[int] = []
    done = trio.Event()
    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(UPGRADE)
        await client.head()
        if reader == "application":
            written.append(await pour(client.stream))
        with trio.fail_after(10):
            await done.wait()
    assert written[0] < 40_000_000, "what kernels hold, and a little of ours"


CONNECT = {":method": "CONNECT", ":protocol": "websocket"}.items()


async def test_a_websocket_over_http2(beside: Beginning, nursery: trio.Nursery) -> None:
    """RFC 8441: extended CONNECT, which an HTTP/1.1 application gets as an upgrade."""
    sidecar = await beside(echo_websocket)
    client = await client2(nursery, sidecar.address)
    assert client.h2.remote_settings.enable_connect_protocol == 1
    fields = [("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")]
    stream = await client.request("CONNECT", "/chat", *fields, last=False, pseudo=CONNECT)
    await client.until(lambda: stream.status)
    assert (stream.status, stream.fields["sec-websocket-protocol"]) == (200, "chat")
    assert "sec-websocket-accept" not in stream.fields
    await client.data(stream, b"\x81\x85\x00\x00\x00\x00hello")
    await client.until(lambda: bytes(stream.body) == b"\x81\x05hello")
    await client.data(stream, b"\x88\x82\x00\x00\x00\x00\x03\xe8", last=True)
    await client.ended(stream)
    assert stream.body.endswith(b"\x88\x02\x03\xe8")
    raw = bytes(sidecar.application.conversations[0].raw)
    assert raw.startswith(b"GET /chat HTTP/1.1\r\nhost: shop.example\r\n")


async def test_a_websocket_over_http2_that_is_refused(beside: Beginning, nursery: trio.Nursery) -> None:
    sidecar = await beside(answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n"))
    client = await client2(nursery, sidecar.address)
    stream = await client.ended(await client.request("CONNECT", "/chat", last=False, pseudo=CONNECT))
    assert (stream.status, bytes(stream.body)) == (403, b"no\n")


async def test_an_application_that_does_not_prove_it(beside: Beginning, nursery: trio.Nursery) -> None:
    """RFC 6455 §4.1: the accept field proves that the server has understood this handshake."""
    sidecar = await beside(answering(SWITCHED.replace(b"echo", b"websocket")))
    client = await client2(nursery, sidecar.address)
    stream = await client.ended(await client.request("CONNECT", "/chat", last=False, pseudo=CONNECT))
    assert stream.status == 502


@pytest.mark.parametrize("protocol", ["connect-udp", ""])
async def test_other_tunnels_over_http2_are_not_served(beside: Beginning, nursery: trio.Nursery, protocol: str) -> None:
    sidecar = await beside(answering(ok()))
    client = await client2(nursery, sidecar.address)
    pseudo = {":method": "CONNECT", **({":protocol": protocol} if protocol else {})}
    stream = await client.request("CONNECT", "/x", last=False, pseudo=pseudo.items())
    await client.until(lambda: stream.status or stream.reset is not None or client.end)
    assert stream.status in (0, 501)
    assert not sidecar.application.conversations
