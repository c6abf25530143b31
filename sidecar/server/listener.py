"""Listeners: addresses bound, connections accepted, each served in a nursery of its own.

Strategy: sockets are bound before anything is promised, so that a taken port is an error at the start. Accepting
goes on while streams drain, so that a restart refuses nobody; a shortage of file descriptors costs a pause and a log
line, never the listener.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import structlog
import trio
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import wrap_app

from sidecar.config.model import ServerTls
from sidecar.deadlines import Deadlines
from sidecar.http.dispatch import Dispatch
from sidecar.http.listening import Listening
from sidecar.server.connection import Connection, serve_socket
from sidecar.server.protocol import settings

BACKLOG: Final = 4096
"""Connections the kernel may hold for us: after a restart everybody comes back at once."""
AT_ONCE: Final = 64
"""Connections accepted before other tasks get their turn."""
FAREWELL: Final = 0.5
"""Seconds in which clients may read what they have been sent, and close, when the process ends."""
_SHORTAGE: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

_log = structlog.get_logger("sidecar.server")


class Server:
    """Serves connections: what all of them share."""

    def __init__(
        self, app: Callable[..., Any], dispatch: Callable[[], Dispatch | Listening], deadlines: Deadlines
    ) -> None:
        """``app`` is an ASGI application for what no route takes; ``dispatch`` gives the routes in force."""
        self.app = wrap_app(app, 0, "asgi")
        self.dispatch = dispatch
        self.deadlines = deadlines
        self.config = settings(HypercornLog)
        self.context = WorkerContext(None)
        self.connections: dict[Connection, None] = {}
        """Those that are open."""
        self._last_gone = trio.Event()

    async def serve(self, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        """Serve one accepted socket to its end, with TLS where there is a context."""
        await serve_socket(self, sock, context)

    def discard(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.pop(connection, None)
        if not self.connections:
            self._last_gone.set()

    async def close(self) -> None:
        """End every connection in good order; return when the last has ended, or after `FAREWELL` seconds.

        To close a socket that the client still writes to is to reset it, and with it the last events on their way.
        """
        for connection in tuple(self.connections):
            connection.close()
        if self.connections:
            self._last_gone = trio.Event()
            with trio.move_on_after(FAREWELL):
                await self._last_gone.wait()


async def accept(sock: socket.socket, take: Callable[[socket.socket], object]) -> None:
    """Accept on a listening socket until cancelled, and let each connection be taken."""
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            for _ in range(AT_ONCE):
                take(sock.accept()[0])
        except BlockingIOError:
            continue
        except OSError as error:
            if error.errno in _SHORTAGE:
                _log.error("cannot accept a connection", problem=error.strerror)
                await trio.sleep(0.1)
            # anything else concerns one connection that was gone before it was accepted
        await trio.lowlevel.checkpoint()


def bind(address: str) -> socket.socket:
    """Listen on ``host:port``, ``[v6]:port`` or ``unix:/path``; who connects waits until `accept`.

    Raises `OSError` with the address in its text.
    """
    try:
        return _bind_unix(address[5:]) if address.startswith("unix:") else _bind_tcp(address)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror or error}") from error


def _bind_tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family, kind, protocol, _, where = socket.getaddrinfo(
        host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6 and host != "::":
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        sock.bind(where)
        sock.listen(BACKLOG)  # not before this is an address taken for sure
    except OSError:
        sock.close()
        raise
    return sock


def _bind_unix(path: str) -> socket.socket:
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)  # left behind by a process that was killed
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def close_listener(sock: socket.socket) -> None:
    """Close a bound socket; a unix socket's file goes with it."""
    if sock.family == socket.AF_UNIX:
        with suppress(OSError):
            os.unlink(sock.getsockname())
    sock.close()


def address_of(sock: socket.socket, *, tls: bool) -> str:
    """Return where a bound socket listens, as a URL."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def tls_context(files: ServerTls) -> ssl.SSLContext:
    """Load a certificate and its key; TLS 1.2 and later, ALPN h2 and http/1.1. Raises `OSError` or `ssl.SSLError`."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION  # the writer never waits for a read
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.load_cert_chain(files.certificate, files.key)
    return context


class HypercornLog:
    """What hypercorn has to say, in our log: mistakes of an ASGI application, no access lines."""

    def __init__(self, config: object) -> None:
        self._log = structlog.get_logger("sidecar.hypercorn")

    async def access(self, *_: object) -> None:
        """Say nothing: the event streams log their own ends."""

    async def exception(self, message: str, *args: object, **_: object) -> None:
        """An application has raised."""
        self._log.exception(message % args if args else message)

    async def error(self, message: str, *args: object, **_: object) -> None:
        """Something went wrong."""
        self._log.error(message % args if args else message)

    warning = info = debug = error
