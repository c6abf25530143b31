"""Which answer a request gets, before any event."""

from __future__ import annotations

import pytest
from trio.testing import MockClock

from sidecar.http.dispatch import accepts_event_stream
from sidecar.http.request import Request, split_target
from tests.http.desk import desk
from tests.server.serving import NEWS, news


@pytest.mark.parametrize(
    ("accept", "allowed"),
    [
        ("", True),
        ("text/event-stream", True),
        ("TEXT/Event-Stream", True),
        ("text/event-stream;charset=utf-8", True),
        ("text/*", True),
        ("*/*", True),
        ("text/html, */*;q=0.1", True),
        ("text/html", False),
        ("application/json, text/plain", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream;q=0, */*", False),
        ("*/*;q=0, text/event-stream", True),
        ("text/*;q=0.000, */*", False),
        ("text/event-stream ; q=0.5", True),
        ("text/event-stream;q=nonsense", False),
        (" , ", False),
    ],
)
def test_what_an_accept_field_allows(accept: str, allowed: bool) -> None:
    assert accepts_event_stream(accept) is allowed


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        (b"/a?b=c", (b"/a", b"b=c")),
        (b"/a??b", (b"/a", b"?b")),
        (b"http://example.com/a?b", (b"/a", b"b")),
        (b"https://example.com", (b"/", b"")),
        (b"*", (b"*", b"")),
        (b"/http://x/y", (b"/http://x/y", b"")),
    ],
)
def test_a_target_in_parts(target: bytes, parts: tuple[bytes, bytes]) -> None:
    assert split_target(target) == parts


def test_of_a_repeated_query_field_the_first_counts() -> None:
    request = Request("GET", b"/", b"a=1&a=2&b=%C3%BC&c=%ff&d&e=a+b", [], "1.1", "http", None)
    assert request.query_fields() == {"a": "1", "b": "ü", "c": "\udcff", "d": "", "e": "a b"}


@pytest.mark.parametrize("path", ["/", "/events", "/events/a/b", "/Events/a", "/events//a", "*"])
async def test_what_no_route_takes_is_left_to_the_application(path: str, autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        assert at.ask(path) is None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "get", "QUERY"])
async def test_other_methods_are_told_which_are_allowed(method: str, autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        answer = await at.open(method=method)
        assert (answer.status, answer.header(b"allow")) == (405, b"GET, HEAD")
        await at.quiet()


async def test_who_wants_something_else_gets_406(autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        answer = await at.open(accept="text/html")
        assert answer.status == 406
        assert b"text/event-stream" in answer.body
        assert (await at.open(accept=None)).status == 200


@pytest.mark.parametrize(
    "value",
    [
        "%23",
        "*",
        "a.b",
        ".",
        "%00",
        "%0d",
        "%0A",
        "",
        "%ff",
        "x" * 256,
        "%C3%BC" * 128,
        "%7f",
        "a%2Eb",
        "%C2%85",
    ],
)
async def test_a_value_that_is_no_word_gets_400_and_no_binding(value: str, autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        answer = at.ask(f"/events/{value}")
        assert answer is not None
        assert answer.status == 400
        assert answer.body == b"name must be one word of a routing key: not empty, at most 255 bytes, no . * #\n"
        assert at.room.broker.asked == []
        await at.quiet()


@pytest.mark.parametrize("value", ["a", "ü", "%C3%BC", "a%2Fb", "x" * 255, "a b", "%25", "-_~!$&'()+,;=:@"])
async def test_any_other_value_is_one_word(value: str, autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        answer = await at.open(f"/events/{value}")
        assert answer.status == (400 if value == "ü" else 200)  # sent as Latin-1, which is no UTF-8


async def test_a_value_may_come_from_the_query(autojump_clock: MockClock) -> None:
    async with desk(news(binding_key="{name}.{query.kind}.#")) as at:
        missing = await at.open("/events/a?other=1")
        assert (missing.status, missing.body) == (400, b"the query must name kind\n")
        for bad in ("", "*", "a.b", "%23"):
            assert (await at.open(f"/events/a?kind={bad}")).status == 400
        assert (await at.open("/events/a?kind=paid")).status == 200
        assert at.room.broker.keys == {"a.paid.#"}


async def test_a_key_longer_than_amqp_allows(autojump_clock: MockClock) -> None:
    async with desk(news(binding_key="{name}.{name}")) as at:
        assert (await at.open("/events/" + "x" * 127)).status == 200
        assert (await at.open("/events/" + "x" * 128)).status == 400


async def test_header_values_need_not_be_words_but_must_be_text(autojump_clock: MockClock) -> None:
    headers = {"x-match": "all", "tenant": "{name}"}
    route = {"path": "/h/{name}", "exchange": "h", "declare": {"type": "headers"}, "binding_headers": headers}
    async with desk(route) as at:
        answer = await at.open("/h/a.b%23*")
        await at.room.publish("", "mine", exchange="h", headers={"tenant": "a.b#*"})
        await at.room.publish("", "not mine", exchange="h", headers={"tenant": "other"})
        assert [event.data for event in answer.stream.events] == ["mine"]
        for bad in ("%00", "%0a", "%ff"):
            assert (await at.open(f"/h/{bad}")).status == 400


@pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "1e400", "99999999999999999999", "-5"])
async def test_a_start_that_is_no_time(since: str, autojump_clock: MockClock) -> None:
    async with desk(NEWS) as at:
        assert (await at.open(f"/events/a?since={since}")).status == 400
        await at.quiet()


async def test_the_most_specific_route_wins(autojump_clock: MockClock) -> None:
    async with desk(NEWS, news(path="/events/all", binding_key="#")) as at:
        everything, one = await at.open("/events/all"), await at.open("/events/b")
        await at.room.publish("a", "x")
        assert [event.data for event in everything.stream.events] == ["x"]
        assert one.stream.events == []
