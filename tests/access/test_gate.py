"""A whole gate: what a token must say about the path, who is counted, and that nothing is open by an oversight."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from sidecar.config.access import Access
from sidecar.forwarded import Proxies
from sidecar.http.access import Denied, Gate, Granted, Unavailable
from sidecar.http.gatehouse import Gatehouse
from tests.access.requests import NOW, SECRET, AnyRequest, bearer, claims, jwk, key_set, rsa_key, signed
from tests.access.server import Asked, Reply, Server

PROXIES = Proxies.parse(["10.0.0.0/8"])
HMAC = {"keys": {"secret": SECRET}, "algorithms": ["HS256"]}


def gate_with(require: dict[str, Any] | None = None, **more: Any) -> Gate:
    access = {"jwt": {**HMAC, "require": require or {}}, **more}
    return Gatehouse(clock=lambda: NOW).gate(Access.model_validate(access), PROXIES)


def token(**more: object) -> list[tuple[bytes, bytes]]:
    return bearer(signed(claims(**more), SECRET, "HS256"))


async def status(gate: Gate, headers: list[tuple[bytes, bytes]], query: bytes = b"", **parameters: str) -> int:
    answer = await gate.check(AnyRequest(headers, query), parameters)
    return answer.status if isinstance(answer, Denied) else 200 if isinstance(answer, Granted) else 503


async def test_without_settings_everybody_is_let_in() -> None:
    gate = Gatehouse().gate(None, PROXIES)
    assert await gate.check(AnyRequest(), {}) == Granted("192.0.2.1")
    assert gate.preflight(AnyRequest(method="OPTIONS")) is None
    assert gate.redacted(b"access_token=x&a=1") == b"access_token=[redacted]&a=1"


def test_a_gate_without_what_its_settings_name_cannot_be_built() -> None:
    for settings in ({"jwt": HMAC}, {"forward": {"url": "http://127.0.0.1:1/"}}):
        with pytest.raises(ValueError, match="a gate needs"):
            Gate(Access.model_validate(settings), proxies=PROXIES)


@pytest.mark.parametrize(
    ("require", "says", "parameters", "expected"),
    [
        ({"scope": "orders:read"}, {"scope": "orders:read"}, {}, 200),
        ({"scope": "orders:read"}, {"scope": "a orders:read b"}, {}, 200),
        ({"scope": "orders:read"}, {"scope": "orders:reader"}, {}, 403),
        ({"scope": "orders:read"}, {"scope": ["orders:read"]}, {}, 200),
        ({"scope": "a b"}, {"scope": "b x a"}, {}, 200),
        ({"scope": "a b"}, {"scope": "a"}, {}, 403),
        ({"scope": "a"}, {"scope": None}, {}, 403),
        ({"tenant": "{tenant}"}, {"tenant": "acme"}, {"tenant": "acme"}, 200),
        ({"tenant": "{tenant}"}, {"tenant": "acme"}, {"tenant": "evil"}, 403),
        ({"tenant": "{tenant}"}, {"tenant": "acme"}, {"tenant": "ACME"}, 403),
        ({"tenant": "{tenant}"}, {"tenant": "acme"}, {"tenant": "acme "}, 403),
        ({"tenant": "{tenant}"}, {"tenant": "acme"}, {"tenant": "acme\0"}, 403),
        ({"tenant": "{tenant}"}, {"tenant": "acme"}, {"tenant": "*"}, 403),
        ({"tenant": "{tenant}"}, {"tenant": "acme"}, {"tenant": "{tenant}"}, 403),
        ({"tenant": "{tenant}"}, {"tenant": "{tenant}"}, {"tenant": "evil"}, 403),
        ({"tenant": "{tenant}"}, {"tenant": ""}, {"tenant": ""}, 403),
        ({"tenant": "{tenant}"}, {}, {"tenant": "None"}, 403),
        ({"tenant": "{tenant}"}, {"tenant": ["acme", "b"]}, {"tenant": "b"}, 200),
        ({"tenant": "{tenant}"}, {"tenant": 7}, {"tenant": "7"}, 200),
        ({"tenant": "{tenant}"}, {"tenant": 7}, {"tenant": "٧"}, 403),
        ({"tenant": "t-{tenant}"}, {"tenant": "t-"}, {"tenant": ""}, 403),
        ({"scope": "read:{tenant}"}, {"scope": "read:acme"}, {"tenant": "acme"}, 200),
        ({"scope": "read:{tenant}"}, {"scope": "read:a b"}, {"tenant": "a b"}, 403),
        ({"scope": "read:{tenant}"}, {"scope": "read:"}, {"tenant": ""}, 403),
        ({"admin": True}, {"admin": True}, {}, 200),
        ({"admin": True}, {"admin": "true"}, {}, 403),
        ({"admin": True}, {"admin": 1}, {}, 403),
        ({"level": 3}, {"level": 3}, {}, 200),
        ({"level": 3}, {"level": "3"}, {}, 403),
        ({"scope": "a", "tenant": "x"}, {"scope": "a", "tenant": "y"}, {}, 403),
    ],
)
async def test_what_the_token_must_say(
    require: dict[str, Any], says: dict[str, object], parameters: dict[str, str], expected: int
) -> None:
    assert await status(gate_with(require), token(**{"scope": None, **says}), **parameters) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"tenant=acme", 200),
        (b"ten%61nt=%61cme", 200),
        (b"tenant=evil", 403),
        (b"tenant=acme&tenant=evil", 403),
        (b"tenant=acme&tenant=acme", 403),
        (b"tenant", 403),
        (b"", 403),
        (b"tenant=%FF", 403),
    ],
)
async def test_a_claim_against_the_query(query: bytes, expected: int) -> None:
    assert await status(gate_with({"tenant": "{query.tenant}"}), token(tenant="acme"), query) == expected


async def test_a_refusal_names_the_scope_and_can_be_read_by_the_script() -> None:
    gate = gate_with({"scope": "read:{tenant} b"}, cors={"origins": ["https://app.example"]})
    origin = [(b"origin", b"https://app.example")]
    answer = await gate.check(AnyRequest(token() + origin), {"tenant": "acme"})
    assert isinstance(answer, Denied)
    assert answer.status == 403
    headers = dict(answer.headers)
    assert headers[b"www-authenticate"].endswith(b'error="insufficient_scope", '
        b'error_description="the token does not allow this", scope="read:acme b"')  # fmt: skip
    assert headers[b"access-control-allow-origin"] == b"https://app.example"
    answer = await gate.check(AnyRequest(token() + origin), {"tenant": 'x", evil="'})
    assert isinstance(answer, Denied)
    assert b"evil" not in dict(answer.headers)[b"www-authenticate"]
    answer = await gate.check(AnyRequest(origin), {"tenant": "acme"})
    assert isinstance(answer, Denied)
    assert (answer.status, dict(answer.headers)[b"vary"]) == (401, b"Origin")


async def test_a_preflight_needs_no_token() -> None:
    gate = gate_with({"scope": "x"}, cors={"origins": ["https://app.example"], "credentials": True})
    asked = [(b"origin", b"https://app.example"), (b"access-control-request-method", b"GET")]
    answer = gate.preflight(AnyRequest(asked, method="OPTIONS"))
    assert answer is not None
    assert answer.status == 204


@pytest.mark.parametrize(
    ("client", "says", "peer", "counted"),
    [
        (None, {}, "192.0.2.1", "192.0.2.1"),
        (None, {}, "2001:db8::7", "2001:db8::/64"),
        (None, {}, "10.0.0.1", "198.51.100.7"),
        ("{claims.sub}", {"sub": "ada"}, "192.0.2.1", "client ada"),
        ("{claims.sub}/{claims.tenant}", {"tenant": 7}, "192.0.2.1", "client ada/7"),
        ("{claims.sub}", {"sub": "192.0.2.1"}, "192.0.2.1", "client 192.0.2.1"),
        ("{claims.sub}", {"sub": None}, "192.0.2.1", "192.0.2.1"),
        ("{claims.sub}", {"sub": ["ada"]}, "192.0.2.1", "192.0.2.1"),
    ],
)
async def test_who_is_counted(client: str | None, says: dict[str, object], peer: str, counted: str) -> None:
    limit = {"per_client": 1, **({"client": client} if client else {})}
    request = AnyRequest([*token(**says), (b"x-forwarded-for", b"198.51.100.7")], client=(peer, 1))
    answer = await gate_with(limit=limit).check(request, {})
    assert isinstance(answer, Granted)
    assert answer.client == counted


def test_a_token_in_the_query_does_not_get_into_a_log() -> None:
    access = {"jwt": {**HMAC, "from": ["header", "query:ticket"]}}
    gate = Gatehouse().gate(Access.model_validate(access), PROXIES)
    assert gate.redacted(b"ticket=secret&since=1") == b"ticket=[redacted]&since=1"


async def test_the_application_is_asked_only_about_good_tokens() -> None:
    async def answer(_asked: Asked) -> Reply:
        return Reply(headers=[(b"x-user", b"ada")])

    async with trio.open_nursery() as nursery:
        server = Server(answer)
        await server.listen(nursery)
        house = Gatehouse(clock=lambda: NOW)
        await nursery.start(house.run)
        forward = {"url": server.url, "take": {"user": "x-user"}}
        gate = house.gate(
            Access.model_validate({"jwt": {**HMAC, "require": {"scope": "orders:read"}}, "forward": forward}), PROXIES
        )
        with trio.fail_after(10):
            assert await status(gate, []) == 401
            assert await status(gate, token(exp=1)) == 401
            assert await status(gate, token(scope="x")) == 403
            assert server.asked == []
            granted = await gate.check(AnyRequest(token()), {})
        nursery.cancel_scope.cancel()
    assert isinstance(granted, Granted)
    assert (granted.value("claims.sub"), granted.value("auth.user"), granted.expires_at) == ("ada", "ada", NOW + 60)


async def test_the_houses_issuers_are_shared_kept_over_a_reload_and_forgotten_when_nobody_needs_them() -> None:
    async def answer(_asked: Asked) -> Reply:
        return Reply(body=key_set(jwk(rsa_key(), "RS256", kid="one")))

    good = bearer(signed(kid="one"))
    async with trio.open_nursery() as nursery:
        server = Server(answer)
        down = await server.listen(nursery)
        settings = Access.model_validate({"jwt": {"keys": {"url": server.url}, "algorithms": ["RS256"]}})
        house = Gatehouse(clock=lambda: NOW)
        early = house.gate(settings, PROXIES)
        await nursery.start(house.run)
        with trio.fail_after(10):
            assert await status(early, good) == 200
            assert await status(house.gate(settings, PROXIES), good) == 200
            assert len(server.asked) == 1
            down.cancel()
            reloaded = house.gate(settings, PROXIES)
            house.keep([reloaded])
            assert await status(reloaded, good) == 200
            house.keep([])
            answer_after = await house.gate(settings, PROXIES).check(AnyRequest(good), {})
            assert isinstance(answer_after, Unavailable)
        nursery.cancel_scope.cancel()


async def test_two_algorithms_of_one_issuer_do_not_mix() -> None:
    """A route takes only its own algorithms, though the issuer's keys are shared with a route that takes others."""

    async def answer(_asked: Asked) -> Reply:
        bare = {name: value for name, value in jwk(rsa_key(), "RS256", kid="one").items() if name != "alg"}
        return Reply(body=key_set(bare))

    async with trio.open_nursery() as nursery:
        server = Server(answer)
        await server.listen(nursery)
        house = Gatehouse(clock=lambda: NOW)
        gates = {
            name: house.gate(
                Access.model_validate({"jwt": {"keys": {"url": server.url}, "algorithms": [name]}}), PROXIES
            )
            for name in ("RS256", "PS256")
        }
        await nursery.start(house.run)
        with trio.fail_after(10):
            for name, gate in gates.items():
                for other in ("RS256", "PS256"):
                    made = bearer(signed(algorithm=other, kid="one"))
                    assert await status(gate, made) == (200 if name == other else 401)
        nursery.cancel_scope.cancel()
