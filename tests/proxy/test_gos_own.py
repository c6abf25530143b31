"""The tests of Go's own reverse proxy (net/http/httputil, reverseproxy_test.go of Go 1.26), told again over the wire.

Left out is what concerns Go's interface (hooks, buffers, contexts); what differs on purpose says so. Each is asked over
HTTP/1.1 and over HTTP/2, but for what only one of them has.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio

from tests.proxy.client import Client2, client2
from tests.proxy.conftest import Beginning, Beside
from tests.proxy.origin import Asked, Conversation, Script, answering, ok

Pairs = tuple[tuple[str, str], ...]


@dataclass
class Told:
    """An answer as the client has it, whichever protocol carried it."""

    status: int
    fields: dict[str, str]
    body: bytes
    trailers: dict[str, str]


class Front:
    """A client of one protocol before the proxy."""

    def __init__(self, beside: Beginning, nursery: trio.Nursery, version: str) -> None:
        self._beside = beside
        self._nursery = nursery
        self.version = version

    async def before(self, script: Script, **settings: object) -> Beside:
        """A sidecar before this application."""
        self.sidecar = await self._beside(script, **settings)
        return self.sidecar

    async def ask(self, *fields: tuple[str, str], method: str = "GET", path: str = "/", body: bytes = b"") -> Told:
        """Send one request, and wait for its whole answer."""
        sized = (*fields, ("content-length", str(len(body)))) if body else fields
        return await (self._ask1 if self.version == "1.1" else self._ask2)(method, path, sized, body)

    async def _ask1(self, method: str, path: str, fields: Pairs, body: bytes) -> Told:
        lines = [f"{method} {path} HTTP/1.1", "host: some-name", *(f"{name}: {value}" for name, value in fields)]
        async with await self.sidecar.client() as client:
            await client.send("\r\n".join([*lines, "", ""]).encode() + body)
            status, head = await client.head()
            if head.get("transfer-encoding") != "chunked":
                return Told(status, head, await client.exactly(int(head["content-length"])), {})
            whole, raw = await client.chunks()
            pairs = (line.split(": ", 1) for line in raw.decode().splitlines())
            return Told(status, head, whole, {name.lower(): value for name, value in pairs})

    async def _ask2(self, method: str, path: str, fields: Pairs, body: bytes) -> Told:
        client: Client2 = await client2(self._nursery, self.sidecar.address)
        host = {":authority": "some-name"}.items()
        stream = await client.request(method, path, *fields, last=not body, pseudo=host)
        if body:
            await client.data(stream, body, last=True)
        await client.ended(stream)
        assert stream.reset is None, "the end came before the answer was whole"
        return Told(stream.status, stream.fields, bytes(stream.body), stream.trailers)


@pytest.fixture(params=["1.1", "2"])
def front(request: pytest.FixtureRequest, beside: Beginning, nursery: trio.Nursery) -> Front:
    """A client of HTTP/1.1, and one of HTTP/2."""
    return Front(beside, nursery, request.param)


def noting(seen: list[Asked], answer: bytes) -> Script:
    """A script that notes what it was asked."""

    async def script(conversation: Conversation) -> None:
        while True:
            seen.append(await conversation.head())
            await conversation.send(answer)

    return script


BACKEND = (
    b"HTTP/1.1 404 Not Found\r\nTrailers: not a special header field name\r\nTrailer: X-Trailer\r\nX-Foo: bar\r\n"
    b"Upgrade: foo\r\nX-Multi-Value: foo\r\nX-Multi-Value: bar\r\nSet-Cookie: flavor=chocolateChip\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n10\r\nI am the backend\r\n0\r\n"
    b"X-Trailer: trailer_value\r\nX-Unannounced-Trailer: unannounced_trailer_value\r\n\r\n"
)


async def test_reverse_proxy(front: Front) -> None:
    seen: list[Asked] = []
    await front.before(noting(seen, BACKEND))
    hop = (("connection", "close, TE"), ("te", "foo"), ("te", "bar, trailers"), ("proxy-connection", "x"))
    fields = (*hop, ("upgrade", "foo")) if front.version == "1.1" else (("te", "trailers"),)
    told = await front.ask(*fields)
    (asked,) = seen
    assert asked["host"] == "some-name"
    assert asked["x-forwarded-for"] == "127.0.0.1"
    assert (asked["te"], asked["connection"]) == ("trailers", "te")  # RFC 9110 §10.1.4; Go's leaves the second out
    assert not [name for name in ("transfer-encoding", "upgrade", "proxy-connection") if name in asked]
    assert (told.status, told.body) == (404, b"I am the backend")
    assert (told.fields["x-foo"], told.fields["trailers"]) == ("bar", "not a special header field name")
    assert told.fields["set-cookie"] == "flavor=chocolateChip"
    if front.version == "1.1":
        assert told.fields["x-multi-value"] == "foo, bar"
    assert told.fields["trailer"] == "X-Trailer"
    assert "upgrade" not in told.fields
    assert told.trailers == {"x-trailer": "trailer_value", "x-unannounced-trailer": "unannounced_trailer_value"}


async def test_hang_up(front: Front) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()

    await front.before(script)
    assert (await front.ask()).status == 502


@pytest.mark.parametrize("first", [b"Upgrade, X-Fake-Connection-Token", b"", b"x-other,X-FAKE-CONNECTION-TOKEN ,"])
async def test_strip_headers_present_in_connection(front: Front, first: bytes) -> None:
    seen: list[Asked] = []
    named = (b"Connection: " + first, b"Connection: X-Some-Conn-Header", b"X-Some-Conn-Header: should be deleted")
    token = (b"X-Fake-Connection-Token: should be deleted",) if b"fake" in first.lower() else ()
    await front.before(noting(seen, ok(b"I am the backend", *named, *token)))
    given = tuple((name.lower(), value) for name, _, value in (line.decode().partition(": ") for line in named + token))
    told = await front.ask(*(given if front.version == "1.1" else ()))
    assert told.body == b"I am the backend"
    for name in ("x-some-conn-header", "x-fake-connection-token", "connection"):
        assert name not in seen[0]
        assert name not in told.fields


async def test_x_forwarded_for(front: Front) -> None:
    """Go's appends to whatever it is told; here that is for those who are trusted (`trusted_proxies`)."""
    seen: list[Asked] = []
    prior = ("x-forwarded-for", "client ip")
    await front.before(noting(seen, ok()), trusted=["127.0.0.1"])
    await front.ask(prior)
    await front.before(noting(seen, ok()))
    await front.ask(prior)
    assert [asked["x-forwarded-for"] for asked in seen] == ["client ip, 127.0.0.1", "127.0.0.1"]


