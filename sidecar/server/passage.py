"""The client's side of a proxied exchange: `sidecar.http.proxy.Client`, here over HTTP/1.x.

Strategy: a passage stands where hypercorn expects its HTTPStream. The connection's task feeds the request's body into
its intake; the exchange, a task in the connection's nursery, takes it from there and writes the answer. Heads are
h11's and h2's to write; a body's bytes go to the wire with as little between as the framing allows. What is written is
held until the exchange has nothing more at hand, so that a small answer is one write.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol

import h11
import trio
from hypercorn.protocol.events import Body, Data, EndBody, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent

from sidecar.http.passing import Fields, Head
from sidecar.http.proxy import Exchange, Proxy
from sidecar.server.intake import Intake

if TYPE_CHECKING:
    from sidecar.http.dispatch import Spawn, Taken
    from sidecar.http.outlet import StreamOutlet
    from sidecar.server.wire import Wire

HALF_CLOSED_FOR: Final = 10.0
"""Seconds the application may go on talking through a tunnel whose client has ended its side."""
TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


class Link(Protocol):
    """What both passages ask of the protocol below."""

    wire: Wire

    def dated(self, fields: Fields) -> Fields:
        """Add what this server says in every answer, unless it was said."""


class Link1(Link, Protocol):
    """An HTTP/1.x connection."""

    connection: Any

    def give(self, head: Head, take: Callable[[StreamOutlet, Spawn], Taken]) -> None:
        """Put a taker in the passage's place."""

    async def recycle(self) -> None:
        """The exchange is over: use the connection again, or close it where that cannot be."""

    async def close(self) -> None:
        """Close the connection in good order."""


class Passage:
    """What both kinds share: the intake, and the exchange at the other end."""

    idle = False

    def __init__(self, intake: Intake) -> None:
        self.intake = intake
        self.started = False
        self.over = False
        self.given = False
        """Whether the request was given to somebody else."""
        self._exchange: Exchange | None = None

    def exchange(self, proxy: Proxy, head: Head) -> Exchange:
        """Make the exchange; the caller runs it in the connection's nursery."""
        self._exchange = Exchange(proxy, head, self)  # type: ignore[arg-type]  # the subclasses are whole Clients
        return self._exchange

    @property
    def trailers(self) -> Fields:
        """The request's trailer fields."""
        return self.intake.trailers

    def _hand_over(self) -> None:
        """Somebody else has the request from here on."""
        self.started = self.over = self.given = True
        self.intake.close()

    def gone(self) -> None:
        """The client has left, or its connection has ended."""
        self.intake.close()
        if self._exchange is not None and not self.over:
            self.over = True
            self._exchange.leave()


class Http11(h11.Connection):
    """h11's state of a connection, which remembers what hypercorn passes over."""

    patient = False
    """Whether 100 (Continue) is left to the passage, which knows when the body is wanted."""

    def next_event(self) -> Any:
        """Parse the next event; keep the trailer fields of a request's end."""
        event = super().next_event()
        if type(event) is h11.EndOfMessage:
            self.trailers = list(event.headers)
        return event

    @property
    def they_are_waiting_for_100_continue(self) -> bool:
        """Whether hypercorn shall answer 100 at once."""
        return super().they_are_waiting_for_100_continue and not self.patient


