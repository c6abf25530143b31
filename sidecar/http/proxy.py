"""One exchange between a client and the application, whichever HTTP version carried the request.

Strategy: what waits in one place only is told in one line of code; so an exchange is one task that sends the request
and passes the answer on, piece by piece, and a second task beside it only where the request has a body. Nothing is
collected: each side is read when the other has taken what was read before. One cancel scope holds everything, and its
deadline is moved to what is waited for just now: the answer's head, the next bytes, a client that does not read. When
the client leaves, the scope is cancelled and the application's connection closed.

What a client is to this room is `Client`; `sidecar.server.passage` has one for HTTP/1.x and one for HTTP/2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

import h11
import structlog
import trio

from sidecar.forwarded import Proxies
from sidecar.http.passing import Fields, Head, RefusedError, answered, asked, trailers, upgrade
from sidecar.http.upstream import Link, StaleError, Upstream, UpstreamError, encode, without_values
from sidecar.observe.metrics import Metrics

if TYPE_CHECKING:
    from sidecar.http.dispatch import Spawn, Taken
    from sidecar.http.outlet import StreamOutlet
    from sidecar.http.subscribe import Offers

IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
"""RFC 9110 §9.2.2: may be sent again where a kept connection was closed meanwhile."""
SUBSCRIBE: Final = b"sidecar-subscribe"
"""The field by which the application subscribes its client (`sidecar.http.subscribe`)."""
CLIENT_LEFT: Final = 499
"""What is counted for a client that left before the answer (nginx's number)."""

_log = structlog.get_logger("sidecar.proxy")


class Client(Protocol):
    """The client's side of one exchange. What is written is held until `drain`."""

    @property
    def started(self) -> bool:
        """Whether the head of the answer was written."""

    @property
    def held(self) -> bool:
        """Whether `drain` has anything to do."""

    async def receive(self) -> bytes:
        """Return the next part of the request's body, or of a tunnel; ``b""`` at its end."""

    @property
    def trailers(self) -> Fields:
        """The trailer fields of the request, once `receive` has come to the end."""

    def inform(self, status: int, fields: Fields) -> None:
        """Write an interim answer (1xx)."""

    def start(self, status: int, reason: bytes, fields: Fields, *, last: bool) -> None:
        """Write the head of the answer; ``last`` asks that the connection be closed after it."""

    def switch(self, fields: Fields) -> None:
        """Write that the protocols are switched; from here on bytes pass raw. Raises `UpstreamError`."""

    def write(self, data: bytes) -> None:
        """Write a part of the body, or of a tunnel."""

    def end(self, trailers: Fields) -> None:
        """End the answer."""

    def reply(self, status: int, text: str, *, last: bool) -> None:
        """Write a whole short answer of our own."""

    def become(self, take: Callable[[StreamOutlet, Spawn], Taken]) -> None:
        """Give the request to a taker, as if a route had taken it: the exchange has no more to say."""

    async def drain(self) -> None:
        """Send what is held; return when there is room for more."""

    async def finish(self, *, broken: bool) -> None:
        """The exchange is over; ``broken``: the client must see that the answer is not whole."""


class Proxy:
    """What all exchanges with one application share."""

    def __init__(self, upstream: Upstream, proxies: Proxies, metrics: Metrics, offers: Offers | None = None) -> None:
        """``offers``: what the application may subscribe its clients to."""
        self.upstream = upstream
        self.proxies = proxies
        self.offers = offers
        self.draining = False
        self.open: dict[Exchange, None] = {}
        self._metrics = metrics
        self._empty = trio.Event()

    def __repr__(self) -> str:
        return f"<Proxy {self.upstream!r}, {len(self.open)} exchanges>"

    def count(self, code: int) -> None:
        """Count an answer."""
        self._metrics.upstream_request(code)

    def discard(self, exchange: Exchange) -> None:
        """An exchange is over."""
        self.open.pop(exchange, None)
        if not self.open:
            self._empty.set()

    def retire(self, within: float) -> None:
        """Another takes over from here: what is under way may end, streams given out end over so many seconds."""
        self.upstream.close()
        if self.offers is not None:
            self.offers.retire(within)

    async def drain(self, within: float) -> None:
        """Return when the exchanges in flight have ended; after ``within`` seconds those left are cut.

        New ones are served still, each the last on its HTTP/1.1 connection.
        """
        self.draining = True
        with trio.move_on_after(within):
            while self.open:
                self._empty = trio.Event()
                await self._empty.wait()
        for exchange in tuple(self.open):
            exchange.leave()


class Exchange:
    """A request, and what becomes of it; made by a connection, and run in its nursery."""

    __slots__ = ("_client", "_code", "_head", "_left", "_link", "_proxy", "_scope", "_waits", "_whole")

    def __init__(self, proxy: Proxy, head: Head, client: Client) -> None:
        self._proxy = proxy
        self._head = head
        self._client = client
        self._scope = trio.CancelScope()
        self._link: Link | None = None
        self._code = 0
        self._left = False
        self._whole = False
        self._waits = (504, "", 0.0)
        proxy.open[self] = None

    def __repr__(self) -> str:
        return f"<Exchange {self._head.method.decode()} {self._head.path} {self._code or 'waiting'}>"

    def leave(self) -> None:
        """The client has left, or must: cancel the request."""
        self._left = True
        self._scope.cancel()

    async def run(self) -> None:
        """Serve it to its end."""
        try:
            with self._scope:
                await self._serve()
            if self._scope.cancelled_caught and not self._left:
                status, fact, seconds = self._waits
                self._fail(UpstreamError(status, fact, f"after {seconds:g} s"))
            self._give_back()
            await self._client.finish(broken=not self._whole)
        finally:
            self._give_back()
            self._proxy.discard(self)
            self._proxy.count(self._code or CLIENT_LEFT)

    async def _serve(self) -> None:
        try:
            method, body = self._head.method, self._head.body
            target, fields = asked(self._head, self._proxy.proxies, self._proxy.upstream.authority)
            request = h11.Request(method=method, target=target, headers=fields)
            await (self._with_body(request) if body else self._without_body(request))
            await self._client.drain()
        except (RefusedError, UpstreamError) as error:
            self._fail(error)
        except h11.LocalProtocolError as error:
            self._fail(UpstreamError(400, "this request cannot be sent on", without_values(error)))

    def _fail(self, error: RefusedError | UpstreamError) -> None:
        """Say so to the client where nothing was said yet, and to the log."""
        if not self._client.started:
            self._code = error.status
            self._client.reply(error.status, error.fact, last=isinstance(error, RefusedError))
            self._whole = True
        if isinstance(error, UpstreamError):
            _log.warning(
                "not proxied", status=self._code, path=self._head.path, problem=error.fact, detail=error.detail
            )

    # ------------------------------------------------------------------ the request

    async def _without_body(self, request: h11.Request) -> None:
        try:
            await self._ask(request, fresh=False)
        except StaleError:
            if request.method not in IDEMPOTENT:
                raise
            self._give_back()
            await self._ask(request, fresh=True)

    async def _ask(self, request: h11.Request, *, fresh: bool) -> None:
        link = await self._acquire(fresh=fresh)
        await self._send(link, encode(link.http, request, h11.EndOfMessage()))
        await self._answer(link)

    async def _with_body(self, request: h11.Request) -> None:
        link = await self._acquire()
        await self._send(link, encode(link.http, request))
        failure: UpstreamError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._upload, link)
            try:
                await self._answer(link)
            except UpstreamError as error:
                failure = error
            nursery.cancel_scope.cancel()  # the answer may come before the body is complete
        if failure is not None:
            raise failure

    async def _acquire(self, *, fresh: bool = False) -> Link:
        upstream = self._proxy.upstream
        self._link = link = await upstream.acquire(fresh=fresh)
        self._wait(upstream.settings.answer, 504, "the application has not answered in time")
        return link

    async def _send(self, link: Link, data: bytes) -> None:
        try:
            await link.send(data)
        except OSError:
            pass  # it may have answered before it closed; if not, reading tells

    async def _upload(self, link: Link) -> None:
        idle, answer = self._proxy.upstream.settings.idle, self._proxy.upstream.settings.answer
        try:
            while True:
                self._wait(idle, 408, "the body of the request does not go on")
                part = await self._client.receive()
                if not part:
                    break
                self._wait(idle, 504, "the application does not take the body of the request")
                await link.send(encode(link.http, h11.Data(data=part)))
            await link.send(encode(link.http, h11.EndOfMessage(headers=self._last_words())))
        except (OSError, h11.LocalProtocolError):
            pass  # it reads no more, but may have answered; if not, reading tells
        self._wait(answer, 504, "the application has not answered in time")

    def _last_words(self) -> Fields:
        chunked = b"content-length" not in self._head.names
        return trailers(self._client.trailers) if chunked else []

    # ------------------------------------------------------------------ the answer

    async def _answer(self, link: Link) -> None:
        client = self._client
        while True:
            event = await self._event(link)
            if isinstance(event, h11.Data):
                client.write(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                client.end(trailers(event.headers))
                self._whole = True
                return
            elif isinstance(event, h11.Response):
                if self._hand_over(event):
                    self._exhaust(link)
                    return
                self._start(event)
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    await self._tunnel(link, event)
                    return
                self._inform(event)
            else:
                raise UpstreamError(502, "the application's answer is broken", f"unexpected {event}")

    async def _event(self, link: Link) -> h11.Event | type[h11.PAUSED]:
        """The next event; whenever there is none yet, the client gets what is held for it."""
        settings = self._proxy.upstream.settings
        while (event := link.event()) is h11.NEED_DATA:
            if self._client.held:
                await self._flush()
                self._wait(settings.answer, 504, "the application has not answered in time")
            if self._client.started:
                self._wait(settings.idle, 504, "the application's answer does not go on")
            await link.read()
        return event  # type: ignore[return-value]  # NEED_DATA was waited away

    async def _flush(self) -> None:
        self._wait(self._proxy.upstream.settings.idle, 408, "the client does not read on")
        await self._client.drain()

    def _hand_over(self, event: h11.Response) -> bool:
        """Whether the application wants its client to hear events instead of this answer. Raises `UpstreamError`."""
        offers = self._proxy.offers
        take = offers.taker(self._head, event.status_code, list(event.headers)) if offers is not None else None
        if take is None:
            return False
        self._code, self._whole = event.status_code, True
        self._client.become(take)
        return True

    def _exhaust(self, link: Link) -> None:
        """Read away what has come of a body nobody wants, so that the connection may be used again."""
        while not isinstance(link.event(), h11.EndOfMessage | type):
            pass

    def _start(self, event: h11.Response) -> None:
        self._code = status = event.status_code
        fields = answered(status, list(event.headers))
        if self._proxy.offers is not None:
            fields = [field for field in fields if field[0] != SUBSCRIBE]
        self._client.start(status, event.reason, fields, last=self._proxy.draining)

    def _inform(self, event: h11.InformationalResponse) -> None:
        """Pass an interim answer on (RFC 9110 §15.2), but 100: that was answered here."""
        if event.status_code != 100 and self._head.version != "1.0":
            self._client.inform(event.status_code, answered(event.status_code, list(event.headers)))

    # ------------------------------------------------------------------ a tunnel

    async def _tunnel(self, link: Link, event: h11.InformationalResponse) -> None:
        """Bytes both ways until the application has ended its side (RFC 9110 §7.8)."""
        if not upgrade(self._head):
            raise UpstreamError(502, "the application switched protocols without being asked")
        self._client.switch([*event.headers])
        self._code = 101
        self._client.write(link.http.trailing_data[0])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._upward, link)
            await self._downward(link)
            nursery.cancel_scope.cancel()
        self._client.end([])
        self._whole = True

    async def _upward(self, link: Link) -> None:
        idle = self._proxy.upstream.settings.idle
        try:
            while part := await self._client.receive():
                self._wait(idle, 504, "nothing was said in the tunnel")
                await link.send(part)
        except OSError:
            return
        link.shut()

    async def _downward(self, link: Link) -> None:
        idle = self._proxy.upstream.settings.idle
        try:
            while True:
                self._wait(idle, 504, "nothing was said in the tunnel")
                if self._client.held:
                    await self._client.drain()
                data = await link.receive()
                if not data:
                    return
                self._client.write(data)
        except OSError:
            return

    # ------------------------------------------------------------------ limits and the end

    def _wait(self, seconds: float, status: int, fact: str) -> None:
        """What is waited for from now on, and for how long at most."""
        self._scope.deadline = trio.current_time() + seconds
        self._waits = (status, fact, seconds)

    def _give_back(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            self._proxy.upstream.release(link)
