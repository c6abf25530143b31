"""What a configuration says, once it has been read: frozen values, with their defaults and their descriptions.

Strategy: this is the one place where a key is made. A key is a field here: its name, its type (from
`sidecar.config.values` where it has a grammar of its own), its default, and the docstring under it, which becomes the
description in the JSON Schema. What a value must be by itself stands in its type; what concerns several keys at once
stands in `sidecar.config.checks`. Durations are seconds, sizes are bytes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, GetJsonSchemaHandler, SecretStr
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from sidecar.config.access import Access
from sidecar.config.settings import Settings
from sidecar.config.values import (
    DURATION_SCHEMA,
    Bind,
    BindingKeys,
    BrokerHeartbeat,
    BrokerUrls,
    Duration,
    DurationRange,
    ExchangeName,
    FileName,
    FilterValues,
    Gather,
    PathText,
    Period,
    QueueName,
    QueueTemplate,
    Size,
    Table,
    TemplateText,
    TrustedProxies,
    UpstreamUrl,
    Workers,
    positive,
    seconds,
)

EVENT_FIELDS = ("routing_key", "exchange", "type", "message_id", "app_id")
"""What of a message a template or a filter may name, besides ``headers.NAME``."""

SOURCES = ("exchange", "stream", "queue")
"""The keys of a route of which exactly one says where its messages come from."""


class BrokerTls(Settings):
    """TLS towards the broker."""

    ca: FileName | None = None
    """The certificates (PEM) of the authorities to trust; absent: the system's."""
    certificate: FileName | None = None
    """The client certificate (PEM), for brokers that ask for one."""
    key: FileName | None = None
    """The client certificate's private key (PEM)."""


class Reconnect(Settings):
    """How long to wait before the next try to connect: a random time up to a bound that doubles from min to max."""

    min: Period = 0.5
    """The first bound."""
    max: Period = 30.0
    """The last bound."""


class BrokerSettings(Settings):
    """The message broker."""

    url: BrokerUrls = Field(
        default_factory=lambda: [SecretStr("amqp://guest:guest@localhost:5672/")], min_length=1, validate_default=False
    )
    """One URL, or a list tried in turn: amqp, amqps, or memory:// for the embedded broker."""
    tls: BrokerTls | None = None
    """Certificates; for amqps only."""
    heartbeat: BrokerHeartbeat = 30.0
    """AMQP's heartbeat: a connection silent for twice this long is given up."""
    reconnect: Reconnect = Reconnect()
    """The waits between tries, with full jitter."""
    gather: Gather = 0.002
    """How long messages may wait for others, where sending each on by itself has become work; 0s: not at all."""


class ServerTls(Settings):
    """TLS of a listener, offering h2 and http/1.1 by ALPN."""

    certificate: FileName
    """The certificate chain (PEM)."""
    key: FileName
    """The private key (PEM)."""


class Listener(Settings):
    """An address that serves the routes."""

    bind: Bind
    """host:port, [v6]:port or unix:/path."""
    tls: ServerTls | None = None
    """Certificates; absent: HTTP/1.1, and HTTP/2 by prior knowledge, in clear text."""


class Admin(Settings):
    """The listener for operators: health, metrics, debug page. Keep it private."""

    bind: Bind = "127.0.0.1:9400"
    """host:port, [v6]:port or unix:/path."""
    publish: bool = False
    """Whether POST /publish/{exchange}/{routing_key} is served."""


class Drain(Settings):
    """How the end comes."""

    within: Duration = 20.0
    """The time over which open streams are ended."""


class QueueBinding(Settings):
    """Which messages go into a queue."""

    exchange: ExchangeName
    """The exchange to bind the queue to."""
    binding_key: TemplateText = "#"
    """The binding key; may hold placeholders."""


class Declare(Settings):
    """How the route's exchange, or its queue, is declared. It must not exist already in another form."""

    type: Literal["direct", "topic", "fanout", "headers"] | None = None
    """The exchange's type."""
    durable: bool = True
    """Whether it outlives a restart of the broker."""
    auto_delete: bool = False
    """Whether an exchange goes with its last binding."""
    internal: bool = False
    """Whether clients may not publish to the exchange."""
    expires: Period | None = None
    """A queue nobody has consumed for so long is deleted, with what waits in it."""
    max_length: Annotated[int, Field(ge=1)] | None = None
    """The most messages that wait in a queue; the oldest go first."""
    bind: list[QueueBinding] = Field(default_factory=list)
    """What fills the queue."""
    arguments: Table = Field(default_factory=dict)
    """Further arguments, such as alternate-exchange."""


class Replay(Settings):
    """What a returning client gets after its last event ID: exactly one of stream and memory."""

    stream: QueueName | None = None
    """A RabbitMQ stream that is declared, bound to the exchange, and read. Routes may share it."""
    max_age: Period | None = None
    """The stream's messages are kept at least so long."""
    max_bytes: Size | None = None
    """The stream keeps about so many bytes; retention drops whole segments."""
    segment_bytes: Size | None = None
    """The size of a segment; absent: the broker's, 500 MB."""
    memory: Annotated[int, Field(ge=1)] | None = None
    """Instead of a stream: the last so many events of each subscription, in this process."""


class BacklogLimits(Settings):
    """What one reader may fall behind before something is done about it."""

    events: Annotated[int, Field(ge=1)] = 1000
    """The most events waiting."""
    bytes: Size = 1024 * 1024
    """The most bytes waiting; one larger event passes alone."""
    when_full: Literal["disconnect", "drop_oldest", "replay"] | None = None
    """disconnect ends the stream; drop_oldest drops events and says so with a reset; replay sends a slow reader back
    to the route's replay. Absent: replay where the route has one, else disconnect."""


