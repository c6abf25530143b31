"""``sidecar publish``: messages to a broker, each confirmed before the next.

Strategy: two ways out behind one small port. The broker's way connects as the service does, with its configuration;
the admin way is one request a message to a running sidecar: ``POST {URL}/publish/{exchange}/{routing_key}``, both
percent-encoded, the body as it is, its type in Content-Type, the rest in the query: ``type``, ``message_id``,
``header.NAME``. One time limit holds for each message, and for connecting.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Protocol
from urllib.parse import quote

import httpx
import trio
import typer

from sidecar.amqp import Properties
from sidecar.broker import open_broker
from sidecar.broker.port import Broker, BrokerAway, BrokerError
from sidecar.cli.configuration import DEFAULT_PATH, ConfigPath, read_or_exit
from sidecar.cli.output import reason, tell
from sidecar.config import Config
from sidecar.config.model import BrokerSettings
from sidecar.config.values import GrammarError, seconds
from sidecar.observe import log

LINE_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of one line of standard input, as many as a running sidecar takes in a request."""


class PublishError(Exception):
    """A message was not published, or nobody can say; the text is one line for people."""


class Publisher(Protocol):
    """A way to the broker."""

    async def __call__(self, body: bytes) -> None:
        """Publish one message; return when the broker has confirmed it. Raises `PublishError`, `BrokerError`."""


Way = Callable[[], AbstractAsyncContextManager[Publisher]]


