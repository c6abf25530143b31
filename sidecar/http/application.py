"""What answers where no route takes a path and no application stands behind."""

from __future__ import annotations

from sidecar.http.answer import Answer, Receive, Scope, Send


async def nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI application that knows no path."""
    if scope["type"] == "http":
        await Answer(404, b"no route takes this path\n").send(send, head=scope["method"] == "HEAD")
    elif scope["type"] == "websocket":
        await send({"type": "websocket.close"})
