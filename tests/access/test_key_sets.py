"""An issuer's keys over real HTTP: rotation, outage, slowness, size, and how rarely it is asked.

Where only time passes, the clock is trio's own and jumps; where a socket is read, real time runs and nothing sleeps.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count

import httpx
import pytest
import trio
import trio.testing

from sidecar.access import AwayError, TokenError
from sidecar.http import jwks
from sidecar.http.forward import new_client
from sidecar.http.jwks import FETCH_WITHIN, MAX_AGE, MAX_BYTES, REFRESH_INTERVAL, FetchedKeys, read_key_set
from tests.access.requests import ec_key, ed_key, jwk, key_set, rsa_key
from tests.access.server import Asked, Reply, Server

ONE = key_set(jwk(rsa_key(), "RS256", kid="one"))
TWO = key_set(jwk(rsa_key(), "RS256", kid="one"), jwk(rsa_key(1), "RS256", kid="two"))


class Issuer:
    """A stand-in for the network: what it answers is set by the test, and it counts."""

    def __init__(self, body: bytes = ONE) -> None:
        self.body = body
        self.status = 200
        self.fetches = 0
        self.silent_for = 0.0
        self.at_once = 0
        self.most_at_once = 0

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.fetches += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(self.silent_for)
        finally:
            self.at_once -= 1
        if not self.body:
            raise httpx.ConnectError("connection refused")
        return httpx.Response(self.status, content=_chunks(self.body))


async def _chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 65536):
        yield body[start : start + 65536]


@asynccontextmanager
async def fetching(issuer: Issuer) -> AsyncIterator[FetchedKeys]:
    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(issuer), timeout=None) as client,
        running(FetchedKeys("http://issuer.example/keys", client)) as keys,
    ):
        yield keys


@asynccontextmanager
async def running(keys: FetchedKeys) -> AsyncIterator[FetchedKeys]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.run)
        yield keys
        nursery.cancel_scope.cancel()


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


async def found(keys: FetchedKeys, kid: str | None, algorithm: str = "RS256") -> int | str:
    """How many keys, or what is said instead."""
    try:
        return len(await keys.candidates(algorithm, kid))
    except (TokenError, AwayError) as error:
        return f"{type(error).__name__}: {error}"


async def test_keys_are_found_by_algorithm_and_id(issuer: Issuer, autojump_clock: trio.testing.MockClock) -> None:
    issuer.body = TWO
    async with fetching(issuer) as keys:
        assert await found(keys, "one") == 1
        assert await found(keys, "two") == 1
        assert await found(keys, None) == 2
        assert await found(keys, "one", "ES256") == "TokenError: the token's key is not the issuer's"


async def test_an_unknown_key_is_refused_after_one_more_look(
    issuer: Issuer, autojump_clock: trio.testing.MockClock
) -> None:
    async with fetching(issuer) as keys:
        assert await found(keys, "one") == 1
        assert await found(keys, "forged") == "TokenError: the token's key is not the issuer's"
        assert issuer.fetches == 2
        assert await found(keys, "forged") == "TokenError: the token's key is not the issuer's"
        assert issuer.fetches == 2


async def test_a_key_that_was_used_before_it_was_published_is_found_after_the_interval(
    issuer: Issuer, autojump_clock: trio.testing.MockClock
) -> None:
    async with fetching(issuer) as keys:
        await found(keys, "one")
        assert str(await found(keys, "two")).startswith("TokenError")
        issuer.body = TWO
        await trio.sleep(REFRESH_INTERVAL)
        assert await found(keys, "two") == 1


async def test_what_an_older_key_set_lacked_is_not_held_against_a_key(
    issuer: Issuer, autojump_clock: trio.testing.MockClock
) -> None:
    async with fetching(issuer) as keys:
        await found(keys, "one")
        assert str(await found(keys, "two")).startswith("TokenError")
        await trio.sleep(REFRESH_INTERVAL)
        assert str(await found(keys, "forged")).startswith("TokenError")
        assert str(await found(keys, "two")).startswith("AwayError")


async def test_strangers_cause_one_fetch_in_an_interval(issuer: Issuer, autojump_clock: trio.testing.MockClock) -> None:
    async with fetching(issuer) as keys:
        await found(keys, "one")
        for number in range(5):
            for name in range(50):
                await found(keys, f"forged {number} {name}")
            await trio.sleep(REFRESH_INTERVAL)
        assert issuer.fetches == 1 + 5


async def test_a_new_key_is_no_refusal_while_it_is_too_early_to_look(
    issuer: Issuer, autojump_clock: trio.testing.MockClock
) -> None:
    async with fetching(issuer) as keys:
        await found(keys, "one")
        await found(keys, "forged")
        issuer.body = TWO
        assert await found(keys, "two") == "AwayError: the issuer was asked for its keys just now"
        await trio.sleep(REFRESH_INTERVAL)
        assert await found(keys, "two") == 1


async def test_a_rotation_is_seen_at_once(issuer: Issuer, autojump_clock: trio.testing.MockClock) -> None:
    async with fetching(issuer) as keys:
        await found(keys, "one")
        issuer.body = key_set(jwk(rsa_key(1), "RS256", kid="two"))
        assert await found(keys, "two") == 1
        await trio.sleep(REFRESH_INTERVAL)
        assert await found(keys, "one") == "TokenError: the token's key is not the issuer's"


async def test_a_key_taken_back_is_forgotten_in_time(issuer: Issuer, autojump_clock: trio.testing.MockClock) -> None:
    issuer.body = TWO
    async with fetching(issuer) as keys:
        assert await found(keys, "two") == 1
        issuer.body = ONE
        await trio.sleep(MAX_AGE + 1)
        assert await found(keys, "two") == "TokenError: the token's key is not the issuer's"


async def test_many_who_wait_cause_one_fetch(issuer: Issuer, autojump_clock: trio.testing.MockClock) -> None:
    issuer.silent_for = 1
    results: list[int | str] = []

    async def ask(kid: str) -> None:
        results.append(await found(keys, kid))

    async with fetching(issuer) as keys:
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask, "one")
        assert (results, issuer.fetches) == ([1] * 100, 1)
        issuer.body, results[:] = TWO, []
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(ask, "two")
        assert (results, issuer.fetches, issuer.most_at_once) == ([1] * 100, 2, 1)


async def test_old_keys_outlive_an_outage(issuer: Issuer, autojump_clock: trio.testing.MockClock) -> None:
    async with fetching(issuer) as keys:
        assert await found(keys, "one") == 1
        issuer.body = b""
        await trio.sleep(10 * MAX_AGE)
        assert await found(keys, "one") == 1
        assert await found(keys, "two") == "AwayError: the issuer's keys cannot be fetched: connection refused"
        issuer.body = TWO
        await trio.sleep(jwks.RETRY_AFTER[1] + 1)
        assert await found(keys, "two") == 1


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        (b"", 200, "connection refused"),
        (ONE, 503, "status 503"),
        (ONE, 302, "status 302"),
        (b"<html>", 200, "no JSON Web Key Set"),
        (b'{"keys": []}', 200, "no usable key"),
        (b" " * (MAX_BYTES + 1), 200, f"more than {MAX_BYTES} bytes"),
    ],
)
async def test_without_any_keys_nobody_is_refused_and_nobody_let_in(
    issuer: Issuer, autojump_clock: trio.testing.MockClock, body: bytes, status: int, problem: str
) -> None:
    good, issuer.body, issuer.status = issuer.body, body, status
    async with fetching(issuer) as keys:
        assert problem in str(await found(keys, "one"))
        assert str(await found(keys, "one")).startswith("AwayError")
        issuer.body, issuer.status = good, 200
        await trio.sleep(jwks.RETRY_AFTER[1] + 1)
        assert await found(keys, "one") == 1


async def test_an_issuer_that_is_down_is_not_asked_ever_faster(
    issuer: Issuer, autojump_clock: trio.testing.MockClock
) -> None:
    issuer.body = b""
    async with fetching(issuer):
        await trio.sleep(3600)
    assert issuer.fetches < 3600 / jwks.RETRY_AFTER[1] + 10


async def test_a_silent_issuer_holds_nobody_longer_than_the_bound(
    issuer: Issuer, autojump_clock: trio.testing.MockClock
) -> None:
    issuer.silent_for = 3600
    begun = trio.current_time()
    async with fetching(issuer) as keys:
        assert str(await found(keys, "one")).startswith("AwayError")
        assert trio.current_time() - begun <= FETCH_WITHIN


async def test_unknown_ids_do_not_pile_up(issuer: Issuer, autojump_clock: trio.testing.MockClock) -> None:
    async with fetching(issuer) as keys:
        await found(keys, "one")
        issuer.silent_for = 0.1
        async with trio.open_nursery() as nursery:
            for number in range(3 * jwks.MAX_UNKNOWN):
                nursery.start_soon(found, keys, f"forged {number}")
        assert len(keys._unknown) == jwks.MAX_UNKNOWN


async def test_before_it_runs_nobody_is_let_in(autojump_clock: trio.testing.MockClock) -> None:
    async with httpx.AsyncClient() as client:
        assert await found(FetchedKeys("http://issuer.example/", client), None) == (
            "AwayError: the issuer has not answered yet"
        )


# What a key set may hold (RFC 7517)


def usable(*keys: object) -> Iterator[str]:
    for name, found_keys in read_key_set(json.dumps({"keys": keys}).encode()).items():
        yield from [name] * len(found_keys)


def test_a_key_that_names_no_algorithm_serves_all_of_its_kind() -> None:
    bare = {key: value for key, value in jwk(rsa_key(), "RS256").items() if key != "alg"}
    assert set(usable(bare)) == {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
    assert set(usable({**bare, "alg": "PS384"})) == {"PS384"}
    assert set(usable(jwk(ec_key(), "ES256"))) == {"ES256"}
    assert set(usable(jwk(ed_key(), "EdDSA"))) == {"EdDSA"}


OTHERS: dict[str, object] = {
    "a secret": {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "alg": "HS256"},
    "for encryption": jwk(rsa_key(), "RS256", use="enc"),
    "for encryption by its operations": jwk(rsa_key(), "RS256", key_ops=["encrypt"]),
    "operations no list": jwk(rsa_key(), "RS256", key_ops="verify"),
    "another algorithm": jwk(rsa_key(), "RS256", alg="RSA-OAEP"),
    "alg none": jwk(rsa_key(), "RS256", alg="none"),
    "said to be HMAC": jwk(rsa_key(), "RS256", alg="HS256"),
    "too short": jwk(rsa_key(9, 1024), "RS256"),
    "no modulus": {"kty": "RSA", "e": "AQAB"},
    "a modulus that is no text": {"kty": "RSA", "e": "AQAB", "n": 7},
    "not on the curve": {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
    "an unknown curve": {"kty": "EC", "crv": "P-1", "x": "AAAA", "y": "AAAA"},
    "an unknown kind": {"kty": "XYZ"},
    "no kind": {},
    "a list": [],
    "a text": "RSA",
    "null": None,
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_keys_are_passed_over(name: str) -> None:
    assert list(usable(OTHERS[name], jwk(ec_key(), "ES256"))) == ["ES256"]
    with pytest.raises(ValueError, match="no usable key"):
        list(usable(OTHERS[name]))


def test_a_leaked_private_key_only_verifies() -> None:
    leaked = {**jwk(ed_key(), "EdDSA"), "d": "AAAA"}
    (_, key), *_ = read_key_set(key_set(leaked))["EdDSA"]
    assert not hasattr(key.key, "sign")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"7", b'"keys"', b'{"keys": {}}', b'{"key": []}', b"[" * 9000]
)
def test_what_is_no_key_set(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"Key Set|no usable key"):
        read_key_set(body)


# Over real sockets


async def test_over_http_with_a_rotation_an_outage_and_a_return() -> None:
    bodies = {"now": ONE}

    async def answer(_asked: Asked) -> Reply:
        return Reply(body=bodies["now"])

    async with trio.open_nursery() as nursery, new_client(environment=False) as client:
        server = Server(answer)
        scope = await server.listen(nursery)
        with trio.fail_after(20):
            async with running(FetchedKeys(server.url + "/keys", client)) as keys:
                assert await found(keys, "one") == 1
                assert server.asked[0].header("accept-encoding") == ["identity"]
                scope.cancel()
                assert await found(keys, "one") == 1
                assert str(await found(keys, "two")).startswith("AwayError: the issuer's keys cannot be fetched")
                bodies["now"] = TWO
                scope = await server.listen(nursery, server.port)
                for attempt in count(1):
                    if await found(keys, "two") == 1:
                        break
                    await trio.testing.wait_all_tasks_blocked(0.05)
                    assert attempt < 200
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply(body=b" " * (MAX_BYTES + 1)), f"more than {MAX_BYTES} bytes"),
        (Reply(302, headers=[(b"location", b"http://127.0.0.1:1/")]), "status 302"),
        (None, "disconnected"),
    ],
)
async def test_over_http_what_is_no_answer(reply: Reply | None, problem: str) -> None:
    async def answer(_asked: Asked) -> Reply | None:
        return reply

    async with trio.open_nursery() as nursery, new_client() as client:
        server = Server(answer)
        await server.listen(nursery)
        with trio.fail_after(10):
            async with running(FetchedKeys(server.url, client)) as keys:
                assert problem in str(await found(keys, "one"))
        nursery.cancel_scope.cancel()


async def test_over_http_a_silent_issuer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FETCH_WITHIN", 0.3)

    async def answer(_asked: Asked) -> Reply:
        await trio.sleep_forever()
        raise AssertionError

    async with trio.open_nursery() as nursery, new_client() as client:
        server = Server(answer)
        await server.listen(nursery)
        with trio.fail_after(10):
            async with running(FetchedKeys(server.url, client)) as keys:
                assert str(await found(keys, "one")).startswith("AwayError")
        nursery.cancel_scope.cancel()