def publish(
    exchange: Annotated[
        str, typer.Argument(metavar="EXCHANGE", help="The exchange; '' is the default one.", show_default=False)
    ],
    routing_key: Annotated[
        str, typer.Argument(metavar="ROUTING_KEY", help="The routing key; '' for none.", show_default=False)
    ],
    body: Annotated[
        str | None, typer.Argument(metavar="BODY", help="The message; absent: a message for each line of input.")
    ] = None,
    config: ConfigPath = DEFAULT_PATH,
    admin: Annotated[str | None, typer.Option(help="A running sidecar's admin address, like its log shows.")] = None,
    header: Annotated[list[str] | None, typer.Option(help="A header of the message, NAME=VALUE.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="The message's type.")] = None,
    message_id: Annotated[str | None, typer.Option(help="The message's id.")] = None,
    content_type: Annotated[str | None, typer.Option(help="The body's media type.")] = None,
    timeout: Annotated[str, typer.Option(help="How long to wait for the broker: 500ms, 10s, 1m.")] = "10s",
) -> None:
    """Publish one message, or one for each line of standard input, and exit when the broker has confirmed them.

    Exits with 1 at the first message that was refused, or not confirmed in time; those before it are published.
    """
    properties = Properties(
        content_type=content_type, type=type_, message_id=message_id, headers=dict(_pair(text) for text in header or ())
    )
    within = _duration(timeout)
    if admin is not None:
        way = partial(_to_admin, _admin_url(admin, exchange, routing_key), properties, within)
    else:
        settings = _reachable(read_or_exit(config), config)
        way = partial(_to_broker, settings, exchange, routing_key, properties, within)
    bodies = [body.encode("utf-8", "surrogateescape")] if body is not None else _lines(sys.stdin.fileno())
    raise typer.Exit(_run(way, bodies, within))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is no header; write NAME=VALUE", param_hint="--header")
    return name, value


def _duration(text: str) -> float:
    try:
        return seconds(text)
    except GrammarError as error:
        raise typer.BadParameter(f"{error.fact}; write {error.way_out}", param_hint="--timeout") from None


def _admin_url(admin: str, exchange: str, routing_key: str) -> str:
    if not admin.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{admin} has no http:// or https:// in front", param_hint="--admin")
    return f"{admin.rstrip('/')}/publish/{_segment(exchange)}/{_segment(routing_key)}"


def _segment(text: str) -> str:
    # A segment of one or two dots would be taken for a step up in the path (RFC 3986 §5.2.4), encoded or not.
    if text in (".", ".."):
        raise typer.BadParameter(f"{text!r} cannot stand in a URL; publish it with -c instead", param_hint="--admin")
    return quote(text, safe="", errors="surrogateescape")


def _reachable(config: Config, path: Path) -> BrokerSettings:
    if any(url.get_secret_value().startswith("memory:") for url in config.broker.url):
        bind = config.admin.bind.replace("0.0.0.0:", "127.0.0.1:")
        tell(
            f"{path}: broker.url is memory://, a broker inside the running sidecar; publish through that one: "
            f"--admin {'URL' if bind.startswith('unix:') else 'http://' + bind}"
        )
        raise typer.Exit(1)
    return config.broker


def _lines(file: int) -> Iterator[bytes]:
    """Yield lines without their ends; an empty line is an empty message."""
    # Not by sys.stdin: a thread left waiting in it would keep the interpreter from ending.
    with open(file, "rb", closefd=False) as stream:
        while line := stream.readline(LINE_LIMIT + 1):
            if len(line) > LINE_LIMIT:
                raise PublishError(f"a line of standard input is longer than {LINE_LIMIT} bytes")
            yield line.removesuffix(b"\n").removesuffix(b"\r")


def _run(way: Way, bodies: Iterable[bytes], within: float) -> int:
    published = 0

    def count() -> None:
        nonlocal published
        published += 1

    try:
        trio.run(_publish_all, way, iter(bodies), within, count)
    except (PublishError, BrokerError, BaseExceptionGroup, KeyboardInterrupt) as error:
        tell(_explained(error) + (f" ({published} published before it)" if published else ""))
        return 1
    return 0


def _explained(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, PublishError | BrokerError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    raise error


async def _publish_all(way: Way, bodies: Iterator[bytes], within: float, count: Callable[[], None]) -> None:
    async with way() as publisher:
        # Standard input may wait for a person, and the broker's heartbeats must not wait with it.
        while (body := await trio.to_thread.run_sync(next, bodies, None, abandon_on_cancel=True)) is not None:
            await _within(within, publisher, body)
            count()


async def _within(within: float, publisher: Publisher, body: bytes) -> None:
    with trio.move_on_after(within) as limit:
        await publisher(body)
    if limit.cancelled_caught:
        raise PublishError(f"the broker has not confirmed within {within:g} s; it may have the message")


@asynccontextmanager
async def _to_admin(url: str, properties: Properties, within: float) -> AsyncIterator[Publisher]:
    async with httpx.AsyncClient(timeout=within) as client:
        query = {"type": properties.type, "message_id": properties.message_id}
        query |= {f"header.{name}": str(value) for name, value in properties.headers.items()}
        present = {name: value for name, value in query.items() if value is not None}
        fields = {"Content-Type": properties.content_type} if properties.content_type is not None else {}

        async def post(body: bytes) -> None:
            try:
                answer = await client.post(url, params=present, content=body, headers=fields)
            except (httpx.RequestError, httpx.InvalidURL) as error:
                raise PublishError(f"{url}: {reason(error)}") from error
            if not answer.is_success:
                fact = answer.text.strip().partition("\n")[0] or answer.reason_phrase
                raise PublishError(f"{url}: {answer.status_code}: {fact}")

        yield post


@asynccontextmanager
async def _to_broker(
    settings: BrokerSettings, exchange: str, routing_key: str, properties: Properties, within: float
) -> AsyncIterator[Publisher]:
    broker = open_broker(settings)
    # What the service would log, this command tells in its own words, once, and only when it failed.
    with open(os.devnull, "w") as nowhere:
        log.configure(nowhere)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.run)
            await _connected(broker, within)
            yield lambda body: broker.publish(exchange, routing_key, body, properties)
            nursery.cancel_scope.cancel()


async def _connected(broker: Broker, within: float) -> None:
    with trio.move_on_after(within):
        await broker.wait_connected()
        return
    raise BrokerAway(f"no connection to the broker within {within:g} s: {broker.problem or 'it does not answer'}")
