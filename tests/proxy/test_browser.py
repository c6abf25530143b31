"""A page of the application and its WebSocket, in a real browser, through the sidecar."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from selenium import webdriver

from tests.lab.certificates import Certificates
from tests.proxy.conftest import Beginning
from tests.proxy.origin import Conversation, ok
from tests.proxy.websocket import echo_websocket

ECHO = """
const done = arguments[arguments.length - 1];
const socket = new WebSocket(location.origin.replace("http", "ws") + "/chat", "chat");
const heard = [];
socket.onopen = () => { socket.send("hello"); socket.send("x".repeat(200000)); };
socket.onmessage = event => {
    heard.push(event.data.length);
    if (heard.length === 2) socket.close(1000);
};
socket.onclose = event => done([socket.protocol, heard, event.code, event.wasClean]);
socket.onerror = () => done("error");
"""
PROTOCOL = 'return performance.getEntriesByType("navigation")[0].nextHopProtocol'


async def application(conversation: Conversation) -> None:
    """A page at every path, and a WebSocket."""
    while True:
        head = await conversation.until(b"\r\n\r\n")
        if b"\r\nupgrade: websocket\r\n" in head:
            await echo_websocket(conversation, head)
            return
        await conversation.send(ok(b"<!doctype html><title>shop</title>", b"Content-Type: text/html"))


@pytest.mark.parametrize(("secure", "protocol"), [(False, "http/1.1"), (True, "h2")])
async def test_a_page_and_its_websocket(
    beside: Beginning, chromium: webdriver.Chrome, certificates: Certificates, secure: bool, protocol: str
) -> None:
    """Over TLS both share one connection: HTTP/2, and extended CONNECT (RFC 8441)."""
    sidecar = await beside(application, tls=certificates if secure else None)
    scheme = "https" if secure else "http"

    def browse() -> tuple[str, str, Any]:
        chromium.get(f"{scheme}://{sidecar.address[0]}:{sidecar.address[1]}/")
        return chromium.title, chromium.execute_script(PROTOCOL), chromium.execute_async_script(ECHO)

    title, spoken, echoed = await trio.to_thread.run_sync(browse)
    assert (title, spoken) == ("shop", protocol)
    assert echoed == ["chat", [5, 200_000], 1000, True]
