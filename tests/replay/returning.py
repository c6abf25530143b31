"""A client that goes and comes back at random moments, as browsers on trains do, and keeps what its page would hear.

Strategy: HTTP/1.0 to whatever is in front, so that a body is raw bytes and a visit may end between any two of them.
Only whole blocks count, as in an EventSource (WHATWG HTML §9.2.6): half an event leaves no trace, nor does its id. All
that is random comes from one generator of the client's own, so that a seed tells the story again.
"""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from tests.lab import wire
from tests.lab.eventstream import Event, Parser

LONGEST_VISIT = 1.5
"""Seconds after which it leaves anyway."""
LONGEST_PAUSE = 0.3
"""Seconds before it is back."""
FIRST_VISIT = 20.0
"""Seconds to get a place within."""
MANNERS = ("closed", "aborted", "mid-event")
ENDED = "ended by the server"

Condition = Callable[["Returning"], object]


def heard(text: str) -> Condition:
    """Holds of a client that has heard this last."""
    return lambda client: client.heard[-1:] == [text]


def heard_some(number: int) -> Condition:
    """Holds of a client that has heard so many events."""
    return lambda client: len(client.heard) >= number


def has_place(client: Returning) -> object:
    """Holds of a client that can come back."""
    return client.place


@dataclass
class Returning:
    """One client; `until` makes visits until it has heard something."""

    address: tuple[str, int]
    path: str
    random: random.Random
    longest: int = 400
    """Events that it takes in one visit at most."""
    heard: list[str] = field(default_factory=list)
    place: str = ""
    visits: dict[str, int] = field(default_factory=dict)
    """How many of its visits have ended how."""
    arrived: trio.Event = field(default_factory=trio.Event)
    """Set once it has a place to come back to."""

    async def until(self, condition: Condition) -> None:
        """Come and go until a condition holds."""
        while not condition(self):
            await self._visit(condition)
            await trio.sleep(self.random.uniform(0, LONGEST_PAUSE))

    async def stay(self, condition: Condition) -> None:
        """Make one visit, until a condition holds; AssertionError where the server ends it before."""
        visit = _Visit(self, await trio.open_tcp_stream(*self.address))
        await visit.ask()
        while not condition(self):
            assert await visit.read(), f"ended by the server: {self.heard[-3:]}"
        visit.leave(aborting=False)

    async def _visit(self, condition: Condition) -> None:
        """Stay for some events or some time, whatever comes first; without a place for nothing but that."""
        visit = _Visit(self, await trio.open_tcp_stream(*self.address))
        manner = self.random.choice(MANNERS if self.place else MANNERS[:2])
        enough = len(self.heard) + self.random.randint(1, self.longest) if self.place else 0
        seconds = self.random.uniform(0.01, LONGEST_VISIT) if self.place else FIRST_VISIT
        end = manner
        with trio.move_on_after(seconds):
            await visit.ask()
            while not condition(self) and not (self.place and len(self.heard) >= enough):
                if not await visit.read():
                    end = ENDED
                    break
            while manner == "mid-event" and end == manner and not visit.rest and await visit.read():
                pass
        if end == "mid-event" and not visit.rest:
            end = "aborted"
        visit.leave(aborting=manner != "closed")
        self.visits[end] = self.visits.get(end, 0) + 1

    def take(self, event: Event) -> None:
        """What a page's listeners would get."""
        reset = event.type == "sidecar.reset"
        self.heard.append(f"reset: {json.loads(event.data)['reason']}" if reset else event.data)


class _Visit:
    """One connection of a client."""

    def __init__(self, client: Returning, stream: trio.SocketStream) -> None:
        self._client = client
        self._stream = stream
        self._parser = Parser()
        self._head = True
        self.rest = b""
        """The bytes of a block that has not ended."""

    async def ask(self) -> None:
        """Send the request, with the place where there is one."""
        headers = [("Accept", "text/event-stream")]
        if self._client.place:
            headers.append(("Last-Event-ID", self._client.place))
        await self._stream.send_all(wire.request_bytes("GET", self._client.path, "localhost", "1.0", headers))

    async def read(self) -> bool:
        """Take some bytes; returns whether more may come."""
        try:
            data = await self._stream.receive_some(self._client.random.randint(1, 4000))
        except trio.BrokenResourceError:
            return False
        self.rest += data
        if self._head:
            self._cut_head()
        if not self._head:
            self._take_blocks()
        return bool(data)

    def _cut_head(self) -> None:
        head, found, rest = self.rest.partition(b"\r\n\r\n")
        if found:
            assert head.split(b" ")[1] == b"200", head  # an EventSource would give up for good
            self._head, self.rest = False, rest

    def _take_blocks(self) -> None:
        whole, found, self.rest = self.rest.rpartition(b"\n\n")
        before = len(self._parser.events)
        self._parser.feed(whole + found)
        if self._parser.last_id:
            self._client.place = self._parser.last_id
            self._client.arrived.set()
        for event in self._parser.events[before:]:
            self._client.take(event)

    def leave(self, *, aborting: bool) -> None:
        """Close the socket: with a FIN, or with a RST as from a machine that is gone."""
        if aborting:
            self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.socket.close()
