"""Clients that show every byte: HTTP/1.x by hand, HTTP/2 on h2 with bodies, trailers and extended CONNECT."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import trio

PATIENCE = 5.0


class Client1:
    """A connection over which a test writes what it likes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = bytearray()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.stream.aclose()

    async def send(self, data: bytes) -> None:
        """Write bytes."""
        with trio.fail_after(PATIENCE):
            await self.stream.send_all(data)

    async def _more(self) -> bool:
        with trio.fail_after(PATIENCE):
            data = await self.stream.receive_some(65536)
        self.buffer += data
        return bool(data)

    async def until(self, mark: bytes) -> bytes:
        """Read up to and with these bytes."""
        while (end := self.buffer.find(mark)) < 0:
            assert await self._more(), f"the end came before {mark!r}: {bytes(self.buffer)!r}"
        return self._take(end + len(mark))

    async def exactly(self, count: int) -> bytes:
        """Read so many bytes."""
        while len(self.buffer) < count:
            assert await self._more(), f"the end came before {count} bytes: {bytes(self.buffer)!r}"
        return self._take(count)

    def _take(self, count: int) -> bytes:
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    async def rest(self) -> bytes:
        """Read to the connection's end."""
        while await self._more():
            pass
        return self._take(len(self.buffer))

    async def head(self) -> tuple[int, dict[str, str]]:
        """Read an answer's head: its status, and its fields by lower-case name (repeated ones joined)."""
        line, *lines = (await self.until(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
        fields: dict[str, str] = {}
        for text in lines:
            name, _, value = text.partition(":")
            known = fields.get(name.lower())
            fields[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"
        return int(line.split(" ")[1]), fields

    async def answer(self, *, bodiless: bool = False) -> tuple[int, dict[str, str], bytes]:
        """Read a whole answer of a known length, chunked ones decoded."""
        status, fields = await self.head()
        if bodiless or status in (204, 304):
            return status, fields, b""
        if fields.get("transfer-encoding") == "chunked":
            return status, fields, (await self.chunks())[0]
        return status, fields, await self.exactly(int(fields["content-length"]))

    async def chunks(self) -> tuple[bytes, bytes]:
        """Read a chunked body: its bytes, and the raw trailer section."""
        body = bytearray()
        while size := int(await self.until(b"\r\n"), 16):
            body += (await self.exactly(size + 2))[:-2]
        trailers = b""
        while (line := await self.until(b"\r\n")) != b"\r\n":
            trailers += line
        return bytes(body), trailers


class Stream2:
    """What has come on one HTTP/2 stream."""

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.informed: list[dict[str, str]] = []
        self.status = 0
        self.fields: dict[str, str] = {}
        self.body = bytearray()
        self.received = 0
        self.trailers: dict[str, str] = {}
        self.ended = False
        self.reset: int | None = None


class Client2:
    """One HTTP/2 connection by prior knowledge."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        config = h2.config.H2Configuration(
            header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config)
        self.streams: dict[int, Stream2] = {}
        self.keep = True
        self.reading = True
        self.end: str | None = None
        self._changed = trio.Event()
        self._settled = trio.Event()
        self._sending = trio.Lock()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read until the connection ends; started when the peer's settings have come."""
        self.h2.initiate_connection()
        await self.flush()
        try:
            while data := await self.stream.receive_some(65536):
                for event in self.h2.receive_data(bytes(data)):
                    self._handle(event)
                await self.flush()
                if self._settled.is_set():
                    task_status.started()
                    task_status = trio.TASK_STATUS_IGNORED
                self._wake()
            self.end = "closed"
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            self.end = repr(error)
        self._wake()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._settled.set()
        stream: Any = self.streams.get(getattr(event, "stream_id", None) or 0)
        if stream is None:
            return
        if isinstance(event, h2.events.InformationalResponseReceived):
            stream.informed.append(_fields(event.headers))
        elif isinstance(event, h2.events.ResponseReceived):
            stream.fields = _fields(event.headers)
            stream.status = int(stream.fields.pop(":status"))
        elif isinstance(event, h2.events.DataReceived):
            stream.received += len(event.data or b"")
            if self.keep:
                stream.body += event.data or b""
            if self.reading:
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, stream.id)
        elif isinstance(event, h2.events.TrailersReceived):
            stream.trailers = _fields(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            stream.reset = int(event.error_code or 0)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def flush(self) -> None:
        """Write what h2 wants written."""
        async with self._sending:
            if data := self.h2.data_to_send():
                await self.stream.send_all(data)

    async def request(
        self,
        method: str,
        path: str,
        *fields: tuple[str, str],
        last: bool = True,
        pseudo: Iterable[tuple[str, str]] = (),
    ) -> Stream2:
        """Open a stream with a request's head."""
        stream = Stream2(self.h2.get_next_available_stream_id())
        self.streams[stream.id] = stream
        base = {":method": method, ":scheme": "http", ":authority": "shop.example", ":path": path, **dict(pseudo)}
        self.h2.send_headers(stream.id, [*base.items(), *fields], end_stream=last)
        await self.flush()
        return stream

    async def data(self, stream: Stream2, data: bytes, *, last: bool = False) -> None:
        """Send DATA, as the windows open."""
        rest = memoryview(data)
        while rest:
            room = min(self.h2.local_flow_control_window(stream.id), self.h2.max_outbound_frame_size)
            if room <= 0:
                await self.until(lambda: self.h2.local_flow_control_window(stream.id) > 0)
                continue
            self.h2.send_data(stream.id, bytes(rest[:room]))
            rest = rest[room:]
            await self.flush()
        if last:
            self.h2.end_stream(stream.id)
            await self.flush()

    async def until(self, condition: Any) -> None:
        """Wait until something holds; AssertionError when it does not in time."""
        with trio.move_on_after(PATIENCE):
            while not condition() and self.end is None:
                await self._changed.wait()
        assert condition(), {number: vars(stream) for number, stream in self.streams.items()} | {"end": self.end}

    async def ended(self, stream: Stream2) -> Stream2:
        """Wait for the stream's end, good or bad."""
        await self.until(lambda: stream.ended or stream.reset is not None)
        return stream


def _fields(fields: Any) -> dict[str, str]:
    return {_text(name): _text(value) for name, value in fields}


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


async def client2(nursery: trio.Nursery, address: tuple[str, int]) -> Client2:
    """An HTTP/2 connection, once the peer's settings have come."""
    client = Client2(await trio.open_tcp_stream(*address))
    with trio.fail_after(PATIENCE):
        await nursery.start(client.run)
    return client
