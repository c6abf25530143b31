"""Drives the admin application with one request, as a server would, before a process that is a stand-in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import trio

from sidecar.amqp import Properties
from sidecar.http.admin import AdminApplication
from sidecar.http.status import RouteStatus
from sidecar.observe.metrics import Metrics

Message = tuple[str, str, bytes, Properties]


class Process:
    """An `Overview` that does what the test wants."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.problem: str | None = None
        self.is_alive = True
        self.published: list[Message] = []
        self.error: Exception | None = None
        self.streams_ended = trio.Event()
        self.drains = 0

        self.addresses: list[str] = ["http://127.0.0.1:8080"]
        self.explained: dict[str, dict[str, object]] = {}

    def explain(self, path: str) -> Mapping[str, object] | None:
        return self.explained.get(path)

    def alive(self) -> bool:
        return self.is_alive

    def not_ready(self) -> str | None:
        return self.problem

    def routes(self) -> Sequence[RouteStatus]:
        counts = self.metrics.route("/events/orders/{order}")
        return [RouteStatus.counted({"exchange": "orders"}, ["order.{order}.*"], 2, counts)]

    async def publish(self, exchange: str, routing_key: str, body: bytes, properties: Properties) -> None:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.published.append((exchange, routing_key, body, properties))

    async def drain(self) -> None:
        self.drains += 1
        await self.streams_ended.wait()


@dataclass
class Response:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


async def request(
    application: AdminApplication,
    method: str,
    target: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: Iterable[bytes] | None = (),
) -> Response:
    """One exchange. ``body`` is what arrives part by part; None is a client that leaves instead."""
    raw_path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "query_string": query.encode("latin-1"),
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    incoming: list[dict[str, Any]] = [{"type": "http.request", "body": part, "more_body": True} for part in body or ()]
    incoming.append({"type": "http.request"} if body is not None else {"type": "http.disconnect"})
    response = Response()
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return incoming.pop(0) if incoming else await trio.sleep_forever()

    async def send(message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    await application(scope, receive, send)
    start, *rest = sent
    assert start["type"] == "http.response.start"
    assert [message["type"] for message in rest] == ["http.response.body"]
    response.status = start["status"]
    response.headers = {name.decode(): value.decode() for name, value in start["headers"]}
    response.body = rest[0]["body"]
    return response


async def publish(admin: AdminApplication, target: str = "/publish/orders/order.1.paid", **more: Any) -> Response:
    return await request(admin, "POST", target, **more)
