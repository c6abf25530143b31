"""The one ordered writer of a TCP connection.

Strategy: whoever writes — hypercorn's protocol from the connection's task, the hub from the task that reads the
broker — calls `Wire.write`, which never waits: the kernel takes what it can at once, the rest stands in one queue in
order. While something stands there, a pump task lives in the connection's nursery; a connection with room has none.
TLS is an `ssl.SSLObject` over two memory BIOs, so that the hub can encrypt and write without waiting too.

The socket is a plain non-blocking one; trio is asked only to wait for it. So nothing is shielded: a wire whose peer
stalls can be aborted from outside at any time, and every wait on it then ends.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

import trio

RECEIVE: Final = 65536
HIGH_WATER: Final = 262144
"""Bytes in the queue above which `drain` waits: the bound on what the ordinary path may pile up."""
UNACKNOWLEDGED: Final = 60_000
"""Milliseconds a peer may leave bytes unacknowledged, or its window shut (nginx's send_timeout is the same 60 s)."""
_ABORT: Final = struct.pack("ii", 1, 0)


class Wire:
    """A connected, non-blocking socket, with TLS over it where a context is given."""

    __slots__ = (
        "_drained",
        "_incoming",
        "_outgoing",
        "_pumping",
        "_queue",
        "_tls",
        "alpn",
        "closed",
        "on_closed",
        "on_room",
        "pending",
        "sock",
        "spawn",
    )

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None = None) -> None:
        self.sock = sock
        self.closed = False
        self.pending = 0
        """Bytes accepted by `write` that the kernel has not taken."""
        self.alpn: str | None = None
        self.on_room: Callable[[], None] = _nothing
        """Called when the queue has run empty; may write."""
        self.on_closed: Callable[[], None] = _nothing
        """Called once, when the wire is closed or aborted by either side's doing."""
        self.spawn: Callable[..., None] = _no_nursery
        """Starts a task in the connection's nursery (set by the connection)."""
        self._queue: deque[memoryview | bytes] = deque()
        self._pumping = False
        self._drained: trio.Event | None = None
        self._tls: ssl.SSLObject | None = None
        if context is not None:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        return self._tls is not None

    def send(self, data: bytes) -> int:
        """The quick way, for a wire without pending bytes: returns how many bytes were taken, −1 where all were
        accepted but some are pending; raises `BlockingIOError` where none were. `rest` takes up what was left.
        """
        return self.sock.send(data) if self._tls is None else self._send_tls(data)

    # ------------------------------------------------------------------ in

    async def handshake(self) -> None:
        """Do the TLS handshake, if there is one to do. Raises `ssl.SSLError` or `OSError`."""
        if self._tls is None:
            return
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._push_ciphertext()
                await self._feed_ciphertext()
            except ssl.SSLError:
                self._push_ciphertext()  # the alert that tells the client why
                raise
            else:
                break
        self._push_ciphertext()
        self.alpn = self._tls.selected_alpn_protocol()

    async def receive(self) -> bytes:
        """Return the next bytes of the peer, ``b""`` when it has ended. Raises `OSError` on a broken connection."""
        if self._tls is None:
            return await self._receive_raw()
        while not self.closed:
            try:
                return self._tls.read(RECEIVE)
            except ssl.SSLWantReadError:
                self._push_ciphertext()  # a key update asks for an answer
                await self.drain()  # who asks without end has to read them
                await self._feed_ciphertext()
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                raise ConnectionResetError(str(error)) from error
        return b""

    async def _feed_ciphertext(self) -> None:
        data = await self._receive_raw()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _receive_raw(self) -> bytes:
        while not self.closed:
            try:
                return self.sock.recv(RECEIVE)
            except BlockingIOError:
                await self._wait(trio.lowlevel.wait_readable)
        return b""

    async def _wait(self, ready: Callable[[socket.socket], object]) -> None:
        try:
            await ready(self.sock)  # type: ignore[misc]  # either of trio.lowlevel's two waits
        except trio.ClosedResourceError:
            pass  # the callers look at `closed`

    # ------------------------------------------------------------------ out

    def write(self, data: bytes) -> None:
        """Write in order, without waiting; what the kernel does not take now waits in the queue.

        Does nothing on a closed wire: the reader's end of the connection tells everybody.
        """
        if self.closed or not data:
            return
        try:
            if self.pending:
                self._enqueue(data if self._tls is None else self._encrypt(data))
            else:
                self.rest(data, self.send(data))
        except BlockingIOError:
            self.rest(data, 0)
        except OSError:
            self.abort()

    def rest(self, data: bytes, taken: int) -> None:
        """Queue what `send` did not take of ``data``: all but the first ``taken`` bytes (−1: it queued it itself)."""
        if 0 <= taken < len(data):
            self._enqueue(memoryview(data)[taken:])

    def _enqueue(self, data: memoryview | bytes) -> None:
        if not data:
            return
        self._queue.append(data)
        self.pending += len(data)
        if not self._pumping:
            self._pumping = True
            self.spawn(self._pump)

    def _encrypt(self, data: bytes) -> bytes:
        assert self._tls is not None
        self._tls.write(data)
        return self._outgoing.read()

    def _send_tls(self, data: bytes) -> int:
        ciphertext = self.seal(data)
        try:
            taken = self.sock.send(ciphertext)
        except BlockingIOError:
            taken = 0
        return len(data) if self.sealed_taken(ciphertext, taken) else -1

    def seal(self, data: bytes) -> bytes:
        """Encrypt; what is returned is to be sent at once, and `sealed_taken` to be told how that went."""
        ciphertext = self._encrypt(data)
        if self.pending:  # the answer to a key update, say: what stands in the queue goes first
            self._enqueue(ciphertext)
            return b""
        return ciphertext

    def sealed_taken(self, ciphertext: bytes, taken: int) -> bool:
        """Queue what was not taken of what `seal` returned; returns whether nothing is pending."""
        if taken < len(ciphertext):
            self._enqueue(memoryview(ciphertext)[taken:])
        return not self.pending

    def _push_ciphertext(self) -> None:
        ciphertext = self._outgoing.read()
        if ciphertext and not self.closed:
            self._enqueue(ciphertext)
            self._flush()

    async def _pump(self) -> None:
        try:
            while self.pending and not self.closed:
                await self._wait(trio.lowlevel.wait_writable)
                self._flush()
        finally:
            self._pumping = False
            self._tell_drained()

    def _flush(self) -> None:
        queue = self._queue
        try:
            while queue and not self.closed:
                taken = self.sock.send(queue[0])
                self.pending -= taken
                if taken < len(queue[0]):
                    queue[0] = memoryview(queue[0])[taken:]
                    return
                queue.popleft()
        except BlockingIOError:
            return
        except OSError:
            self.abort()
            return
        if not self.closed:
            self._tell_drained()
            self.on_room()

    async def drain(self) -> None:
        """Wait until there is room for more (at most `HIGH_WATER` bytes pending), or the wire is closed."""
        await self._below(HIGH_WATER)

    async def flushed(self) -> None:
        """Wait until the kernel has taken everything, or the wire is closed."""
        await self._below(0)

    async def _below(self, mark: int) -> None:
        while self.pending > mark and not self.closed:
            if self._drained is None:
                self._drained = trio.Event()
            await self._drained.wait()

    def _tell_drained(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    # ------------------------------------------------------------------ the end

    async def linger(self, seconds: float, *, stalled: float = UNACKNOWLEDGED / 1000) -> None:
        """Say that no more will come (close_notify, FIN) and read the peer's last bytes away, for at most so long.

        What is written goes out before, however slowly the peer reads; one that takes nothing for ``stalled`` seconds
        is not waited for.

        Closing with unread bytes in the socket would reset the connection, and the peer could lose our last answer
        (RFC 9112 §9.6).
        """
        self._say_goodbye()
        left = None
        while self.pending and self.pending != left:
            left = self.pending
            with trio.move_on_after(stalled):
                await self.flushed()
        with trio.move_on_after(0 if self.pending else seconds):
            try:
                self.sock.shutdown(socket.SHUT_WR)
                while await self._receive_raw():
                    pass
            except OSError:
                pass

    def _say_goodbye(self) -> None:
        if self._tls is None:
            return
        try:
            self._tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass  # it wants the peer's answer, which nobody waits for
        self._push_ciphertext()

    def abort(self) -> None:
        """Reset the connection at once and forget what is queued."""
        if not self.closed:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            except OSError:
                pass
        self.close()

    def close(self) -> None:
        """Close. What has not been flushed is lost; every wait on this wire ends."""
        if self.closed:
            return
        self.closed = True
        self._queue.clear()
        self.pending = 0
        trio.lowlevel.notify_closing(self.sock)
        self.sock.close()
        self._tell_drained()
        self.on_closed()


def prepare(sock: socket.socket) -> None:
    """Set an accepted socket's options: non-blocking, no Nagle, dead peers noticed within `UNACKNOWLEDGED`."""
    sock.setblocking(False)
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED)


def _nothing() -> None: ...


def _no_nursery(*_: object) -> None:
    raise RuntimeError("this wire belongs to no connection yet")
