"""Forward authentication: the application next door is asked by a GET whether this client may read.

Strategy: the question carries what the application needs to recognise its own user (the headers of ``pass``) and what
it would have seen itself (``X-Forwarded-*``), nothing else. 2xx is yes; 3xx and 4xx are the application's words to the
client and are handed on; 5xx, silence and nonsense are no answer at all: a failure that passes, and never a yes.
One time limit covers the whole exchange, the wait for a free connection included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, Protocol

import httpx
import trio

from sidecar.access import AwayError, values
from sidecar.config.access import Forward, unix_socket
from sidecar.forwarded import Proxies, read_address

MAX_BODY: Final = 64 * 1024
"""The longest body of a refusal that is handed on; of a longer one only the head is."""

CONNECTIONS: Final = 100
"""Connections to one application; further questions wait for one, within their time limit."""

_OF_THE_BODY: Final = frozenset({"content-type", "content-encoding", "content-language"})
_COOKIES: Final = frozenset({"set-cookie"})

HANDED_ON: Final = _OF_THE_BODY | _COOKIES | {"cache-control", "location", "retry-after", "www-authenticate"}
"""The headers of a refusal that the client gets."""

Headers = list[tuple[bytes, bytes]]


class Request(Protocol):
    """What access control needs to know of a request; header names are in lower case."""

    @property
    def method(self) -> str:
        """``GET``."""

    @property
    def path(self) -> bytes:
        """The raw path, without the query."""

    @property
    def query(self) -> bytes:
        """The raw query, without ``?``."""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Names in lower case, values as they came, in order."""

    @property
    def scheme(self) -> str:
        """``http`` or ``https``, of the connection itself."""

    @property
    def client(self) -> tuple[str, int] | None:
        """The peer's address and port; None on a unix socket."""


@dataclass(frozen=True, slots=True)
class Yes:
    """The application agrees: the values it gives, and the cookies it sets."""

    auth: Mapping[str, str]
    headers: Headers = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class No:
    """The application refuses, in these words."""

    status: int
    headers: Headers
    body: bytes


class Application:
    """One application to ask, over connections of its own client."""

    def __init__(self, settings: Forward, client: httpx.AsyncClient, proxies: Proxies) -> None:
        self._client = client
        self._proxies = proxies
        self._within = settings.within
        self._passed = frozenset(name.encode() for name in settings.passed)
        self._take = settings.take
        socket = unix_socket(settings.url)
        self._url = httpx.URL(f"http://localhost{socket[1]}" if socket else settings.url)

    async def ask(self, request: Request) -> Yes | No:
        """The application's word on this request. Raises `AwayError`."""
        headers = self._question(request)
        try:
            with trio.fail_after(self._within):
                return await self._asked(headers)
        except trio.TooSlowError:
            raise AwayError(f"the application has not answered within {self._within:g}s") from None
        except httpx.HTTPError as error:
            raise AwayError(f"the application cannot be asked: {str(error) or type(error).__name__}") from error

    async def _asked(self, headers: Headers) -> Yes | No:
        try:
            return await self._once(headers)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            # A kept-alive connection that the application has closed meanwhile; a GET may be sent again.
            return await self._once(headers)

    async def _once(self, headers: Headers) -> Yes | No:
        async with self._client.stream("GET", self._url, headers=headers) as response:
            body = await _body(response)
            if response.status_code < 300:
                return Yes(self._taken(response), _handed_on(response, _COOKIES))
            if response.status_code >= 500:
                raise AwayError(f"the application answered {response.status_code}")
            said = HANDED_ON if body is not None else HANDED_ON - _OF_THE_BODY
            return No(response.status_code, _handed_on(response, said), body or b"")

    def _taken(self, response: httpx.Response) -> dict[str, str]:
        headers = response.headers
        return {name: headers[field] for name, field in self._take.items() if field in headers}

    def _question(self, request: Request) -> Headers:
        passed = [(name, value) for name, value in request.headers if name in self._passed and name != b"cookie"]
        cookies = values(request.headers, b"cookie") if b"cookie" in self._passed else []
        # One cookie header for HTTP/1.1, however many HTTP/2 made of it (RFC 9113 §8.2.3).
        passed += [(b"cookie", b"; ".join(cookies))] if cookies else []
        return [*passed, *self._about(request)]

    def _about(self, request: Request) -> Headers:
        """``X-Forwarded-*``: what a trusted proxy in front of us has said, else what is known here."""
        trusted = (read_address(request.client[0]) if request.client else None) in self._proxies
        given = {name: b", ".join(values(request.headers, name)) for name, _ in request.headers if trusted}
        peer = request.client[0].encode() if request.client else b""
        query = b"?" + request.query if request.query else b""
        host = b", ".join(values(request.headers, b"host") or values(request.headers, b":authority"))
        chain = [hop for hop in (given.get(b"x-forwarded-for"), peer) if hop]
        return [
            (b"x-forwarded-method", request.method.encode()),
            (b"x-forwarded-uri", request.path + query),
            (b"x-forwarded-host", given.get(b"x-forwarded-host") or host),
            (b"x-forwarded-proto", given.get(b"x-forwarded-proto") or request.scheme.encode()),
            (b"x-forwarded-for", b", ".join(chain)),
        ]


async def _body(response: httpx.Response) -> bytes | None:
    """The body as it came, read to its end so that the connection can be used again; None when it is too long."""
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return body


def _handed_on(response: httpx.Response, names: frozenset[str]) -> Headers:
    """The headers of these names, in order, each line by itself (Set-Cookie cannot be joined)."""
    return [(name.lower(), value) for name, value in response.headers.raw if name.lower().decode("latin-1") in names]


def new_client(url: str = "", *, environment: bool = False) -> httpx.AsyncClient:
    """A client for questions: no redirects, no compression, no time limit of its own (the caller holds it).

    `url` matters where it names a unix socket. With `environment`, HTTPS_PROXY and SSL_CERT_FILE count.
    """
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    socket = unix_socket(url)
    transport = httpx.AsyncHTTPTransport(uds=socket[0], limits=limits) if socket else None
    headers = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "sidecar"}
    # The client would keep the cookies of one user's answer and send them with the next one's question.
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    return httpx.AsyncClient(
        transport=transport,
        limits=limits,
        headers=headers,
        cookies=no_cookies,
        timeout=None,
        trust_env=environment,
        follow_redirects=False,
    )
