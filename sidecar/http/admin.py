"""The operators' listener: health, metrics, routes, publishing and draining, as one ASGI application.

Strategy: a table of paths, their methods and their handlers; everything else (404, 405 with Allow, HEAD, header
fields, refusals) follows from it. What the process is and does comes through the `Overview` port, so this module
knows neither hub nor broker's inside. Nothing here is for the public: no access rules, but neither may a browser be
made to publish or drain by a page that came from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Protocol
from urllib.parse import parse_qs

import trio

from sidecar.amqp import Properties
from sidecar.broker.port import BrokerAway, BrokerRefused
from sidecar.http.answer import Answer, Receive, Refusal, Scope, Send, header
from sidecar.http.explained import Row
from sidecar.http.page import page, static, wants_text
from sidecar.http.publish import read_publication, refuse_strange_readers, refuse_strangers
from sidecar.http.watch import Watch, Watched, Watching

PUBLISH_WITHIN = 10.0  # seconds for the broker to confirm

COMMON_FIELDS = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))


class Overview(Watched, Protocol):
    """What the listener asks of the running process."""

    def alive(self) -> bool:
        """False only when this process cannot recover by itself."""

    def explain(self, path: str) -> Row | None:
        """Which route a path meets, and what a client there would read; None where none takes it."""

    async def publish(self, exchange: str, routing_key: str, body: bytes, properties: Properties) -> None:
        """Publish; return when the broker has confirmed. Raises `BrokerAway`, `BrokerRefused`."""

    async def drain(self) -> None:
        """End all streams as at SIGTERM, but stay; return when the last has ended. Twice is once."""


Handler = Callable[[Scope, Receive], Awaitable[Answer | Watching]]


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
        self._watch = Watch(overview, may_publish=may_publish)
        read, act = ("GET", "HEAD"), ("GET", "POST")
        self._endpoints = (
            Endpoint("/", read, "the debug page; for Accept: text/plain this list", self._index),
            Endpoint("/livez", read, "200 while this process can go on by itself", self._livez),
            Endpoint("/readyz", read, "200 while new streams are welcome, else 503 and why", self._readyz),
            Endpoint("/metrics", read, "for Prometheus", self._metrics),
            Endpoint("/routes", read, "every route and its counts, as JSON", self._routes),
            Endpoint("/explain", read, "?path= which route a path meets, and who may read it, as JSON", self._explain),
            Endpoint("/overview/stream", read, "the same and what has just happened, as an event stream", self._stream),
            Endpoint("/drain", act, "end all streams; answers when the last has ended", self._drain),
        )
        meaning = "the body as one message; ?type= &message_id= &header.NAME="
        self._publishing = Endpoint("/publish/{exchange}/{routing_key}", ("POST",), meaning, self._publish)
        self._static = Endpoint("/static/{name}", read, "the page's files, and sidecar.js for yours", self._file)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a WebSocket is refused, the lifespan acknowledged."""
        if scope["type"] == "http":
            await (await self._answer(scope, receive)).send(send, head=scope["method"] == "HEAD")
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await _live(receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> Answer | Watching:
        try:
            answer = await self._handler(scope)(scope, receive)
        except Refusal as refusal:
            answer = refusal.answer
        if isinstance(answer, Watching):
            return answer
        own = {name for name, _ in answer.headers}
        common = (field for field in COMMON_FIELDS if field[0] not in own)
        return Answer(answer.status, answer.body, answer.content_type, (*common, *answer.headers))

    def _handler(self, scope: Scope) -> Handler:
        path, method = scope["raw_path"].decode("latin-1"), scope["method"]
        endpoint = next((each for each in self._endpoints if each.path == path), None)
        if path.startswith("/publish/"):
            endpoint = self._publishing
        elif path.startswith("/static/"):
            endpoint = self._static
        if endpoint is None:
            raise Refusal(404, "there is no such page; GET / lists all there are")
        if method not in endpoint.methods:
            allow = ", ".join(endpoint.methods)
            raise Refusal(405, f"{endpoint.path} answers to {allow}", allow=allow)
        return endpoint.handler

    async def _index(self, scope: Scope, _: Receive) -> Answer:
        if not wants_text(header(scope, b"accept") or ""):
            return page()
        endpoints = [*self._endpoints, self._static, *([self._publishing] if self._may_publish else [])]
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

    async def _explain(self, scope: Scope, _: Receive) -> Answer:
        path = parse_qs(scope["query_string"].decode("latin-1")).get("path", [""])[0]
        if not path.startswith("/"):
            raise Refusal(400, "which path? /explain?path=/events/orders/7; a ? or & inside of it is written %3F, %26")
        row = self._overview.explain(path)
        if row is None:
            raise Refusal(404, "no route takes this path")
        return Answer(200, json.dumps(row).encode() + b"\n", "application/json")

    async def _stream(self, scope: Scope, receive: Receive) -> Watching:
        refuse_strange_readers(scope)
        return self._watch.open(receive)

    async def _file(self, scope: Scope, _: Receive) -> Answer:
        return static(scope)

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