QUERIES = ["a=1&a=2;b=3", "a=1&a=%zz&b=3", "a=%zz", "a=1&" * 10_000 + "a=1", "static=query&other-query=1", "", "?"]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query[:20] or "empty")
async def test_query_parameter_smuggling(front: Front, query: str) -> None:
    """Nothing of a query is read here, so nothing is mended: the application gets the very bytes."""
    seen: list[Asked] = []
    await front.before(noting(seen, ok()))
    assert (await front.ask(path=f"/?{query}")).status == 200
    assert seen[0].line == f"GET /?{query} HTTP/1.1"


@pytest.mark.parametrize("agent", ["", "explicit UA"])
async def test_user_agent_header(front: Front, agent: str) -> None:
    seen: list[Asked] = []
    await front.before(noting(seen, ok()))
    await front.ask(*((("user-agent", agent),) if agent else ()))
    assert seen[0].values("user-agent") == ([agent] if agent else [])


async def test_post(front: Front) -> None:
    body = b"a" * (10 << 20)
    received: list[int] = []

    async def script(conversation: Conversation) -> None:
        asked = await conversation.head()
        assert asked["content-length"] == str(len(body))
        received.append(len(await conversation.exactly(len(body))))
        await conversation.send(ok(b"I am the backend"))

    await front.before(script)
    told = await front.ask(method="POST", body=body)
    assert (told.status, told.body, received) == (200, b"I am the backend", [len(body)])


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_nil_body(front: Front, method: str) -> None:
    """A request without a body gets none, neither a length nor an empty chunked one."""
    seen: list[Asked] = []
    await front.before(noting(seen, ok(b"hi")))
    assert (await front.ask(method=method)).body == b"hi"
    assert not [name for name in ("content-length", "transfer-encoding") if name in seen[0]]


async def test_1xx_responses(beside: Beginning, nursery: trio.Nursery) -> None:
    css, js, foo = (f"<{path}>; rel=preload" for path in ("/style.css", "/script.js", "/foo.js"))
    early = f"HTTP/1.1 103 Early Hints\r\nLink: {css}\r\nLink: {js}\r\n\r\n"
    processing = f"HTTP/1.1 102 Processing\r\nLink: {css}\r\nLink: {js}\r\nLink: {foo}\r\n\r\n"
    sidecar = await beside(answering((early + processing).encode() + ok(b"Hello", f"Link: {css}".encode())))
    async with await sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await client.head() == (103, {"link": f"{css}, {js}"})
        assert await client.head() == (102, {"link": f"{css}, {js}, {foo}"})
        status, fields, body = await client.answer()
        assert (status, fields["link"], body) == (200, css, b"Hello")
    http2 = await client2(nursery, sidecar.address)
    stream = await http2.ended(await http2.request("GET", "/"))
    assert [told[":status"] for told in stream.informed] == ["103", "102"]
    assert (stream.status, bytes(stream.body)) == (200, b"Hello")


async def test_invalid_upstream_100_continue_do_not_hang(beside: Beginning) -> None:
    sidecar = await beside(answering(ok()), away=True)
    async with await sidecar.client() as client:
        await client.send(
            b"POST http://doesnotexist/test-expect HTTP/1.1\r\nHost: doesnotexist\r\n"
            b"Content-Type: application/json\r\nContent-Length: 16\r\nExpect: 100-continue\r\n\r\n"
        )
        assert (await client.answer())[0] == 502


async def test_panic_body_error(front: Front) -> None:
    """An answer that breaks off is broken for the client too."""

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\nthis call was relayed by the proxy")

    await front.before(script)
    with pytest.raises(AssertionError, match="the end came before"):
        await front.ask()
