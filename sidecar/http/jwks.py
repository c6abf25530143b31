"""An issuer's JSON Web Key Set (RFC 7517): fetched, kept, and fetched again when a token names a key it lacks.

Strategy: one task per URL is the only one that fetches, so there is nothing to lock and never more than one request on
its way. Whoever needs a key that is not there rings for that task and waits for its next answer. What bounds this
is named below; the main one is that strangers' tokens, whose key ids anybody can make up, cause one fetch in
`REFRESH_INTERVAL` seconds and no more. Keys stay until another set has arrived whole: an issuer that is down takes
nobody's access away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
import jwt
import structlog
import trio

from sidecar.access import ALGORITHMS, Algorithm, AwayError, TokenError

MAX_AGE: Final = 600.0
"""Seconds after which a key set is fetched again anyway, so that a key taken back is not good for ever."""

REFRESH_INTERVAL: Final = 10.0
"""Seconds between two fetches that tokens with unknown keys can cause."""

RETRY_AFTER: Final = (1.0, 30.0)
"""Seconds: the first and the longest wait after a fetch that failed."""

FETCH_WITHIN: Final = 5.0
"""Seconds a fetch may take."""

MAX_BYTES: Final = 256 * 1024
"""The longest key set that is read."""

MAX_KEYS: Final = 64
"""The most keys of one set that are used; a token without ``kid`` may be tried against as many."""

MAX_UNKNOWN: Final = 256
"""How many key ids are remembered that the present set lacks; the oldest are forgotten first."""

# The members of RFC 7518 §6 that make a public key. Private ones, should an issuer leak them, are not even read.
_PUBLIC: Final = ("kty", "crv", "n", "e", "x", "y")

_log = structlog.get_logger(__name__)

KeySet = Mapping[str, Sequence[tuple[str | None, jwt.PyJWK]]]
"""For each algorithm the keys that can verify it, with their ids."""


def read_key_set(body: bytes) -> KeySet:
    """The usable keys of a key set, by algorithm; keys of other kinds are passed over (RFC 7517 §5).

    Raises ValueError for what is no key set, and for one without a single usable key.
    """
    try:
        document = json.loads(body)
        listed = document["keys"]
    except (ValueError, RecursionError, TypeError, KeyError):
        raise ValueError("the answer is no JSON Web Key Set") from None
    members = [member for member in listed if isinstance(member, dict)] if isinstance(listed, list) else []
    found = {
        name: [key for member in members[:MAX_KEYS] if (key := _bound(member, name, algorithm))]
        for name, algorithm in ALGORITHMS.items()
        if algorithm.kty != "oct"  # a secret on a public page is none
    }
    if not any(found.values()):
        raise ValueError("the key set has no usable key")
    return found


def _bound(member: dict[str, Any], name: str, algorithm: Algorithm) -> tuple[str | None, jwt.PyJWK] | None:
    """The key for one algorithm, where it is one for that (RFC 7517 §4.2 to §4.4) and long enough."""
    operations = member.get("key_ops", ["verify"])
    if (
        member.get("use", "sig") != "sig"
        or not (isinstance(operations, list) and "verify" in operations)
        or member.get("alg", name) != name
        or (member.get("kty"), member.get("crv")) != (algorithm.kty, algorithm.crv)
    ):
        return None
    try:
        key = jwt.PyJWK({part: member[part] for part in _PUBLIC if part in member}, name)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    kid = member.get("kid")
    return None if key.Algorithm.check_key_length(key.key) else (kid if isinstance(kid, str) else None, key)


class FetchedKeys:
    """The keys of one URL; `run` keeps them fresh."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self._client = client
        self._keys: KeySet | None = None
        self._problem = "the issuer's keys have not been fetched yet"
        self._failing = True
        self._under_way = True  # a fetch, or the bell for one; `run` begins with one
        self._unknown: dict[tuple[str, str | None], None] = {}
        self._asked_at = -REFRESH_INTERVAL
        self._ring = trio.Event()
        self._answered = trio.Event()

    async def run(self) -> None:
        """Fetch now, again when asked, when the keys are old, and when it has failed. Runs until cancelled."""
        wait = RETRY_AFTER[0]
        while True:
            await self._fetch()
            self._answered, answered = trio.Event(), self._answered
            answered.set()
            self._ring = trio.Event()
            with trio.move_on_after(wait if self._failing else MAX_AGE):
                await self._ring.wait()
            wait = min(2 * wait, RETRY_AFTER[1]) if self._failing else RETRY_AFTER[0]

    async def candidates(self, algorithm: str, kid: str | None) -> Sequence[jwt.PyJWK]:
        """The keys with this id, or all that fit where the token names none. Raises `TokenError`, `AwayError`."""
        if not self._known(algorithm, kid):
            await self._refreshed(algorithm, kid)
        if keys := self._known(algorithm, kid):
            return keys
        if self._failing:
            raise AwayError(self._problem)
        self._remember(algorithm, kid)
        raise TokenError("the token's key is not the issuer's")

    def _known(self, algorithm: str, kid: str | None) -> list[jwt.PyJWK]:
        keys = (self._keys or {}).get(algorithm, ())
        return [key for name, key in keys if kid is None or name == kid]

    async def _refreshed(self, algorithm: str, kid: str | None) -> None:
        """Wait for the fetch that is under way, or for a new one; return at once where the last one looked for this.

        Raises `AwayError` when it is too early for a new one.
        """
        now = trio.current_time()
        if not self._under_way:
            if now < self._asked_at + REFRESH_INTERVAL:
                if (algorithm, kid) in self._unknown and not self._failing:
                    return
                # No refusal: the key may be a new one, and a refusal would be the end for a browser's EventSource.
                raise AwayError(self._problem if self._failing else "the issuer was asked for its keys just now")
            self._asked_at, self._under_way = now, True
            self._ring.set()
        with trio.move_on_after(FETCH_WITHIN) as limit:
            await self._answered.wait()
        if limit.cancelled_caught:
            raise AwayError("the issuer has not answered yet")

    def _remember(self, algorithm: str, kid: str | None) -> None:
        self._unknown[algorithm, kid] = None
        if len(self._unknown) > MAX_UNKNOWN:
            del self._unknown[next(iter(self._unknown))]

    async def _fetch(self) -> None:
        self._under_way = True
        try:
            with trio.fail_after(FETCH_WITHIN):
                self._keys = read_key_set(await self._body())
        except (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError, ValueError) as error:
            self._failing = True
            self._problem = f"the issuer's keys cannot be fetched: {_one_line(error)}"
            _log.warning("key set not fetched", url=self.url, problem=_one_line(error), kept=self._keys is not None)
        else:
            self._failing = False
            self._unknown.clear()
        finally:
            self._under_way = False

    async def _body(self) -> bytes:
        body = b""
        # No compression: a small answer must not become a large one here.
        headers = {"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"}
        async with self._client.stream("GET", self.url, headers=headers) as response:
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}")
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES} bytes")
        return body


def _one_line(error: Exception) -> str:
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {FETCH_WITHIN:g}s"
    return " ".join(str(error).split()) or type(error).__name__
