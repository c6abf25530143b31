"""An application on a raw socket: every byte it is sent is seen, every byte it answers is as the test writes it.

Strategy: a `Conversation` is one connection the sidecar has opened. A test's script reads heads and bodies from it and
writes what it likes, well formed or not; `origin` serves a script on TCP or on a unix socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

PATIENCE = 5.0


class Left(Exception):  # noqa: N818  # it is an event more than an error
    """The sidecar has closed its side."""


@dataclass
class Asked:
    """One request's head as it came."""

    line: str
    fields: list[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        """The values of every field of this name, in order."""
        return [value for own, value in self.fields if own.lower() == name]

    def __getitem__(self, name: str) -> str:
        return ", ".join(self.values(name))

    def __contains__(self, name: object) -> bool:
        return any(own.lower() == name for own, _ in self.fields)


@dataclass
class Conversation:
    """One connection from the sidecar."""

    stream: trio.SocketStream
    number: int
    buffer: bytearray = field(default_factory=bytearray)
    raw: bytearray = field(default_factory=bytearray)

    async def _more(self) -> None:
        with trio.fail_after(PATIENCE):
            data = bytes(await self.stream.receive_some(65536))
        if not data:
            raise Left
        self.buffer += data
        if len(self.raw) < 65536:
            self.raw += data

    async def until(self, mark: bytes) -> bytes:
        """Read up to and with these bytes."""
        while (end := self.buffer.find(mark)) < 0:
            await self._more()
        return self.take(end + len(mark))

    def take(self, count: int) -> bytes:
        """Take what was read already."""
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    async def some(self) -> bytes:
        """Read whatever comes next."""
        if not self.buffer:
            await self._more()
        return self.take(len(self.buffer))

    async def head(self) -> Asked:
        """Read a request's head; `Left` at the connection's end."""
        line, *lines = (await self.until(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        pairs = (text.split(":", 1) for text in lines)
        return Asked(line, [(name, value.strip()) for name, value in pairs])

    async def exactly(self, count: int) -> bytes:
        """Read so many bytes."""
        while len(self.buffer) < count:
            await self._more()
        return self.take(count)

    async def chunks(self) -> tuple[bytes, bytes]:
        """Read a chunked body: its bytes, and the raw trailer section."""
        body = bytearray()
        while size := int((await self.until(b"\r\n")).split(b";")[0], 16):
            body += await self.exactly(size)
            assert await self.exactly(2) == b"\r\n"
        trailers = b""
        while (line := await self.until(b"\r\n")) != b"\r\n":
            trailers += line
        return bytes(body), trailers

    async def send(self, data: bytes) -> None:
        """Write bytes."""
        with trio.fail_after(PATIENCE):
            await self.stream.send_all(data)

    async def gone(self) -> bool:
        """Whether the sidecar closes this connection now, without another byte."""
        with trio.move_on_after(PATIENCE):
            try:
                return not self.buffer and not await self.stream.receive_some(1)
            except trio.BrokenResourceError:
                return True
        return False


Script = Callable[[Conversation], Awaitable[None]]


@dataclass
class Origin:
    """A running application."""

    script: Script
    url: str = ""
    conversations: list[Conversation] = field(default_factory=list)
    listener: trio.SocketListener | None = None

    async def stop(self) -> None:
        """Accept no more connections."""
        assert self.listener is not None
        await self.listener.aclose()

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection."""
        conversation = Conversation(stream, len(self.conversations))
        self.conversations.append(conversation)
        async with stream:
            try:
                await self.script(conversation)
            except (Left, trio.BrokenResourceError):
                pass  # scripts read on until the sidecar leaves


async def origin(nursery: trio.Nursery, script: Script, path: Path | None = None) -> Origin:
    """Serve a script, on a free port or a unix socket."""
    running = Origin(script)
    if path is not None:
        sock = trio.socket.socket(trio.socket.AF_UNIX)
        await sock.bind(str(path))
        sock.listen(16)
        listener = trio.SocketListener(sock)
        running.url = f"unix:{path}"
    else:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        running.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
    running.listener = listener
    nursery.start_soon(_accept, running, listener)
    return running


async def _accept(running: Origin, listener: trio.SocketListener) -> None:
    async with trio.open_nursery() as nursery:
        while True:
            try:
                nursery.start_soon(running.serve, await listener.accept())
            except trio.ClosedResourceError:
                return


def answering(answer: bytes) -> Script:
    """A script that gives one answer to every request without a body, on kept-alive connections."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.head()
            await conversation.send(answer)

    return script


def ok(body: bytes = b"hello\n", *fields: bytes) -> bytes:
    """A plain answer."""
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *fields]
    return b"\r\n".join([*lines, b"", body])