class Passage1(Passage):
    """One exchange on an HTTP/1.x connection."""

    def __init__(self, link: Link1, head: Head) -> None:
        super().__init__(Intake())
        self._link = link
        self._head = head
        self._tunnel = False
        self._chunked = False
        self._http: h11.Connection = link.connection
        self._held: list[bytes] = []
        self._finished = trio.Event()
        if not head.body:
            self.intake.end()

    def switching(self, adapter: Any) -> None:
        """Take bytes raw from here on, because the application may switch protocols (RFC 9110 §7.8)."""
        self._tunnel = True
        self.intake = Intake()
        self._link.connection = adapter

    async def handle(self, event: StreamEvent) -> None:
        """What hypercorn has to say of this request."""
        if isinstance(event, Body | Data):
            await self.intake.put(event.data)
        elif isinstance(event, EndBody):
            self.intake.end(getattr(self._http, "trailers", ()))
        elif isinstance(event, StreamClosed):
            self.gone()
            if self._tunnel and not self._finished.is_set():
                with trio.move_on_after(HALF_CLOSED_FOR):
                    await self._finished.wait()

    def gone(self) -> None:
        """The client has left; in a tunnel, it may have ended its side only."""
        if self._tunnel and self.started and not self.over:
            self.intake.end()
        else:
            super().gone()

    # ------------------------------------------------------------------ Client

    @property
    def held(self) -> bool:
        """Whether something is to be sent."""
        return bool(self._held)

    async def receive(self) -> bytes:
        """Take what has come; a client that waits for 100 (RFC 9110 §10.1.1) gets it now that its body is wanted."""
        if self._http.client_is_waiting_for_100_continue and not self.started:
            self._link.wire.write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        return await self.intake.take()

    def inform(self, status: int, fields: Fields) -> None:
        """Write an interim answer."""
        self._send(h11.InformationalResponse(status_code=status, headers=fields))

    def start(self, status: int, reason: bytes, fields: Fields, *, last: bool) -> None:
        """Write the head; h11 chooses chunks, or for HTTP/1.0 the end of the connection."""
        self._settle()
        bodiless = self._head.method == b"HEAD" or status in (204, 304)
        sized = any(name == b"content-length" for name, _ in fields)
        self._chunked = self._head.version == "1.1" and not bodiless and not sized
        closing = [(b"connection", b"close")] if last or not self.intake.ended else []
        self._send(h11.Response(status_code=status, reason=reason, headers=[*self._link.dated(fields), *closing]))

    def switch(self, fields: Fields) -> None:
        """Write 101; h11 has nothing more to say."""
        self.started = True
        self._held.append(self._http.send(h11.InformationalResponse(status_code=101, headers=fields)))

    def write(self, data: bytes) -> None:
        """Frame a part of the body; in a tunnel as it is."""
        if self._tunnel:
            self._held.append(data)
        else:
            self._send(h11.Data(data=data))

    def end(self, trailers: Fields) -> None:
        """The last chunk, with trailer fields where the framing has room for them; a tunnel ends as the connection."""
        if not self._tunnel:
            self._send(h11.EndOfMessage(headers=trailers if self._chunked else []))

    def reply(self, status: int, text: str, *, last: bool) -> None:
        """Write a whole short answer."""
        body = f"{text}\n".encode()
        fields = [TEXT, (b"content-length", b"%d" % len(body))]
        self.start(status, HTTPStatus(status).phrase.encode(), fields, last=last)
        if self._head.method != b"HEAD":
            self.write(body)
        self.end([])

    def become(self, take: Callable[[StreamOutlet, Spawn], Taken]) -> None:
        """Give the request to a taker, unless the client has left: nobody would tell the taker any more."""
        if self.over:
            return
        self._settle()
        self._flush()
        self._hand_over()
        self._finished.set()
        self._link.give(self._head, take)

    async def drain(self) -> None:
        """Write what is held, in one piece, and wait while the socket is full."""
        self._flush()
        if not self.given:
            await self._link.wire.drain()

    async def finish(self, *, broken: bool) -> None:
        """Use the connection again, or close it."""
        self._flush()
        self._finished.set()
        if self.over:
            return
        self.over = True
        self.intake.close()
        if broken and self._http.their_http_version == b"1.0":
            self._link.wire.abort()  # to such a client a good end would make half an answer a whole one
        await (self._link.close() if broken or self._tunnel else self._link.recycle())

    def _settle(self) -> None:
        """The head of a final answer: no protocol is switched."""
        self.started = True
        if self._tunnel:
            self._tunnel = False
            self._link.connection = self._http
            if not self.intake.fed:  # else something came too early, and cannot be put back
                self.intake.end()

    def _send(self, event: h11.Event) -> None:
        try:
            self._held.append(self._http.send(event) or b"")
        except h11.LocalProtocolError:
            if self._http.their_state is not h11.ERROR:  # else hypercorn has said so to the client, and closes
                self._link.wire.abort()

    def _flush(self) -> None:
        if self._held:
            data = b"".join(self._held)
            self._held.clear()
            self._link.wire.write(data)
