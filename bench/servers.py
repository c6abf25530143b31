"""The servers that are compared: how each is started, which protocols it speaks and how it is fed.

Strategy: data. A `Server` is a name, its protocols and a function from a `Place` (ports, directory, protocol) to a
`Start` (command, environment, what to wait for). Everybody gets one process and the same queue in the same RabbitMQ,
save nchan, which knows no RabbitMQ and is published to by HTTP. Where requests are passed on (the protocol `PROXY`),
everybody has the same application behind.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.build import BUILD, PEERS, nchan_module, tool

PLAIN = frozenset({"h1", "h2"})
ALL = frozenset({"h1", "h2", "h1s", "h2s"})
PROXY = "proxy"  # no event streams: HTTP/1.1 requests that go through to the origin
REPLAYED = "replayed"  # the routing key of messages that the sidecar's stream keeps; no other work uses it


@dataclass(frozen=True)
class Place:
    """Where one run of one server happens."""

    directory: Path
    protocol: str  # h1, h2; with an s over TLS; or PROXY
    port: int
    side_port: int  # nchan's publisher, the sidecar's admin listener
    rabbit_port: int
    origin_port: int

    @property
    def amqp_url(self) -> str:
        """The broker."""
        return f"amqp://guest:guest@127.0.0.1:{self.rabbit_port}/"

    @property
    def tls(self) -> bool:
        """Whether the listener speaks TLS."""
        return self.protocol.endswith("s")


@dataclass(frozen=True)
class Start:
    """How a program is started, and which path of which port says 200 once it is ready (default: it listens)."""

    command: list[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)
    ready: str | None = None


@dataclass(frozen=True)
class Server:
    """One server of the comparison."""

    name: str
    label: str
    protocols: frozenset[str]
    start: Callable[[Place], Start]
    fed_by: str = "amqp"
    nobody_path: str | None = None  # a stream that no message of the benchmark reaches, where one is needed


def _floor(*options: str) -> Callable[[Place], Start]:
    return lambda place: Start(
        [BUILD / "floor", str(place.port), str(place.rabbit_port), "--heartbeat", "15", *options]
    )


def _sidecar(place: Place) -> Start:
    """A small configuration; the backlog is large, so that a busy machine does not end a stream."""
    listen: dict[str, object] = {"bind": f"127.0.0.1:{place.port}"}
    if place.tls:
        listen["tls"] = {"certificate": str(BUILD / "tls.crt"), "key": str(BUILD / "tls.key")}
    source = {"exchange": "bench", "declare": {"type": "topic", "durable": True}, "binding_key": "#"}
    backlog = {"events": 1_000_000, "bytes": "256MiB"}
    config = {
        "broker": {"url": place.amqp_url},
        "listen": [listen],
        "admin": {"bind": f"127.0.0.1:{place.side_port}"},
        "upstream": {"url": f"http://127.0.0.1:{place.origin_port}"},
        "routes": [
            {"path": "/events", **source, "backlog": backlog},
            {"path": "/others", **source, "where": {"routing_key": "nobody.publishes.this"}},
            {"path": "/replay", **source, "binding_key": REPLAYED, "replay": {"stream": "bench.events"}},
        ],
    }
    path = place.directory / "sidecar.yaml"
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML
    return Start([sys.executable, "-m", "sidecar", "run", "-c", path], ready="/readyz")


def _nchan(place: Place) -> Start:
    tls = f"ssl_certificate {BUILD / 'tls.crt'}; ssl_certificate_key {BUILD / 'tls.key'};" if place.tls else ""
    words = {"h1": "", "h2": " http2", "h1s": " ssl", "h2s": " ssl http2"}[place.protocol]
    text = string.Template((PEERS / "nginx/nginx.conf").read_text()).substitute(
        module=nchan_module(),
        directory=place.directory,
        listen=f"{place.port}{words} backlog=4096",
        publish_port=place.side_port,
        tls=tls,
    )
    (place.directory / "nginx.conf").write_text(text)
    return Start([tool("nginx") or "nginx", "-p", place.directory, "-c", place.directory / "nginx.conf"])


def _nginx(place: Place) -> Start:
    text = string.Template((PEERS / "nginx/proxy.conf").read_text()).substitute(
        directory=place.directory, port=place.port, origin_port=place.origin_port
    )
    (place.directory / "nginx.conf").write_text(text)
    return Start([tool("nginx") or "nginx", "-p", place.directory, "-c", place.directory / "nginx.conf"])


def _origin(place: Place) -> Start:
    return Start([BUILD / "origin", str(place.port)])


def _uvicorn(place: Place) -> Start:
    tls: list[str | Path] = (
        ["--ssl-certfile", BUILD / "tls.crt", "--ssl-keyfile", BUILD / "tls.key"] if place.tls else []
    )
    fast = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    command: list[str | Path] = [
        BUILD / "venv/bin/uvicorn",
        "--app-dir",
        PEERS / "uvicorn",
        "--port",
        str(place.port),
        *fast,
        *tls,
    ]
    return Start([*command, "--backlog", "4096", "app:app"], {"AMQP_URL": place.amqp_url})


def _listener(place: Place) -> dict[str, str]:
    tls = {"TLS_CERTIFICATE": str(BUILD / "tls.crt"), "TLS_KEY": str(BUILD / "tls.key")} if place.tls else {}
    h2 = {"H2": "1"} if place.protocol.startswith("h2") else {}
    return {"PORT": str(place.port), "AMQP_URL": place.amqp_url, **tls, **h2}


def _node(script: str) -> Callable[[Place], Start]:
    return lambda place: Start([tool("node") or "node", BUILD / "node" / script], _listener(place))


def _go(place: Place) -> Start:
    return Start([BUILD / "go"], _listener(place))


FLOOR = Server("floor", "C send() loop (the floor)", frozenset({"h1"}), _floor())
JOINING_FLOOR = Server("floor-join", "the floor, joining what came together", frozenset({"h1"}), _floor("--join"))
SIDECAR = Server("sidecar", "sidecar", ALL | {PROXY}, _sidecar, nobody_path="/others")
NGINX = Server("nginx", "nginx proxy_pass", frozenset({PROXY}), _nginx)
ORIGIN = Server("origin", "the application itself, with no proxy before it", frozenset({PROXY}), _origin)
PEER_SERVERS = (
    Server("nchan", "nginx + nchan (C; published to by HTTP)", ALL, _nchan, fed_by="http"),
    Server("go", "Go net/http + amqp091-go", ALL, _go),
    Server("node", "Node.js http + amqplib", ALL, _node("plain.js")),
    Server("better-sse", "Node.js + better-sse", ALL, _node("better.js")),
    Server("uvicorn", "uvicorn + sse-starlette + aio-pika", frozenset({"h1", "h1s"}), _uvicorn),
)
SERVERS = (FLOOR, JOINING_FLOOR, SIDECAR, *PEER_SERVERS, NGINX, ORIGIN)
# Which built part a peer stands on.
NEEDS = {"nchan": "nchan", "nginx": "nginx", "go": "go", "node": "node", "better-sse": "node", "uvicorn": "uvicorn"}
