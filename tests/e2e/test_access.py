"""Who may read, asked of a whole process: tokens, what they fill in, when they end, origins, limits, and silence.

The tables of all hostile tokens, origins and addresses are in `tests.access`, asked of the gate alone; here is a sample
of each, over real connections, with what follows from it: bindings, queues, replay, the log.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
import trio

from tests.access.requests import AUDIENCE, ISSUER, claims, part, public_pem, rsa_key, signed
from tests.access.test_hostile_tokens import HOSTILE
from tests.e2e.conftest import Client
from tests.lab import wire
from tests.lab.certificates import Certificates
from tests.lab.process import LogLine, Service, running
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


@pytest.fixture(scope="module")
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


# ---------------------------------------------------------------------- tokens

SAMPLE = (
    "alg none",
    "no alg",
    "HS256 with the public PEM",
    "RS256 whose signature is an HMAC",
    "no signature",
    "four parts",
    "another's signature",
    "another payload under the signature",
    "kid a path",
    "kid SQL",
    "jku of one's own",
    "jwk of one's own",
    "crit unknown",
    "header nested deeply",
    "payload a list",
    "another issuer",
    "another audience",
    "exp zero",
    "exp a text",
    "too long",
    "empty",
    "spaces inside",
    "a comma and another",
)


@pytest.mark.parametrize("name", SAMPLE)
async def test_a_hostile_token_is_told_what_is_wrong(both: Client, name: str) -> None:
    make, fact = HOSTILE[name]
    for path, headers in (
        ("/mine", bearer(make())),
        ("/mine", [ACCEPT, ("cookie", f"session={make()}")]),
        (f"/mine?ticket={quote(make())}", [ACCEPT]),
    ):
        response = await both.get(path, headers=headers)
        await response.until_end()
        assert response.status == 401
        said = f'Bearer realm="sidecar", error="invalid_token", error_description="{fact}"'
        assert response.header("www-authenticate") == said
        assert response.header("content-type") == "text/plain; charset=utf-8"
        assert response.body.decode() == f"{fact}\n"


async def test_who_may_read_reads_one_s_own(both: Client, publisher: Publisher, name: str) -> None:
    good = token(name)
    streams = [
        await both.listen("/mine", headers=bearer(good)),
        await both.listen("/mine", headers=[ACCEPT, ("cookie", f"a=b; session={good}")]),
        await both.listen(f"/mine?ticket={good}&x=1"),
    ]
    other = await both.listen("/mine", headers=bearer(token(f"{name}x")))
    publisher.publish(EXCHANGE, f"user.{name}", "yours")
    publisher.publish(EXCHANGE, f"user.{name}x", "another's")
    for stream in streams:
        await stream.until_events(1)
        assert stream.data == ["yours"]
    await other.until_events(1)
    assert other.data == ["another's"]


ROWS: dict[str, tuple[str, dict[str, object], int]] = {
    "the order in a list": ("/orders/7", {"orders": [6, 7]}, 200),
    "the order by itself": ("/orders/7", {"orders": "7"}, 200),
    "the order percent-encoded": ("/orders/%37", {"orders": "7"}, 200),
    "another order": ("/orders/8", {"orders": "7"}, 403),
    "no order": ("/orders/7", {}, 403),
    "orders as a mapping": ("/orders/7", {"orders": {"7": True}}, 403),
    "a wildcard": ("/orders/*", {"orders": "7"}, 403),
    "a wildcard that the token has": ("/orders/%23", {"orders": "#"}, 400),
    "two words that the token has": ("/orders/7.8", {"orders": "7.8"}, 400),
    "a scope too few": ("/orders/7", {"orders": "7", "scope": "orders:write"}, 403),
    "a scope that begins so": ("/orders/7", {"orders": "7", "scope": "orders:reader"}, 403),
    "a scope more": ("/orders/7", {"orders": "7", "scope": "a orders:read b"}, 200),
    "no scope": ("/orders/7", {"orders": "7", "scope": None}, 403),
    "a reader without a name": ("/mine", {"sub": None}, 403),
    "a name that is no text": ("/mine", {"sub_": 1, "sub": True}, 403),
    "an empty name": ("/mine", {"sub": ""}, 400),
    "a name with a wildcard": ("/mine", {"sub": "*"}, 400),
    "a name with the other wildcard": ("/mine", {"sub": "#"}, 400),
    "a name of two words": ("/mine", {"sub": "ada.eve"}, 400),
    "a name with a line's end": ("/mine", {"sub": "ada\r\neve"}, 400),
    "a name too long": ("/mine", {"sub": "x" * 256}, 400),
    "a name of other letters": ("/mine", {"sub": "žofie ♥"}, 200),
    "a queue without a name": ("/inbox", {"sub": None}, 403),
    "a queue with a wildcard": ("/inbox", {"sub": "a.#"}, 400),
    "where without its claim": ("/where/a", {}, 403),
    "where with its claim": ("/where/a", {"tenant": "acme"}, 200),
    "a time that is none": ("/past?since=yesterday", {}, 400),
}


@pytest.mark.parametrize("row", ROWS)
async def test_what_a_token_opens(both: Client, row: str) -> None:
    path, more, status = ROWS[row]
    payload = {**claims(exp=time.time() + 60), **more}
    payload = {key: value for key, value in payload.items() if value is not None}
    good = jwt.PyJWS().encode(_json(payload), rsa_key(), "RS256")
    response = await both.get(path, headers=bearer(good))
    assert response.status == status, response
    if status == 403 and path.startswith("/orders/"):
        assert 'error="insufficient_scope"' in (response.header("www-authenticate") or "")


def _json(payload: dict[str, object]) -> bytes:
    return jwt.utils.base64url_decode(part(payload))


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", [ACCEPT], 405),
        ("GET", [("accept", "application/json")], 406),
        ("OPTIONS", [ACCEPT], 405),
        ("GET", [ACCEPT], 401),
        ("HEAD", [ACCEPT], 401),
        ("GET", [ACCEPT, ("authorization", "Basic YTpi")], 401),
        ("GET", [ACCEPT, ("authorization", "Bearer")], 401),
        ("GET", [ACCEPT, ("authorization", "Bearer a"), ("authorization", "Bearer a")], 401),
    ],
)
async def test_no_token_no_stream(both: Client, method: str, headers: list[tuple[str, str]], status: int) -> None:
    assert (await both.get("/mine", method=method, headers=headers)).status == status


async def test_a_filter_holds_what_the_token_says(both: Client, publisher: Publisher, name: str) -> None:
    acme = await both.listen(f"/where/{name}", headers=bearer(token("ada", tenant="acme")))
    evil = await both.listen(f"/where/{name}?tenant=acme", headers=bearer(token("eve", tenant="evil")))
    publisher.publish(EXCHANGE, f"where.{name}", "acme's", headers={"tenant": "acme"})
    publisher.publish(EXCHANGE, f"where.{name}", "nobody's")
    publisher.publish(EXCHANGE, f"where.{name}", "evil's", headers={"tenant": "evil"})
    publisher.publish(EXCHANGE, f"where.{name}", "acme's too", headers={"tenant": "acme"})
    await acme.until_events(2)
    await evil.until_events(1)
    assert (acme.data, evil.data) == (["acme's", "acme's too"], ["evil's"])


async def test_a_queue_of_one_s_own_waits_for_its_reader(client: Client, publisher: Publisher, name: str) -> None:
    good = bearer(token(name))
    first = await wire.open_http1(client.nursery, client.service.http, "/inbox", headers=good)
    await first.response.until_open()
    await first.aclose()
    publisher.publish(EXCHANGE, f"user.{name}", "while you were away", mandatory=True)
    other = await client.listen("/inbox", headers=bearer(token(f"{name}-other")))
    again = await client.listen("/inbox", headers=good)
    await again.until_events(1)
    publisher.publish(EXCHANGE, f"user.{name}-other", "another's")
    await other.until_events(1)
    assert (again.data, other.data) == (["while you were away"], ["another's"])


# ---------------------------------------------------------------------- the end of a right


async def test_a_stream_ends_with_its_token_and_not_before(both: Client, publisher: Publisher, name: str) -> None:
    before = both.service.sidecar.metric("sidecar_streams_closed_total", route="/exact", reason="expired")
    expires = time.time() + 1.2
    short = bearer(signed(claims(sub=name, exp=expires)))
    stream = await both.listen("/exact", headers=short)
    publisher.publish(EXCHANGE, f"user.{name}", "in time")
    await stream.until_events(1)
    assert await stream.until_end() == "clean"
    assert 0 <= time.time() - expires < 1
    assert stream.stream.retry is not None
    again = await both.get("/exact", headers=short)
    assert (again.status, "the token has expired" in (again.header("www-authenticate") or "")) == (401, True)
    fresh = await both.get("/exact", headers=bearer(token(name)))
    assert fresh.status == 200
    sidecar = both.service.sidecar
    assert sidecar.metric("sidecar_streams_closed_total", route="/exact", reason="expired") == before + 1
    await trio.to_thread.run_sync(
        sidecar.log.wait, lambda line: (line.get("route"), line.get("reason")) == ("/exact", "expired")
    )


@pytest.mark.parametrize("path", ["/past", "/remembered"])
async def test_an_id_opens_nothing(client: Client, publisher: Publisher, name: str, path: str) -> None:
    """A returning client gets what its token of now may hear, whosever id it brings."""
    ada = await client.listen(path, headers=bearer(token(f"{name}-ada")))
    eve = await client.listen(path, headers=bearer(token(f"{name}-eve")))
    for number in range(3):
        publisher.publish(EXCHANGE, f"user.{name}-ada", f"ada {number}")
        publisher.publish(EXCHANGE, f"user.{name}-eve", f"eve {number}")
    await ada.until_events(3)
    await eve.until_events(3)
    own = await client.listen(path, headers=[*bearer(token(f"{name}-ada")), ("last-event-id", ada.events[0].id)])
    await own.until_events(2)
    stolen = [*bearer(token(f"{name}-eve")), ("last-event-id", ada.events[0].id)]
    thief = await client.listen(path, headers=stolen)
    everything = await client.listen(f"{path}?last_event_id=earliest", headers=bearer(token(f"{name}-eve")))
    publisher.publish(EXCHANGE, f"user.{name}-ada", "ada last")
    publisher.publish(EXCHANGE, f"user.{name}-eve", "eve last")
    await thief.until(lambda self: "eve last" in self.data)
    await everything.until(lambda self: "eve last" in self.data)
    await own.until(lambda self: "ada last" in self.data)
    assert own.data == ["ada 1", "ada 2", "ada last"]
    for heard in (thief, everything):
        assert not [data for data in heard.data if data.startswith("ada")]


# ---------------------------------------------------------------------- origins

PREFLIGHT = [
    ("origin", APP),
    ("access-control-request-method", "GET"),
    ("access-control-request-headers", "last-event-id,authorization"),
]


async def test_a_preflight_needs_no_token_and_allows_what_a_client_sends(both: Client) -> None:
    response = await both.get("/mine", method="OPTIONS", headers=PREFLIGHT)
    assert response.status == 204
    assert response.header("access-control-allow-origin") == APP
    assert response.header("access-control-allow-credentials") == "true"
    assert "last-event-id" in (response.header("access-control-allow-headers") or "").lower()
    assert "GET" in (response.header("access-control-allow-methods") or "")
    assert response.header("vary") == "Origin"


@pytest.mark.parametrize(
    "changed",
    [
        {"origin": OTHER},
        {"origin": APP.upper()},
        {"origin": f"{APP}.evil.example"},
        {"origin": f"{APP}:443"},
        {"origin": "null"},
        {"access-control-request-method": "DELETE"},
    ],
)
async def test_a_preflight_of_somebody_else_s(both: Client, changed: dict[str, str]) -> None:
    response = await both.get("/mine", method="OPTIONS", headers=list({**dict(PREFLIGHT), **changed}.items()))
    assert response.status == 403
    assert response.header("access-control-allow-methods") is None


async def test_every_answer_says_whose_scripts_may_read_it(both: Client, name: str) -> None:
    """The stream itself, each error, and each of the two ways to be turned away."""
    held = [await both.listen("/few", headers=bearer(token(name))) for _ in range(2)]
    held += [await both.listen("/few/honest", headers=bearer(token(name))) for _ in range(2)]
    for path, headers, status in (
        ("/mine", bearer(token(name)), 200),
        ("/mine", [ACCEPT], 401),
        ("/mine", bearer(token("a.b")), 400),
        ("/mine", bearer(signed(claims(sub=None, exp=time.time() + 60))), 403),
        ("/few", bearer(token(name)), 200),
        ("/few/honest", bearer(token(name)), 503),
    ):
        for origin, allowed in ((APP, APP), (OTHER, None)):
            response = await both.get(path, headers=[*headers, ("origin", origin)])
            assert response.status == status, (path, response)
            assert response.header("access-control-allow-origin") == allowed, (path, status)
            assert response.header("access-control-allow-credentials") == ("true" if allowed else None)
            assert response.header("vary") == "Origin"
    everybody = await both.get("/open", headers=[ACCEPT, ("origin", OTHER), ("x-forwarded-for", "203.0.113.9")])
    assert everybody.header("access-control-allow-origin") == "*"
    assert everybody.header("access-control-allow-credentials") is None
    assert all(stream.end is None for stream in held)


# ---------------------------------------------------------------------- limits


async def is_turned_away(response: wire.Response) -> bool:
    """Whether this is the full house of an EventSource: 200, a retry, nothing else, and a clean end."""
    assert response.status == 200
    with trio.move_on_after(0.3):
        await response.until_end()
    return (response.end, response.events, response.stream.retry is not None) == ("clean", [], True)


async def test_a_reader_s_places_are_counted_by_the_claim(both: Client, name: str) -> None:
    kept = [await both.listen("/few", headers=bearer(token(name))) for _ in range(2)]
    assert await is_turned_away(await both.get("/few", headers=bearer(token(name))))
    assert (await both.listen("/few", headers=bearer(token(f"{name}x")))).end is None
    assert all(stream.end is None for stream in kept)
    reason = {"route": "/few", "reason": "limit"}
    assert both.service.sidecar.metric("sidecar_streams_closed_total", **reason) >= 1
    await trio.to_thread.run_sync(both.service.sidecar.log.wait, lambda line: reason.items() <= line.items())


async def test_a_place_that_was_left_is_free_again(client: Client, name: str) -> None:
    opened = await wire.open_http1(client.nursery, client.service.http, "/few", headers=bearer(token(name)))
    await opened.response.until_open()
    await client.listen("/few", headers=bearer(token(name)))
    assert await is_turned_away(await client.get("/few", headers=bearer(token(name))))
    await opened.aclose()
    with trio.fail_after(5):
        while await is_turned_away(await client.get("/few", headers=bearer(token(name)))):
            pass  # until the process has seen that it left


async def test_an_honest_full_house(client: Client, name: str) -> None:
    for _ in range(2):
        await client.listen("/few/honest", headers=bearer(token(name)))
    response = await client.get("/few/honest", headers=bearer(token(name)))
    assert (response.status, response.header("retry-after")) == (503, "1")


async def test_a_route_s_places_are_everybody_s(client: Client, name: str) -> None:
    kept = [await client.listen("/full", headers=bearer(token(f"{name}-{number}"))) for number in range(3)]
    assert await is_turned_away(await client.get("/full", headers=bearer(token(name))))
    assert all(stream.end is None for stream in kept)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("203.0.113.1", "203.0.113.1", True),
        ("203.0.113.2", "203.0.113.3", False),
        ("2001:db8:1:1::1", "2001:db8:1:1:ffff::2", True),  # one subscriber's /64
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:203.0.113.4", "203.0.113.4", True),
        ("203.0.113.5", "198.51.100.1, 203.0.113.5", True),  # what stands further left is hearsay
        ("203.0.113.6", "198.51.100.2, 203.0.113.6, 127.0.0.1", True),
    ],
)
async def test_an_address_s_places_behind_a_trusted_proxy(client: Client, first: str, second: str, same: bool) -> None:
    kept = await client.listen("/open", headers=[ACCEPT, ("x-forwarded-for", first)])
    response = await client.get("/open", headers=[ACCEPT, ("x-forwarded-for", second)])
    assert await is_turned_away(response) is same
    assert kept.end is None


# ---------------------------------------------------------------------- silence


async def test_a_token_in_a_query_is_nowhere_to_be_found(both: Client, name: str) -> None:
    """Not in the log, on whatever way it was let in, refused or mistaken; nor on the operators' pages."""
    sidecar = both.service.sidecar
    secrets = [token(name), token("a.b"), signed(claims(exp=1)), f"{name}-no-token", token(f"{name}-again")]
    for secret in secrets:
        await both.get(f"/mine?ticket={secret}&since=never")
        await both.get(f"/mine?ticket={secret}&x=%zz")
        await both.get(f"/mine?t%69cket={secret}", method="POST")
        await both.get(f"/nowhere?ticket={secret}")
        await both.get(f"/orders/7?ticket={secret}&access_token={secret}")
    expires = await both.listen(f"/mine?ticket={secrets[0]}")
    before = sidecar.metric("sidecar_streams_closed_total", route="/mine", reason="client_left")
    opened = await wire.open_http1(both.nursery, both.service.http, f"/mine?ticket={secrets[0]}")
    await opened.response.until_open()
    await opened.aclose()
    await trio.to_thread.run_sync(
        lambda: sidecar.until(
            lambda: sidecar.metric("sidecar_streams_closed_total", route="/mine", reason="client_left") > before,
            "it left",
        )
    )
    assert expires.end is None
    pages = [sidecar.ask(path).body for path in ("/routes", "/metrics", "/", "/explain?path=/mine")]
    assert _is_log_line(sidecar.log.lines)
    for secret in secrets:
        for piece in (secret, secret.rpartition(".")[2]):
            assert piece not in sidecar.log.text
            assert not [page for page in pages if piece in page]


def _is_log_line(lines: list[LogLine]) -> bool:
    """That denials are told at all, so that their silence means something."""
    return any(line.get("event") == "denied" for line in lines) and any(
        line.get("event") == "stream closed" for line in lines
    )
