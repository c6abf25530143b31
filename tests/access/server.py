"""A real HTTP/1.1 server on the loopback, for issuers and applications that behave as a test says.

One function answers every request; it may wait, and it may lose its temper (return None: the connection is cut).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import h11
import trio

Pairs = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Asked:
    """A request as it arrived."""

    method: str
    target: str
    headers: Pairs

    def header(self, name: str) -> list[str]:
        """The values of a header's lines."""
        return [value.decode("latin-1") for key, value in self.headers if key == name.encode()]


@dataclass(frozen=True)
class Reply:
    """What is answered; with `close_after` the connection is closed once it is said, without a word about it."""

    status: int = 200
    body: bytes = b""
    headers: Pairs = field(default_factory=list)
    close_after: bool = False


Answer = Callable[[Asked], Awaitable[Reply | None]]


class Server:
    """Serves until its nursery ends; `asked` has every request so far."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.connections = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def listen(self, nursery: trio.Nursery, port: int = 0) -> trio.CancelScope:
        """Listen on a free port (or this one) of 127.0.0.1; the scope's cancellation is the server's end."""
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        return await nursery.start(self._run, listeners)

    async def listen_unix(self, nursery: trio.Nursery, path: Path) -> trio.CancelScope:
        """Listen on a unix socket."""
        socket = trio.socket.socket(trio.socket.AF_UNIX)
        await socket.bind(str(path))
        socket.listen()
        return await nursery.start(self._run, [trio.SocketListener(socket)])

    async def _run(self, listeners: list[trio.SocketListener], task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            await trio.serve_listeners(self._connection, listeners, task_status=_Started(task_status, scope))

    async def _connection(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        connection = h11.Connection(h11.SERVER)
        async with stream:
            try:
                while await self._exchange(stream, connection):
                    connection.start_next_cycle()
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                pass

    async def _exchange(self, stream: trio.SocketStream, connection: h11.Connection) -> bool:
        next_event = partial(_next_event, stream, connection)
        request = await next_event()
        if not isinstance(request, h11.Request):
            return False
        while not isinstance(await next_event(), h11.EndOfMessage):
            pass
        self.asked.append(Asked(request.method.decode(), request.target.decode("latin-1"), list(request.headers)))
        reply = await self.answer(self.asked[-1])
        if reply is None:
            return False
        length = [(b"content-length", str(len(reply.body)).encode())]
        for event in (
            h11.Response(status_code=reply.status, headers=reply.headers + length),
            h11.Data(data=reply.body),
            h11.EndOfMessage(),
        ):
            await stream.send_all(connection.send(event) or b"")
        return not reply.close_after and connection.our_state is h11.DONE


class _Started:
    """Reports a server as started with its cancel scope instead of its listeners."""

    def __init__(self, status: trio.TaskStatus[trio.CancelScope], scope: trio.CancelScope) -> None:
        self._status = status
        self._scope = scope

    def started(self, _listeners: object = None) -> None:
        self._status.started(self._scope)


async def _next_event(stream: trio.SocketStream, connection: h11.Connection) -> h11.Event | type[h11.PAUSED]:
    while (event := connection.next_event()) is h11.NEED_DATA:
        connection.receive_data(await stream.receive_some())
    return event
