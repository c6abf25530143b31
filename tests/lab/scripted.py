"""An HTTP/1.1 server that answers as a test says, byte by byte, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

LONGEST_HEAD = 65_536


@dataclass(frozen=True)
class Asked:
    """One request: its method, its target as it was written, its fields by lower-case name, its body; and when."""

    method: str
    target: str
    fields: dict[str, str]
    body: bytes
    at: float


@dataclass
class Scripted:
    """The server; `answers` are given in turn, one a connection, the last again and again."""

    answers: list[bytes | None]
    """Bytes to send before the connection is closed; None to close without a word, b"...HOLD" to keep it open."""
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    _more: trio.Event = field(default_factory=trio.Event)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    async def wait_asked(self, count: int) -> None:
        """Return once so many requests have come; TooSlowError after ten seconds."""
        with trio.fail_after(10):
            while len(self.asked) < count:
                await self._more.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        async with stream:
            if (asked := await _read_request(stream)) is None:
                return
            answer = self.answers[min(len(self.asked), len(self.answers) - 1)]
            self.asked.append(asked)
            self._more.set()
            self._more = trio.Event()
            try:
                await stream.send_all((answer or b"").removesuffix(b"HOLD"))
                if answer is not None and answer.endswith(b"HOLD"):
                    await stream.receive_some(1)
            except trio.BrokenResourceError:  # the client may leave whenever it likes
                pass


async def _read_request(stream: trio.SocketStream) -> Asked | None:
    data = b""
    while b"\r\n\r\n" not in data and len(data) < LONGEST_HEAD:
        if not (chunk := await stream.receive_some()):
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    request, *lines = head.decode().split("\r\n")
    method, target, _ = request.split(" ")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(fields.get("content-length", 0)):
        body += await stream.receive_some()
    return Asked(method, target, fields, body, trio.current_time())


@asynccontextmanager
async def scripted(*answers: bytes | None) -> AsyncIterator[Scripted]:
    """Serve on a free port of 127.0.0.1."""
    server = Scripted(list(answers))
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
        server.port = listeners[0].socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()
