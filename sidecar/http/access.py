"""Who may read: one gate per route, asked at the beginning of every stream and of every reconnect.

Strategy: a gate is a short list of questions in a fixed order, each of which may end the matter: is there a token and
is it good (401), does it say what the route requires (403), does the application agree (its own words). Only then is
there a `Granted`, which holds all that the stream needs to know of its reader. What cannot be answered now (an issuer
or an application that is away) is neither yes nor no: `Unavailable`, so that a browser tries again.

Gates are built by `sidecar.http.gatehouse`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from sidecar.access import (
    SCOPE_CLAIMS,
    AwayError,
    Cors,
    Preflight,
    TokenError,
    Wanted,
    challenge,
    claim_text,
    find_token,
    holds,
    query_name,
    redact,
)
from sidecar.config.access import Access
from sidecar.forwarded import Proxies, client_address, client_group
from sidecar.http.forward import Application, Headers, No, Request
from sidecar.http.tokens import Keys, Verifier
from sidecar.template import Template

__all__ = ["Denied", "Gate", "Granted", "Request", "Unavailable"]


@dataclass(frozen=True, slots=True)
class Granted:
    """A client that may read.

    `client` is who it is counted as (`sidecar.http.limits`); `expires_at` is when its stream must end, in seconds since
    1970, or None; `headers` belong into the answer (CORS, the application's cookies).
    """

    client: str
    claims: Mapping[str, object] = field(default_factory=dict)
    auth: Mapping[str, str] = field(default_factory=dict)
    expires_at: float | None = None
    headers: Headers = field(default_factory=list)

    def value(self, name: str) -> str | None:
        """What ``{claims.NAME}`` or ``{auth.NAME}`` stands for; None where there is no such value."""
        family, _, member = name.partition(".")
        return claim_text(self.claims, member) if family == "claims" else self.auth.get(member)


@dataclass(frozen=True, slots=True)
class Denied:
    """A client that may not read: the whole answer, and the reason in one line for the log."""

    status: int
    headers: Headers
    body: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """It cannot be said now. An event stream answers as to any failure that passes (SPEC §3)."""

    headers: Headers
    reason: str


class Gate:
    """The access rules of one route; without settings it lets everybody in."""

    def __init__(
        self,
        settings: Access,
        *,
        proxies: Proxies,
        keys: Keys | None = None,
        application: Application | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if (settings.jwt is None) != (keys is None) or (settings.forward is None) != (application is None):
            raise ValueError("a gate needs what its settings name, and nothing else")  # never open by an oversight
        self.settings = settings
        self._proxies = proxies
        self._clock = clock
        self._jwt = settings.jwt
        self._verifier = Verifier(settings.jwt, keys) if settings.jwt and keys else None
        self._sources = settings.jwt.token_sources if settings.jwt else ()
        self._requirements = [Requirement(*item) for item in (settings.jwt.required if settings.jwt else {}).items()]
        self._application = application
        self._cors = Cors(frozenset(settings.cors.origins), settings.cors.credentials) if settings.cors else None
        client = settings.limit.client if settings.limit else None
        self._client = Template.parse(client) if client is not None else None

    def preflight(self, request: Request) -> Preflight | None:
        """The answer to a CORS preflight; None when it is none, or the route knows no other origins."""
        return self._cors.preflight(request.method, request.headers) if self._cors else None

    def headers(self, request: Request) -> Headers:
        """What belongs into every answer, errors included, so that other origins' scripts may read it."""
        return self._cors.headers(request.headers) if self._cors else []

    def redacted(self, query: bytes) -> bytes:
        """A raw query as a log may show it."""
        return redact(query, self._jwt.secret_parameters if self._jwt else ())

    async def check(self, request: Request, parameters: Mapping[str, str]) -> Granted | Denied | Unavailable:
        """Whether this client may read now; `parameters` are those of the path, decoded. Never raises.

        It ends within `sidecar.http.jwks.FETCH_WITHIN` plus ``forward.within`` seconds.
        """
        cors = self.headers(request)
        try:
            granted = await self._granted(request, parameters)
        except _RefusedError as refused:
            answer = refused.answer
            return Denied(answer.status, answer.headers + cors, answer.body, answer.reason)
        except AwayError as away:
            return Unavailable(cors, str(away))
        granted.headers.extend(cors)
        return granted

    async def _granted(self, request: Request, parameters: Mapping[str, str]) -> Granted:
        claims, expires_at = await self._claims(request)
        self._require(claims, request, parameters)
        auth, headers = await self._asked(request)
        granted = Granted("", claims, auth, expires_at, headers)
        return Granted(self._counted_as(granted, request), claims, auth, expires_at, headers)

    async def _claims(self, request: Request) -> tuple[Mapping[str, object], float | None]:
        if self._verifier is None:
            return {}, None
        try:
            token = find_token(self._sources, request.headers, request.query)
            if token is None:
                raise _RefusedError(_unauthorized("no token"))
            verified = await self._verifier.verify(token, self._clock())
        except TokenError as error:
            raise _RefusedError(_unauthorized(str(error), "invalid_token")) from error
        return verified.claims, verified.expires_at

    def _require(self, claims: Mapping[str, object], request: Request, parameters: Mapping[str, str]) -> None:
        def value(name: str) -> str:
            return parameters[name] if name in parameters else query_value(request.query, name)

        missing = [wanted for wanted in self._requirements if not wanted.met(claims, value)]
        if missing:
            raise _RefusedError(_forbidden(missing, value))

    async def _asked(self, request: Request) -> tuple[Mapping[str, str], Headers]:
        if self._application is None:
            return {}, []
        answer = await self._application.ask(request)
        if isinstance(answer, No):
            reason = f"the application answered {answer.status}"
            raise _RefusedError(Denied(answer.status, answer.headers, answer.body, reason))
        return answer.auth, answer.headers

    def _counted_as(self, granted: Granted, request: Request) -> str:
        address = client_group(client_address(request.client, request.headers, self._proxies))
        if self._client is None:
            return address
        values = {name: granted.value(name) for name in self._client.names}
        # A token without that claim is counted by its address; the space keeps the two apart.
        return address if None in values.values() else "client " + self._client.render(lambda name: str(values[name]))


class Requirement:
    """What one claim must say: a value, or a template over the request; a scope's words are each a template."""

    def __init__(self, claim: str, wanted: Wanted) -> None:
        self.claim = claim
        # Split before anything is filled in: a parameter with a space in it must not become two scopes.
        texts = wanted.split() if claim in SCOPE_CLAIMS and isinstance(wanted, str) else [wanted]
        self._wanted = [Template.parse(text) if isinstance(text, str) else text for text in texts]

    def met(self, claims: Mapping[str, object], value: Callable[[str], str]) -> bool:
        """Whether the claims say so; `value` gives a placeholder's value, empty where there is none."""
        return all(holds(claims, self.claim, wanted) for wanted in self._filled(value))

    def scope(self, value: Callable[[str], str]) -> Iterable[str]:
        """The scopes asked for, as far as this is about scopes."""
        return [str(wanted) for wanted in self._filled(value)] if self.claim in SCOPE_CLAIMS else []

    def _filled(self, value: Callable[[str], str]) -> list[Wanted]:
        return [_fill(item, value) if isinstance(item, Template) else item for item in self._wanted]


def _fill(template: Template, value: Callable[[str], str]) -> str:
    """The text with its values; empty, which no claim equals, where one of them is empty."""
    values = {name: value(name) for name in template.names}
    return template.render(values.__getitem__) if all(values.values()) else ""


def query_value(query: bytes, name: str) -> str:
    """What ``{query.NAME}`` stands for; empty where it is absent, or there several times, or not UTF-8."""
    if not name.startswith("query."):
        return ""
    pairs = (pair.partition(b"=") for pair in query.split(b"&"))
    wanted = name.removeprefix("query.").encode()
    found = [value for key, _, value in pairs if query_name(key) == wanted]
    try:
        return unquote_to_bytes(found[0].replace(b"+", b" ")).decode() if len(found) == 1 else ""
    except UnicodeDecodeError:
        return ""


class _RefusedError(Exception):
    def __init__(self, answer: Denied) -> None:
        super().__init__(answer.reason)
        self.answer = answer


def _unauthorized(reason: str, error: str | None = None) -> Denied:
    """RFC 6750 §3.1: whoever has brought no token is not told of an error."""
    return _refusal(401, challenge(error, reason if error else ""), reason)


def _forbidden(missing: list[Requirement], value: Callable[[str], str]) -> Denied:
    scope = " ".join(word for requirement in missing for word in requirement.scope(value))
    reason = "the token does not allow this"
    return _refusal(403, challenge("insufficient_scope", reason, scope), reason)


def _refusal(status: int, challenge: bytes, reason: str) -> Denied:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"www-authenticate", challenge),
    ]
    return Denied(status, headers, reason.encode() + b"\n", reason)
