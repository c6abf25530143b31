"""A process whose routes ask for tokens, with a real RabbitMQ; it takes the place of the one most tests share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.access.requests import AUDIENCE, ISSUER, claims, public_pem, rsa_key, signed
from tests.e2e.conftest import Client
from tests.lab import wire
from tests.lab.certificates import Certificates
from tests.lab.process import Service, running
from tests.lab.publisher import Publisher, publishing
from tests.lab.rabbitmq import RabbitNode

EXCHANGE = "e2e.access"
ACCEPT = ("accept", "text/event-stream")
APP, OTHER = "https://app.example", "https://evil.example"
CORS = {"origins": [APP], "credentials": True}


def token(sub: str, *, lasts: float = 60, **more: object) -> str:
    """A good token of this reader, for so many seconds from now."""
    return signed(claims(sub=sub, exp=time.time() + lasts, **more))


def bearer(text: str) -> wire.Headers:
    """The header fields of a reader who brings this token."""
    return [ACCEPT, ("authorization", f"Bearer {text}")]


def config(url: str, pem: Path) -> dict[str, Any]:
    """Routes with one key and one issuer."""
    tokens = {"keys": {"pem": str(pem)}, "algorithms": ["RS256", "PS256"], "issuer": ISSUER, "audience": AUDIENCE}

    def route(path: str, key: str, access: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        access = {"jwt": tokens, **(access or {})}
        source = {"exchange": EXCHANGE, "declare": {"type": "topic"}, "binding_key": key}
        return {"path": path, "access": access, "retry": "100ms-200ms", **source, **options}

    named = {"jwt": {**tokens, "from": ["header", "cookie:session", "query:ticket"]}, "cors": CORS}
    exact = {"jwt": {**tokens, "leeway": "0s"}}
    wanted = {"jwt": {**tokens, "require": {"scope": "orders:read", "orders": "{order}"}}}
    by_claim = {"limit": {"per_client": 2, "client": "{claims.sub}"}, "cors": CORS}
    queue = {
        "queue": "inbox.{claims.sub}",
        "declare": {"expires": "1m", "bind": [{"exchange": EXCHANGE, "binding_key": "user.{claims.sub}"}]},
    }
    return {
        "broker": {"url": url},
        "trusted_proxies": ["127.0.0.1/32"],
        "routes": [
            route("/mine", "user.{claims.sub}", named),
            route("/exact", "user.{claims.sub}", exact),
            route("/orders/{order}", "order.{order}", wanted),
            route("/where/{name}", "where.{name}", where={"headers.tenant": "{claims.tenant}"}),
            route("/event/{name}", "where.{name}", event="{name}"),
            route("/past", "user.{claims.sub}", replay={"stream": "e2e.access.past"}),
            route("/remembered", "user.{claims.sub}", replay={"memory": 10}),
            {"path": "/inbox", "access": {"jwt": tokens}, **queue},
            route("/few", "user.{claims.sub}", by_claim),
            route("/few/honest", "user.{claims.sub}", by_claim, overload="503"),
            route("/full", "user.#", {"limit": {"streams": 3}}),
            {
                "path": "/open",
                "exchange": EXCHANGE,
                "declare": {"type": "topic"},
                "access": {"limit": {"per_client": 1}, "cors": {"origins": ["*"]}},
            },
        ],
    }


@pytest.fixture(scope="session")
def guarded(
    rabbitmq: RabbitNode, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Publisher]]:
    """The process, and a publisher to its exchange."""
    directory, url = tmp_path_factory.mktemp("guarded"), rabbitmq.url(rabbitmq.vhost())
    pem = directory / "key.pem"
    pem.write_bytes(public_pem(rsa_key()))
    tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
    with running(directory, config(url, pem), tls=tls) as service, publishing(url) as publisher:
        publisher.exchange(EXCHANGE, "topic", durable=True)
        yield service, publisher


@pytest.fixture
def service(guarded: tuple[Service, Publisher]) -> Service:
    """In the place of the process that most tests share."""
    return guarded[0]


@pytest.fixture
def publisher(guarded: tuple[Service, Publisher]) -> Publisher:
    """In the place of the publisher that most tests share."""
    return guarded[1]


@pytest.fixture(params=["http/1.1", "h2"])
async def both(
    request: pytest.FixtureRequest, nursery: trio.Nursery, service: Service, certificates: Certificates
) -> Client:
    """A client of HTTP/1.1, and one of HTTP/2."""
    return Client(nursery, service, certificates, request.param)
