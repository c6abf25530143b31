"""The rules of access as values: origins, where a token stands, what its claims must say, what a log may show.

Strategy: everything here is a plain decision over bytes that a stranger has chosen. There is no clock (`now` comes
in), no key and no I/O: those are in `sidecar.http`. Where a request can be read in two ways it is refused instead of
read in the friendlier one, since the application beside us may read it in the other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

Fields = Sequence[tuple[bytes, bytes]]
Wanted = str | int | bool

TOKEN_BYTES: Final = 8192
"""The longest token that is looked at; cookies end at half of that, and headers rarely go beyond."""

PREFLIGHT_SECONDS: Final = 600
"""How long a browser may keep the answer to a preflight: a changed list of origins is in force after that."""

READING: Final = ("GET", "HEAD")
"""The methods an event stream has."""

ASKED_HEADERS: Final = ("Authorization", "Cache-Control", "Last-Event-ID")
"""What a script may send across origins beyond the fetch standard's safe list: event stream clients send these."""

REDACTED: Final = b"[redacted]"

ALWAYS_REDACTED: Final = frozenset({"access_token"})
"""Query parameters that are cut out of logs whatever the configuration says (RFC 6750 §2.3)."""

SCOPE_CLAIMS: Final = frozenset({"scope", "scp"})
"""Claims whose text is a set of words (RFC 8693 §4.2; ``scp`` is the same elsewhere)."""

_BEARER = re.compile(rb"bearer(?: +(.*))?", re.IGNORECASE | re.DOTALL)
_TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")  # b64token, RFC 6750 §2.1
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")  # RFC 6749 §3.3


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A signature algorithm of RFC 7518 §3: its key's type, its curve, and for HMAC the shortest secret in bytes."""

    kty: Literal["oct", "RSA", "EC", "OKP"]
    crv: str | None = None
    secret: int = 0


ALGORITHMS: Final[Mapping[str, Algorithm]] = {
    # RFC 7518 §3.2: a key of the same size as the hash output or larger must be used.
    **{name: Algorithm("oct", secret=size) for name, size in (("HS256", 32), ("HS384", 48), ("HS512", 64))},
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), Algorithm("RSA")),
    "ES256": Algorithm("EC", "P-256"),
    "ES384": Algorithm("EC", "P-384"),
    "ES512": Algorithm("EC", "P-521"),
    "EdDSA": Algorithm("OKP", "Ed25519"),
}
"""What a configuration may allow. ``none`` (RFC 7518 §3.6) is not among them and cannot be."""


class AwayError(Exception):
    """Whoever must be asked, an issuer or the application, cannot be asked now; the text is fit for a log."""


class TokenError(Exception):
    """A token that does not count; the text is fit for a log and for ``error_description`` (RFC 6750 §3)."""


@dataclass(frozen=True, slots=True)
class TokenSource:
    """A place where a token may stand: the Authorization header, a cookie, or a query parameter."""

    kind: Literal["header", "cookie", "query"]
    name: str = ""


def find_token(sources: Iterable[TokenSource], headers: Fields, query: bytes) -> str | None:
    """The token of the first source that has one; None where there is none.

    `headers` have lower-case names, `query` is raw. Raises `TokenError` for a source that holds several, and for
    one that holds something that can be no token: the next source is not tried then.
    """
    for source in sources:
        found = _FINDERS[source.kind](source.name, headers, query)
        if len(found) > 1:
            raise TokenError("several tokens in one place")
        if found:
            return _token(found[0])
    return None


def _token(raw: bytes) -> str:
    if len(raw) > TOKEN_BYTES:
        raise TokenError("the token is too long")
    if not _TOKEN.fullmatch(raw):
        raise TokenError("the token is malformed")
    return raw.decode("ascii")


def _in_header(_name: str, headers: Fields, _query: bytes) -> list[bytes]:
    lines = values(headers, b"authorization")
    # Authorization is no list (RFC 9110 §11.6.2): a second line of whatever scheme is a second opinion.
    if len(lines) > 1:
        return lines
    return [match[1] or b"" for line in lines if (match := _BEARER.fullmatch(line.strip()))]


def _in_cookie(name: str, headers: Fields, _query: bytes) -> list[bytes]:
    # HTTP/2 may cut the cookie header into several (RFC 9113 §8.2.3).
    pairs = (pair.partition(b"=") for line in values(headers, b"cookie") for pair in line.split(b";"))
    return [_unquoted(value.strip()) for key, _, value in pairs if key.strip() == name.encode()]


def _in_query(name: str, _headers: Fields, query: bytes) -> list[bytes]:
    pairs = (pair.partition(b"=") for pair in query.split(b"&"))
    return [unquote_to_bytes(value) for key, _, value in pairs if query_name(key) == name.encode()]


def _unquoted(value: bytes) -> bytes:
    """RFC 6265 §4.1.1 lets a cookie's value stand in quotes."""
    return value[1:-1] if len(value) > 1 and value[:1] == value[-1:] == b'"' else value


_FINDERS: Final = {"header": _in_header, "cookie": _in_cookie, "query": _in_query}


def values(headers: Fields, name: bytes) -> list[bytes]:
    """The values of all lines of a header, in order; `name` and the headers' names in lower case."""
    return [value for key, value in headers if key == name]


def query_name(raw: bytes) -> bytes:
    """A query parameter's name as an application would read it: ``acc%65ss_token`` is ``access_token``."""
    return unquote_to_bytes(raw.replace(b"+", b" "))


