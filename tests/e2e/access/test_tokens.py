"""What a token opens, what it fills in, and when that ends."""

from __future__ import annotations

import time
from urllib.parse import quote

import jwt
import pytest
import trio

from tests.access.requests import claims, part, rsa_key, signed
from tests.access.test_hostile_tokens import HOSTILE
from tests.e2e.access.conftest import ACCEPT, EXCHANGE, bearer, token
from tests.e2e.conftest import Client
from tests.lab import wire
from tests.lab.publisher import Publisher

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
