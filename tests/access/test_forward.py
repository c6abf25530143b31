"""The application's word, asked over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from sidecar.config.access import Access
from sidecar.forwarded import Proxies
from sidecar.http.access import Denied, Gate, Granted, Unavailable
from sidecar.http.forward import MAX_BODY
from sidecar.http.gatehouse import Gatehouse
from tests.access.requests import AnyRequest
from tests.access.server import Answer, Asked, Reply, Server

PROXIES = Proxies.parse(["10.0.0.0/8"])


def always(reply: Reply | None) -> Answer:
    async def answer(_asked: Asked) -> Reply | None:
        return reply

    return answer


@asynccontextmanager
async def application(answer: Answer, **forward: Any) -> AsyncIterator[tuple[Gate, Server]]:
    async with trio.open_nursery() as nursery:
        server = Server(answer)
        await server.listen(nursery)
        gate = await gate_to(nursery, {"url": server.url + "/may-read?x=1", **forward})
        with trio.fail_after(10):
            yield gate, server
        nursery.cancel_scope.cancel()


async def gate_to(nursery: trio.Nursery, forward: dict[str, Any]) -> Gate:
    house = Gatehouse()
    await nursery.start(house.run)
    access = {"forward": forward, "cors": {"origins": ["https://app.example"], "credentials": True}}
    return house.gate(Access.model_validate(access), PROXIES)


async def test_yes_with_values_and_cookies() -> None:
    headers = [
        (b"X-User-Id", b"ada"),
        (b"X-Other", b"not taken"),
        (b"Set-Cookie", b"session=new; HttpOnly"),
        (b"Set-Cookie", b"seen=1"),
        (b"Content-Type", b"text/plain"),
    ]
    async with application(always(Reply(204, headers=headers)), take={"user": "X-User-ID", "team": "x-team"}) as (
        gate,
        _,
    ):
        answer = await gate.check(AnyRequest([(b"origin", b"https://app.example")]), {})
    assert isinstance(answer, Granted)
    assert answer.auth == {"user": "ada"}
    assert (answer.value("auth.user"), answer.value("auth.team"), answer.value("claims.sub")) == ("ada", None, None)
    assert [value for name, value in answer.headers if name == b"set-cookie"] == [b"session=new; HttpOnly", b"seen=1"]
    assert dict(answer.headers)[b"access-control-allow-origin"] == b"https://app.example"
    assert b"content-type" not in dict(answer.headers)
    assert answer.expires_at is None


async def test_what_the_application_is_shown() -> None:
    request = AnyRequest(
        headers=[
            (b"host", b"events.example"),
            (b"authorization", b"Bearer x"),
            (b"cookie", b"a=b"),
            (b"cookie", b"session=s"),
            (b"x-secret", b"not passed"),
            (b"connection", b"close"),
            (b"x-forwarded-for", b"1.1.1.1"),
            (b"x-forwarded-method", b"DELETE"),
            (b"x-forwarded-proto", b"https"),
            (b"last-event-id", b"7"),
        ],
        path=b"/events/a%20b/\xc3\xa9",
        query=b"x=%00&y",
        method="HEAD",
    )
    async with application(always(Reply())) as (gate, server):
        await gate.check(request, {})
        (asked,) = server.asked
    assert (asked.method, asked.target) == ("GET", "/may-read?x=1")
    assert asked.header("cookie") == ["a=b; session=s"]
    assert asked.header("authorization") == ["Bearer x"]
    assert asked.header("x-forwarded-method") == ["HEAD"]
    assert asked.header("x-forwarded-uri") == ["/events/a%20b/\xc3\xa9?x=%00&y"]
    assert asked.header("x-forwarded-host") == ["events.example"]
    assert asked.header("x-forwarded-proto") == ["http"]
    assert asked.header("x-forwarded-for") == ["192.0.2.1"]
    assert asked.header("x-secret") == asked.header("last-event-id") == []


async def test_a_trusted_proxys_words_are_kept() -> None:
    headers = [
        (b"host", b"inner"),
        (b"x-forwarded-for", b"198.51.100.7"),
        (b"x-forwarded-host", b"events.example"),
        (b"x-forwarded-proto", b"https"),
    ]
    async with application(always(Reply())) as (gate, server):
        await gate.check(AnyRequest(headers, client=("10.0.0.1", 1)), {})
        (asked,) = server.asked
    assert asked.header("x-forwarded-for") == ["198.51.100.7, 10.0.0.1"]
    assert asked.header("x-forwarded-host") == ["events.example"]
    assert asked.header("x-forwarded-proto") == ["https"]


async def test_only_the_headers_of_pass_are_shown() -> None:
    async with application(always(Reply()), **{"pass": ["X-Api-Key"]}) as (gate, server):
        await gate.check(AnyRequest([(b"cookie", b"a=b"), (b"authorization", b"x"), (b"x-api-key", b"k")]), {})
        (asked,) = server.asked
    assert asked.header("x-api-key") == ["k"]
    assert asked.header("cookie") == asked.header("authorization") == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 400, 401, 403, 404, 410, 429, 451])
async def test_no_in_the_applications_words(status: int) -> None:
    headers = [
        (b"WWW-Authenticate", b'Basic realm="a"'),
        (b"WWW-Authenticate", b"Bearer"),
        (b"Location", b"/login"),
        (b"Set-Cookie", b"a=b"),
        (b"Content-Type", b"application/problem+json"),
        (b"X-Internal", b"not handed on"),
        (b"Connection", b"keep-alive"),
    ]
    async with application(always(Reply(status, b'{"why": 1}', headers))) as (gate, _):
        answer = await gate.check(AnyRequest(), {})
    assert isinstance(answer, Denied)
    assert (answer.status, answer.body) == (status, b'{"why": 1}')
    assert answer.headers == [
        *((name.lower(), value) for name, value in headers[:5]),
        (b"vary", b"Origin"),
    ]


async def test_a_long_refusal_loses_its_body() -> None:
    reply = Reply(403, b"x" * (MAX_BODY + 1), [(b"content-type", b"text/html"), (b"set-cookie", b"a=b")])
    async with application(always(reply)) as (gate, _):
        answer = await gate.check(AnyRequest(), {})
    assert isinstance(answer, Denied)
    assert (answer.status, answer.body) == (403, b"")
    assert [name for name, _ in answer.headers] == [b"set-cookie", b"vary"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(500), "the application answered 500"),
        (Reply(503, b"busy"), "the application answered 503"),
        (None, "the application cannot be asked: Server disconnected without sending a response."),
    ],
)
async def test_no_answer_is_neither_yes_nor_no(reply: Reply | None, reason: str) -> None:
    async with application(always(reply)) as (gate, _):
        answer = await gate.check(AnyRequest([(b"origin", b"https://app.example")]), {})
    assert isinstance(answer, Unavailable)
    assert answer.reason == reason
    assert dict(answer.headers)[b"access-control-allow-origin"] == b"https://app.example"


async def test_a_silent_application_holds_nobody_longer_than_within() -> None:
    async def silence(_asked: Asked) -> Reply:
        await trio.sleep_forever()
        raise AssertionError

    async with application(silence, within="100ms") as (gate, _):
        answer = await gate.check(AnyRequest(), {})
    assert answer == Unavailable([(b"vary", b"Origin")], "the application has not answered within 0.1s")


async def test_an_application_that_is_not_there() -> None:
    async with application(always(Reply()), url="http://127.0.0.1:1/") as (gate, _):
        answer = await gate.check(AnyRequest(), {})
    assert isinstance(answer, Unavailable)


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        server = Server(always(Reply(headers=[(b"x-user", b"ada")])))
        await server.listen_unix(nursery, tmp_path / "app.sock")
        url = f"http://unix:{tmp_path}/app.sock:/may-read?x=1"
        gate = await gate_to(nursery, {"url": url, "take": {"user": "x-user"}})
        with trio.fail_after(10):
            answer = await gate.check(AnyRequest(client=None), {})
        nursery.cancel_scope.cancel()
    assert isinstance(answer, Granted)
    assert answer.auth == {"user": "ada"}
    assert server.asked[0].target == "/may-read?x=1"
    assert server.asked[0].header("x-forwarded-for") == [""]


async def test_one_users_cookies_are_not_sent_for_the_next() -> None:
    """A client library that keeps cookies would make everybody the one who logged in last."""

    async def log_in(asked: Asked) -> Reply:
        return Reply(200, headers=[(b"set-cookie", b"session=ada; Path=/"), (b"x-user", b",".join(_cookies(asked)))])

    async with application(log_in, take={"user": "x-user"}) as (gate, server):
        for _ in range(3):
            assert isinstance(await gate.check(AnyRequest(), {}), Granted)
    assert [asked.header("cookie") for asked in server.asked] == [[], [], []]


def _cookies(asked: Asked) -> list[bytes]:
    return [value for name, value in asked.headers if name == b"cookie"]


async def test_redirects_are_not_followed_on_the_clients_behalf() -> None:
    async with application(always(Reply(302, headers=[(b"location", b"/elsewhere")]))) as (gate, server):
        answer = await gate.check(AnyRequest(), {})
    assert isinstance(answer, Denied)
    assert dict(answer.headers)[b"location"] == b"/elsewhere"
    assert len(server.asked) == 1


async def test_one_connection_serves_many_questions() -> None:
    async with application(always(Reply(200, b"some words"))) as (gate, server):
        for _ in range(20):
            assert isinstance(await gate.check(AnyRequest(), {}), Granted)
    assert (len(server.asked), server.connections) == (20, 1)


async def test_a_connection_that_the_application_closed_meanwhile_costs_nothing() -> None:
    async with application(always(Reply(200, close_after=True))) as (gate, server):
        for _ in range(20):
            assert isinstance(await gate.check(AnyRequest(), {}), Granted)
    assert server.connections == 20


@pytest.mark.parametrize("value", [b"a\r\nx-injected: 1", b"a\nb", b"a\0b"])
async def test_what_cannot_stand_in_a_header_is_not_sent(value: bytes) -> None:
    async with application(always(Reply())) as (gate, server):
        answer = await gate.check(AnyRequest([(b"cookie", value)]), {})
    assert isinstance(answer, Unavailable)
    assert server.asked == []


async def test_at_a_time_no_more_than_the_bound_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.http.forward.CONNECTIONS", 3)
    waiting, full = 0, trio.Event()

    async def in_threes(_asked: Asked) -> Reply:
        """Nobody is answered before three have asked."""
        nonlocal waiting, full
        waiting += 1
        if waiting % 3 == 0:
            full.set()
            full = trio.Event()
        else:
            await full.wait()
        return Reply()

    answers: list[object] = []

    async def ask(check: Callable[..., Any]) -> None:
        answers.append(await check(AnyRequest(), {}))

    async with application(in_threes) as (gate, server), trio.open_nursery() as nursery:
        for _ in range(12):
            nursery.start_soon(ask, gate.check)
    assert [type(answer) for answer in answers] == [Granted] * 12
    assert server.connections == 3
