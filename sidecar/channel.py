"""What workers say to each other, and how a connection goes from one to another.

Strategy: two socket pairs between the first worker and each other one. On the one go JSON objects, one a line, both
ways. On the other go accepted connections, each as a file descriptor (SCM_RIGHTS, unix(7)) beside the name of the door
it came through; the kernel keeps the messages apart and says when the other side takes no more.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import structlog
import trio

LONGEST_LINE: Final = 64 * 2**20
"""Bytes of one message; a configuration with thousands of routes has a few million."""
LONGEST_NAME: Final = 4096
"""Bytes of a door's name."""

Message: TypeAlias = Mapping[str, Any]

_log = structlog.get_logger("sidecar.workers")


class Channel:
    """One end of the pair on which messages go."""

    def __init__(self, sock: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._sending = trio.Lock()
        self._rest = bytearray()

    async def send(self, message: Message) -> None:
        """Send one message. Raises `trio.BrokenResourceError` when the other side has ended."""
        async with self._sending:
            await self._stream.send_all(json.dumps(message).encode() + b"\n")

    async def receive(self) -> Message | None:
        """Wait for a message; None when the other side has ended."""
        searched = 0
        while (end := self._rest.find(b"\n", searched)) < 0:
            searched = len(self._rest)
            if searched > LONGEST_LINE or not await self._read():
                return None
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        message: Message = json.loads(line)
        return message

    async def _read(self) -> bool:
        try:
            data = await self._stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        self._rest += data
        return bool(data)

    def close(self) -> None:
        """Say that there will be no more."""
        self._stream.socket.close()


def carriers() -> tuple[socket.socket, socket.socket]:
    """A pair on which connections go; neither end ever blocks."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setblocking(False)
    return pair


def hand_over(carrier: socket.socket, door: str, sock: socket.socket) -> bool:
    """Give a connection away and close it here; False where the other side takes none now, and it is still ours."""
    try:
        socket.send_fds(carrier, [door.encode()], [sock.fileno()])
    except OSError:  # full, or its process has ended
        return False
    sock.close()
    return True


async def take_over(carrier: socket.socket) -> tuple[str, socket.socket] | None:
    """Wait for a connection and the name of its door; None when the other side has ended."""
    while True:
        await trio.lowlevel.wait_readable(carrier)
        try:
            os.close(os.dup(carrier.fileno()))  # where none is left, recvmsg(2) would lose what it cannot deliver
        except OSError as error:
            _log.error("cannot take a connection", problem=error.strerror)
            await trio.sleep(0.1)
            continue
        try:
            door, received, _, _ = socket.recv_fds(carrier, LONGEST_NAME, 1)
        except BlockingIOError:
            continue
        except OSError:
            return None
        if received:
            return door.decode(), socket.socket(fileno=received[0])
        if not door:
            return None