def redact(query: bytes, names: Collection[str] = ()) -> bytes:
    """A raw query string as a log may show it: without the values of `names` and of `ALWAYS_REDACTED`."""
    hidden = {name.encode() for name in ALWAYS_REDACTED.union(names)}
    return b"&".join(_redacted(pair, hidden) for pair in query.split(b"&"))


def _redacted(pair: bytes, hidden: Collection[bytes]) -> bytes:
    name, equals, _ = pair.partition(b"=")
    # Some applications split at ; too, and would find the token there.
    inner = {query_name(piece.partition(b"=")[0]) for piece in pair.split(b";")}
    return name.partition(b";")[0] + b"=" + REDACTED if equals and inner & set(hidden) else pair


def check_times(claims: Mapping[str, object], now: float, leeway: float) -> float | None:
    """When a stream opened with these claims must end, in seconds since 1970; None where no ``exp`` says so.

    Raises `TokenError` for a token of the past or of the future (RFC 7519 §4.1.4, §4.1.5), each with `leeway`
    seconds for clocks that differ. A token that is taken within the leeway is good until the leeway's end.
    """
    expires, begins = _instant(claims, "exp"), _instant(claims, "nbf")
    if begins is not None and now < begins - leeway:
        raise TokenError("the token is not valid yet")
    if expires is None or now < expires:
        return expires
    if now < expires + leeway:
        return expires + leeway
    raise TokenError("the token has expired")


def _instant(claims: Mapping[str, object], name: str) -> float | None:
    """A NumericDate (RFC 7519 §2). Python's JSON reads NaN, Infinity and numbers beyond a float too."""
    if name not in claims:
        return None
    value = claims[name]
    try:
        instant = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        instant = math.inf
    if not math.isfinite(instant):
        raise TokenError(f"{name} is no time")
    return instant


def claim(claims: Mapping[str, object], name: str) -> object:
    """A claim by its name, or, where there is none of that name, by a path of names with dots; None when absent.

    Names may hold dots themselves (``https://example.com/tenant``), so the whole name comes first.
    """
    if name in claims:
        return claims[name]
    value: object = claims
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def claim_text(claims: Mapping[str, object], name: str) -> str | None:
    """A claim as a template may use it: a text, or a whole number as one; None for everything else."""
    return _text(claim(claims, name))


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def holds(claims: Mapping[str, object], name: str, wanted: Wanted) -> bool:
    """Whether a claim says what is wanted: equal, or among the words of a scope, or in a list.

    A text equals a whole number that is written so (path parameters are texts); true is nothing but true. An empty
    text is held by nobody, so that an empty path parameter opens no door.
    """
    have = claim(claims, name)
    if isinstance(have, list):
        return any(_equal(item, wanted) for item in have)
    if name in SCOPE_CLAIMS and isinstance(have, str):
        return wanted in have.split()
    return _equal(have, wanted)


def _equal(have: object, wanted: Wanted) -> bool:
    if isinstance(wanted, str):
        return wanted != "" and _text(have) == wanted
    return type(have) is type(wanted) and have == wanted


def challenge(error: str | None = None, description: str = "", scope: str = "") -> bytes:
    """The value of ``WWW-Authenticate`` (RFC 6750 §3); without an error for a request that has brought no token."""
    parameters = {"realm": "sidecar", "error": error, "error_description": description}
    # The scope may hold a path parameter, a stranger's text: it is said only where it is a scope.
    parameters["scope"] = scope if _SCOPE.fullmatch(scope) else ""
    return ("Bearer " + ", ".join(f'{key}="{value}"' for key, value in parameters.items() if value)).encode("ascii")


@dataclass(frozen=True, slots=True)
class Preflight:
    """The whole answer to a CORS preflight; it has no body."""

    status: int
    headers: list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Cors:
    """Which origins' scripts may read (fetch standard §3.3). Origins are compared byte by byte, never by pattern.

    ``*`` may stand alone, and never with credentials.
    """

    origins: frozenset[str]
    credentials: bool = False

    def __post_init__(self) -> None:
        if "*" in self.origins and (self.credentials or len(self.origins) > 1):
            raise ValueError("* stands alone and without credentials")

    def headers(self, request: Fields) -> list[tuple[bytes, bytes]]:
        """What to add to any answer, errors included, so that the script may read it."""
        if "*" in self.origins:
            return [(b"access-control-allow-origin", b"*")]
        origin = self._allowed(request)
        # Also where the origin is not allowed, or absent: a cache must not give this answer to another one.
        added = [(b"vary", b"Origin")]
        if origin is not None:
            added.append((b"access-control-allow-origin", origin))
            added += [(b"access-control-allow-credentials", b"true")] if self.credentials else []
        return added

    def preflight(self, method: str, request: Fields) -> Preflight | None:
        """The answer to ``OPTIONS`` with ``Access-Control-Request-Method``; None when the request is no preflight."""
        asked = values(request, b"access-control-request-method")
        if method != "OPTIONS" or not asked or not values(request, b"origin"):
            return None
        headers = self.headers(request)
        if self._allowed(request) is None or len(asked) > 1 or asked[0] not in (m.encode() for m in READING):
            return Preflight(403, headers)
        return Preflight(204, headers + _PERMISSIONS)

    def _allowed(self, request: Fields) -> bytes | None:
        origins = values(request, b"origin")
        if len(origins) != 1:
            return None
        return origins[0] if "*" in self.origins or origins[0].decode("latin-1") in self.origins else None


_PERMISSIONS: Final = [
    (b"access-control-allow-methods", ", ".join(READING).encode()),
    (b"access-control-allow-headers", ", ".join(ASKED_HEADERS).encode()),
    (b"access-control-max-age", str(PREFLIGHT_SECONDS).encode()),
]
