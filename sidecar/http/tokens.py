"""Verifying a JSON Web Token (RFC 7519): its signature with PyJWT, its claims by the rules of `sidecar.access`.

Strategy: the token is a stranger's text until its signature holds, so nothing in its header is followed. ``alg``
chooses among the algorithms that the configuration allows, ``kid`` among the keys that are there; ``jku``, ``x5u``,
``jwk`` and ``x5c`` are not looked at, and an unknown ``crit`` is refused (RFC 7515 §4.1.11). A key is bound to the one
algorithm it is for before a token comes near it, so that a public key is never an HMAC secret (RFC 8725 §2.1).

PyJWT and not joserfc: both are kept well and typed, but PyJWT has had one interface (2.x) for six years, needs
nothing but cryptography, and takes keys bound to their algorithm; the times are checked here, because it reads the
clock itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import jwt
from jwt.types import Options

from sidecar.access import TokenError, check_times
from sidecar.config.access import Jwt
from sidecar.config.keys import PublicKey, read_public_key

Key = PublicKey | jwt.PyJWK | bytes

# What the library would check with its own clock, or against what is no rule here.
_OPTIONS: Options = {
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_sub": False,
    "verify_jti": False,
    "enforce_minimum_key_length": True,
}


class Keys(Protocol):
    """Where the keys come from."""

    async def candidates(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """The keys that may have made such a signature, a few at most.

        Raises `TokenError` where no key can have, `AwayError` where that cannot be said now. It waits for an issuer
        at most `sidecar.http.jwks.FETCH_WITHIN` seconds.
        """


@dataclass(frozen=True, slots=True)
class Verified:
    """What a good token says, and when what it opens must end (seconds since 1970)."""

    claims: Mapping[str, object]
    expires_at: float | None


class FixedKey:
    """One key of the configuration: a secret, or a public key from a file. A token's ``kid`` means nothing to it."""

    def __init__(self, key: Key) -> None:
        self._keys = (key,)

    async def candidates(self, algorithm: str, kid: str | None) -> Sequence[Key]:
        """The key; it goes with every algorithm that is allowed (`sidecar.config.access` sees to that)."""
        return self._keys


def fixed_key(settings: Jwt) -> FixedKey:
    """The key of settings that name a secret or a file; raises OSError and ValueError for a file gone bad."""
    if settings.keys.secret is not None:
        return FixedKey(settings.keys.secret.get_secret_value().encode())
    assert settings.keys.pem is not None
    return FixedKey(read_public_key(settings.keys.pem))


class Verifier:
    """Tokens of one kind: these keys, these algorithms, this issuer and audience."""

    def __init__(self, settings: Jwt, keys: Keys) -> None:
        self._keys = keys
        self._algorithms = frozenset(settings.algorithms)
        self._leeway = settings.leeway
        self._issuer = settings.issuer
        self._audience = settings.audience
        self._options: Options = {**_OPTIONS, "verify_aud": settings.audience is not None}

    async def verify(self, token: str, now: float) -> Verified:
        """The claims of a good token; `now` in seconds since 1970. Raises `TokenError`, `AwayError`."""
        algorithm, kid = self._header(token)
        claims = self._signed(token, algorithm, await self._keys.candidates(algorithm, kid))
        return Verified(claims, check_times(claims, now, self._leeway))

    def _header(self, token: str) -> tuple[str, str | None]:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.InvalidTokenError as error:
            raise TokenError("the token is malformed") from error
        algorithm = header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise TokenError("the token's algorithm is not allowed")
        return algorithm, header.get("kid")

    def _signed(self, token: str, algorithm: str, keys: Sequence[Key]) -> Mapping[str, object]:
        for key in keys:
            try:
                return jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    options=self._options,
                    issuer=self._issuer,
                    audience=self._audience,
                )
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError):
                continue
            except jwt.PyJWTError as error:
                raise TokenError(_fact(error)) from error
        raise TokenError("the token's signature is not the issuer's")


_FACTS: tuple[tuple[type[jwt.PyJWTError], str], ...] = (
    (jwt.InvalidIssuerError, "the token is of another issuer"),
    (jwt.InvalidAudienceError, "the token is for another audience"),
    (jwt.MissingRequiredClaimError, "the token lacks its issuer or audience"),
)


def _fact(error: jwt.PyJWTError) -> str:
    """A fixed text: the library's own may quote the token."""
    return next((fact for kind, fact in _FACTS if isinstance(error, kind)), "the token is malformed")