class Heartbeat(Settings):
    """How a stream without traffic shows that it is alive; a duration alone is `every`."""

    every: Period = 15.0
    """The longest time without a byte."""
    event: bool = False
    """Whether the sign of life is the event sidecar.heartbeat, which scripts hear, instead of a comment."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Both ways to write it."""
        schema = handler.resolve_ref_schema(handler(core))
        keys = dict(schema)
        schema.clear()
        schema["anyOf"] = [DURATION_SCHEMA, keys]
        return schema


def _heartbeat(value: object) -> object:
    return {"every": positive(seconds(value))} if isinstance(value, str) else value


HeartbeatOrPeriod = Annotated[Heartbeat, BeforeValidator(_heartbeat)]


class RouteOptions(Settings):
    """Everything a route may say but its path and its source; what `defaults` may hold."""

    binding_key: BindingKeys = Field(default_factory=lambda: ["#"], min_length=1)
    """One binding key or a list. May hold {parameter} of the path and {query.name}."""
    binding_headers: Table | None = None
    """A headers exchange's arguments: x-match, and the headers to match; texts may hold placeholders."""
    declare: Declare | None = None
    """How to declare the exchange or the queue; absent: it must exist already."""
    replay: Replay | None = None
    """What a returning client gets; absent: only what comes from now on."""
    prefetch: Annotated[int, Field(ge=1, le=65535)] = 20
    """On a queue: the messages a connection may have that its socket has not taken."""
    event: TemplateText | None = None
    """The event's type, a template over the message's fields and the route's parameters; absent: none."""
    data: Literal["body", "envelope"] = "body"
    """body sends the message's body; envelope one JSON object with its properties too."""
    where: dict[str, TemplateText] = Field(default_factory=dict)
    """Message fields and the values they must have; messages that differ are not sent."""
    heartbeat: HeartbeatOrPeriod = Heartbeat()
    """A sign of life is sent after that long without a byte: a comment, or an event that scripts can hear."""
    retry: DurationRange = (2.0, 6.0)
    """How long a browser waits before it reconnects; each connection gets its own value in the range."""
    max_age: Period | None = None
    """Streams end after that long, jittered down to 80 %; absent: never."""
    backlog: BacklogLimits = BacklogLimits()
    """What one reader may fall behind."""
    overload: Literal["retry", "503"] = "retry"
    """What a stream that cannot be served now gets: 200 with a retry, or an honest 503."""
    access: Access | None = None
    """Who may read; absent: everybody who reaches the listener."""


_ONE_SOURCE: JsonDict = {
    "oneOf": [
        {"required": ["exchange"], "properties": {"declare": {"required": ["type"]}}},
        {"required": ["stream"]},
        {"required": ["queue"]},
    ]
}


class Route(RouteOptions):
    """A path, and the messages it serves as an event stream."""

    model_config = ConfigDict(json_schema_extra=_ONE_SOURCE)

    path: PathText
    """The path; {name} is one whole segment; the most specific route wins."""
    exchange: ExchangeName | None = None
    """The source: an exchange of the broker, subscribed live."""
    stream: QueueName | None = None
    """The source: an existing stream; binding_key filters on its messages' routing keys."""
    stream_filter: Annotated[FilterValues, Field(min_length=1)] | None = None
    """On a stream: one value or a list; only messages whose header x-stream-filter-value is one of them are sent."""
    queue: QueueTemplate | None = None
    """The source: a queue whose messages the route's connections share; may hold placeholders."""


DECIDED = frozenset({"access", "binding_headers", "binding_key", "prefetch", "where"})
"""What of a route's options the application decides by what it gives out: no defaults go into an offer."""


class Offer(RouteOptions):
    """An exchange or a stream that the application may subscribe its clients to, and how that is served."""

    exchange: ExchangeName | None = None
    """The source: an exchange of the broker, subscribed live."""
    stream: QueueName | None = None
    """The source: an existing stream; binding keys filter on its messages' routing keys."""


class UpstreamSettings(Settings):
    """The application beside which this runs, over HTTP/1.1."""

    url: UpstreamUrl
    """http://host:port, or unix:/path."""
    connect: Period = 5.0
    """The time for a connection to it; then 504."""
    answer: Period = 60.0
    """The time from the request's last byte to the head of the answer; then 504."""
    idle: Period = 300.0
    """The longest silence in the midst of a request, an answer or a WebSocket, on either side; then it is cut."""
    connections: Annotated[int, Field(ge=1)] = 1000
    """The most connections to it at once; beyond them 503."""
    subscribe: list[Offer] = Field(default_factory=list)
    """What its answers may subscribe clients to by the field Sidecar-Subscribe; absent: nothing."""


class Config(Settings):
    """The whole configuration."""

    broker: BrokerSettings = BrokerSettings()
    """Where the messages come from."""
    listen: list[Listener] = Field(default_factory=lambda: [Listener(bind="0.0.0.0:8080")], min_length=1)
    """The public addresses."""
    admin: Admin = Admin()
    """The operators' address."""
    upstream: UpstreamSettings | None = None
    """Who answers what no route takes; absent: 404."""
    trusted_proxies: TrustedProxies = Field(default_factory=list)
    """Addresses and networks whose X-Forwarded-* and Forwarded count; unix stands for peers on a unix socket."""
    drain: Drain = Drain()
    """How open streams end when the process does."""
    workers: Workers = 1
    """Processes that serve together on the listeners; auto: one for each processor that may be used."""
    defaults: RouteOptions = RouteOptions()
    """What every route says that does not say otherwise; mappings are merged key by key."""
    routes: list[Route] = Field(default_factory=list)
    """The paths and what they serve."""
