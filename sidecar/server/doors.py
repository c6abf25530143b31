"""The public listeners of a service, and how they change while it runs.

Strategy: a change is prepared whole before anything is touched: new addresses are bound and every certificate is
loaded, and what fails there has changed nothing. Putting it in force cannot fail: a socket that is wanted still goes
on accepting without a gap, with its new certificates for the handshakes to come; a door that is not wanted any more
is closed, and the connections that came through it stay. In a worker that is handed its connections the doors have
no sockets, only certificates.
"""

from __future__ import annotations

import socket
import ssl
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import trio

from sidecar.config.model import Listener
from sidecar.server.listener import accept, address_of, bind, close_listener, tls_context


class Door:
    """One address: its bound socket, and the certificates of its handshakes."""

    def __init__(self, name: str, sock: socket.socket | None, context: ssl.SSLContext | None) -> None:
        self.name = name
        self.context = context
        self.sock = sock
        self._open = trio.CancelScope()
        self._accepting = False

    def __repr__(self) -> str:
        return f"<Door {self.name}>"

    async def accept(self, take: Callable[[Door, socket.socket], object]) -> None:
        """Accept until the door is closed."""
        assert self.sock is not None
        self._accepting = True
        try:
            with self._open:
                await trio.lowlevel.checkpoint()  # it may be closed already
                await accept(self.sock, lambda accepted: take(self, accepted))
        finally:
            close_listener(self.sock)

    def close(self) -> None:
        """Take no more connections."""
        self._open.cancel()
        if self.sock is not None and not self._accepting:  # else the task that waits for the socket closes it
            close_listener(self.sock)


Plan = Mapping[str, Door]
"""The doors of a configuration, by name; those of the plan before stand in it with their sockets."""


class Doors:
    """All doors of a service."""

    def __init__(self, *, bound: bool = True) -> None:
        """Without ``bound`` nothing is bound: the connections are handed in."""
        self._bound = bound
        self._doors: dict[str, Door] = {}
        self._opened: Callable[[Door], None] = lambda _: None

    def __repr__(self) -> str:
        return f"<Doors {', '.join(self._doors)}>"

    def __getitem__(self, name: str) -> Door | None:
        return self._doors.get(name)

    @property
    def addresses(self) -> list[str]:
        """Where they listen, as URLs without a path."""
        doors = self._doors.values()
        return [address_of(door.sock, tls=door.context is not None) for door in doors if door.sock is not None]

    def prepare(self, listeners: Sequence[Listener]) -> Plan:
        """Bind what is not bound yet, load every certificate. Raises `OSError`, and then nothing has changed."""
        plan: dict[str, Door] = {}
        count = Counter[str]()
        try:
            for listener in listeners:
                count[listener.bind] += 1
                name = f"{listener.bind} {count[listener.bind]}"  # port 0 may stand there twice
                context = tls_context(listener.tls) if listener.tls is not None else None
                plan[name] = Door(name, self._socket(name, listener.bind), context)
        except OSError:
            self.discard(plan)
            raise
        return plan

    def _socket(self, name: str, address: str) -> socket.socket | None:
        known = self._doors.get(name)
        if known is not None:
            return known.sock
        return bind(address) if self._bound else None

    def discard(self, plan: Plan) -> None:
        """Close again what a plan has bound."""
        for name, door in plan.items():
            if name not in self._doors:
                door.close()

    def install(self, plan: Plan) -> None:
        """Put a plan in force."""
        before, self._doors = self._doors, {}
        for name, door in plan.items():
            known = before.pop(name, None)
            if known is not None:
                known.context = door.context
            else:
                self._opened(door)
            self._doors[name] = known or door
        for door in before.values():
            door.close()

    def open(self, nursery: trio.Nursery, take: Callable[[Door, socket.socket], object]) -> None:
        """Accept in this nursery from now on, at the doors there are and at those to come."""
        self._opened = lambda door: nursery.start_soon(door.accept, take) if self._bound else None
        for door in self._doors.values():
            self._opened(door)

    def close(self) -> None:
        """Close every door."""
        self.install({})
