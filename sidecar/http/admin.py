"""The operators' listener: health, metrics, routes, publishing and draining, as one ASGI application.

Strategy: a table of paths, their methods and their handlers; everything else (404, 405 with Allow, HEAD, header
fields, refusals) follows from it. What the process is and does comes through the `Overview` port, so this module
knows neither hub nor broker's inside. Nothing here is for the public: no access rules, but neither may a browser be
made to publish or drain by a page that came from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, Self

import trio

from sidecar.amqp import Properties
from sidecar.broker.port import BrokerAway, BrokerRefused
from sidecar.http.answer import Answer, Receive, Refusal, Scope, Send, header
from sidecar.http.publish import read_publication, refuse_strangers
from sidecar.observe.metrics import Metrics, RouteMetrics

PUBLISH_WITHIN = 10.0  # seconds for the broker to confirm

COMMON_FIELDS = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """What ``GET /routes`` tells of one route."""

    path: str
    source: Mapping[str, str]  # as in the configuration: {"exchange": "orders"}
    binding_keys: Sequence[str]
    subscribers: int
    subscriptions: int  # distinct bindings that subscribers share
    received: int
    sent: int
    backlog_bytes: int
    dropped: Mapping[str, int]
    closed: Mapping[str, int]
    resets: Mapping[str, int]

    @classmethod
    def counted(
        cls, source: Mapping[str, str], binding_keys: Sequence[str], subscriptions: int, counts: RouteMetrics
    ) -> Self:
        """A status whose numbers are those of the route's metrics now."""
        return cls(
            path=counts.path,
            source=source,
            binding_keys=binding_keys,
            subscribers=counts.subscribers,
            subscriptions=subscriptions,
            received=counts.received,
            sent=counts.sent,
            backlog_bytes=counts.backlog_bytes,
            dropped={reason.value: count for reason, count in counts.drops.items()},
            closed={reason.value: count for reason, count in counts.closes.items()},
            resets={reason.value: count for reason, count in counts.resets.items()},
        )


class Overview(Protocol):
    """What the listener asks of the running process."""

    @property
    def metrics(self) -> Metrics:
        """The process's metrics."""

    def alive(self) -> bool:
        """False only when this process cannot recover by itself."""

    def not_ready(self) -> str | None:
        """Why no new stream should be sent here, in one line without secrets; None when one may."""

    def routes(self) -> Sequence[RouteStatus]:
        """The routes that are served now."""

    async def publish(self, exchange: str, routing_key: str, body: bytes, properties: Properties) -> None:
        """Publish; return when the broker has confirmed. Raises `BrokerAway`, `BrokerRefused`."""

    async def drain(self) -> None:
        """End all streams as at SIGTERM, but stay; return when the last has ended. Twice is once."""


Handler = Callable[[Scope, Receive], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One line of the table."""

    path: str
    methods: tuple[str, ...]
    meaning: str
    handler: Handler


class AdminApplication:
    """The ASGI application; ``may_publish`` is the configuration's ``admin.publish``."""

    def __init__(self, overview: Overview, *, may_publish: bool) -> None:
        """Serve what ``overview`` tells; without ``may_publish`` publishing is answered with 403."""
        self._overview = overview
        self._may_publish = may_publish
        read, act = ("GET", "HEAD"), ("GET", "POST")
        self._endpoints = (
            Endpoint("/", read, "this page", self._index),
            Endpoint("/livez", read, "200 while this process can go on by itself", self._livez),
            Endpoint("/readyz", read, "200 while new streams are welcome, else 503 and why", self._readyz),
            Endpoint("/metrics", read, "for Prometheus", self._metrics),
            Endpoint("/routes", read, "every route and its counts, as JSON", self._routes),
            Endpoint("/drain", act, "end all streams; answers when the last has ended", self._drain),
        )
        self._publishing = Endpoint(
            "/publish/{exchange}/{routing_key}",
            ("POST",),
            "the body as one message; ?type= &message_id= &header.NAME=",
            self._publish,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a WebSocket is refused, the lifespan acknowledged."""
        if scope["type"] == "http":
            await (await self._answer(scope, receive)).send(send, head=scope["method"] == "HEAD")
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await _live(receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        try:
            answer = await self._handler(scope)(scope, receive)
        except Refusal as refusal:
            answer = refusal.answer
        return Answer(answer.status, answer.body, answer.content_type, (*COMMON_FIELDS, *answer.headers))

    def _handler(self, scope: Scope) -> Handler:
        path, method = scope["raw_path"].decode("latin-1"), scope["method"]
        endpoint = next((each for each in self._endpoints if each.path == path), None)
        if path.startswith("/publish/"):
            endpoint = self._publishing
        if endpoint is None:
            raise Refusal(404, "there is no such page; GET / lists all there are")
        if method not in endpoint.methods:
            allow = ", ".join(endpoint.methods)
            raise Refusal(405, f"{endpoint.path} answers to {allow}", allow=allow)
        return endpoint.handler

    async def _index(self, _: Scope, __: Receive) -> Answer:
        endpoints = [*self._endpoints, *([self._publishing] if self._may_publish else [])]
        lines = (f"{'|'.join(each.methods):10}{each.path:35}{each.meaning}\n" for each in endpoints)
        return Answer(200, ("sidecar\n\n" + "".join(lines)).encode())

    async def _livez(self, _: Scope, __: Receive) -> Answer:
        return Answer(200, b"alive\n") if self._overview.alive() else Answer(503, b"not alive: restart this process\n")

    async def _readyz(self, _: Scope, __: Receive) -> Answer:
        why = self._overview.not_ready()
        return Answer(200, b"ready\n") if why is None else Answer(503, f"not ready: {why}\n".encode())

    async def _metrics(self, scope: Scope, _: Receive) -> Answer:
        text, content_type = self._overview.metrics.render(header(scope, b"accept") or "")
        return Answer(200, text, content_type)

    async def _routes(self, _: Scope, __: Receive) -> Answer:
        told = {"routes": [asdict(status) for status in self._overview.routes()]}
        return Answer(200, json.dumps(told, indent=2).encode() + b"\n", "application/json")

    async def _drain(self, scope: Scope, _: Receive) -> Answer:
        refuse_strangers(scope)
        await self._overview.drain()
        return Answer(200, b"drained\n")

    async def _publish(self, scope: Scope, receive: Receive) -> Answer:
        if not self._may_publish:
            raise Refusal(403, "publishing is off here; admin.publish: true in the configuration turns it on")
        refuse_strangers(scope)
        message = await read_publication(scope, receive)
        with trio.move_on_after(PUBLISH_WITHIN):
            return await self._confirmed(message.exchange, message.routing_key, message.body, message.properties)
        raise Refusal(503, f"the broker has not confirmed within {PUBLISH_WITHIN:g} seconds; it may have the message")

    async def _confirmed(self, exchange: str, routing_key: str, body: bytes, properties: Properties) -> Answer:
        try:
            await self._overview.publish(exchange, routing_key, body, properties)
        except BrokerRefused as error:
            raise Refusal(409, f"the broker refused: {error}") from None
        except BrokerAway as error:
            raise Refusal(503, f"the broker is away: {error}", retry_after="5") from None
        return Answer(204)


async def _live(receive: Receive, send: Send) -> None:
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})
