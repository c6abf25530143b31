"""A wire between a sidecar and its broker that can be cut and mended, while others reach the broker as before."""

from __future__ import annotations

from urllib.parse import urlsplit

import trio


class Relay:
    """TCP forwarding to the broker of a URL; `url` leads through it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._port = urlsplit(url).port
        self._whole = True
        self._open: set[trio.CancelScope] = set()
        self.url = ""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Forward until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        self.url = self._url.replace(f"localhost:{self._port}", f"127.0.0.1:{port}")
        task_status.started()
        await trio.serve_listeners(self._forward, listeners)

    def cut(self) -> None:
        """Break every connection, and take none."""
        self._whole = False
        for scope in self._open:
            scope.cancel()

    def mend(self) -> None:
        """Take connections again."""
        self._whole = True

    async def _forward(self, client: trio.SocketStream) -> None:
        if not self._whole:
            return
        assert self._port is not None
        async with await trio.open_tcp_stream("127.0.0.1", self._port) as server, trio.open_nursery() as nursery:
            self._open.add(nursery.cancel_scope)
            nursery.start_soon(self._pump, client, server, nursery.cancel_scope)
            nursery.start_soon(self._pump, server, client, nursery.cancel_scope)
        self._open.discard(nursery.cancel_scope)

    async def _pump(self, source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope) -> None:
        try:
            async for data in source:
                await target.send_all(data)
        except trio.BrokenResourceError:
            pass
        scope.cancel()
