"""A table of origins, each with what a browser is told."""

from __future__ import annotations

import pytest

from sidecar.access import Cors

APP = b"https://app.example"
OWN = Cors(frozenset({"https://app.example", "http://localhost:3000", "https://[2001:db8::1]:8443"}), credentials=True)
VARY = (b"vary", b"Origin")


def from_origin(*origins: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"origin", origin) for origin in origins]


@pytest.mark.parametrize("origin", [APP, b"http://localhost:3000", b"https://[2001:db8::1]:8443"])
def test_an_origin_of_the_list_may_read_with_cookies(origin: bytes) -> None:
    assert OWN.headers(from_origin(origin)) == [
        VARY,
        (b"access-control-allow-origin", origin),
        (b"access-control-allow-credentials", b"true"),
    ]


@pytest.mark.parametrize(
    "origin",
    [
        b"null",
        b"",
        b"*",
        b"https://app.example.evil.example",
        b"https://evilapp.example",
        b"https://sub.app.example",
        b"https://app.example.",
        b"https://app.examplf",
        b"https://app.exampl",
        b"http://app.example",
        b"HTTPS://app.example",
        b"https://APP.example",
        b"https://app.example:443",
        b"https://app.example:8443",
        b"https://app.example/",
        b"https://app.example#x",
        b"https://app.example@evil.example",
        b"https://evil.example?https://app.example",
        b"https://app.example, https://evil.example",
        b"https://app.example https://evil.example",
        b" https://app.example",
        b"https://app.example\t",
        b"https://\xd0\xb0pp.example",
        b"http://localhost",
        b"http://localhost:30000",
        b"http://127.0.0.1:3000",
        b"file://",
        b"chrome-extension://abc",
    ],
)
def test_every_other_origin_is_told_nothing(origin: bytes) -> None:
    assert OWN.headers(from_origin(origin)) == [VARY]
    asked = [*from_origin(origin), (b"access-control-request-method", b"GET")]
    answer = OWN.preflight("OPTIONS", asked)
    assert answer is not None
    assert (answer.status, answer.headers) == (403, [VARY])


def test_two_origins_are_none() -> None:
    assert OWN.headers(from_origin(APP, APP)) == [VARY]


def test_a_request_without_an_origin_gets_an_answer_of_its_own_in_caches() -> None:
    assert OWN.headers([]) == [VARY]


def test_everybody_without_credentials() -> None:
    assert Cors(frozenset({"*"})).headers(from_origin(b"null")) == [(b"access-control-allow-origin", b"*")]


@pytest.mark.parametrize(("origins", "credentials"), [({"*"}, True), ({"*", "https://app.example"}, False)])
def test_everybody_never_with_credentials_nor_beside_others(origins: set[str], credentials: bool) -> None:
    with pytest.raises(ValueError, match="stands alone"):
        Cors(frozenset(origins), credentials)


def test_without_credentials_cookies_do_not_count() -> None:
    names = [name for name, _ in Cors(frozenset({"https://app.example"})).headers(from_origin(APP))]
    assert names == [b"vary", b"access-control-allow-origin"]


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_preflight_may_ask_for_the_headers_of_event_stream_clients(method: bytes) -> None:
    asked = [
        *from_origin(APP),
        (b"access-control-request-method", method),
        (b"access-control-request-headers", b"authorization,last-event-id"),
    ]
    answer = OWN.preflight("OPTIONS", asked)
    assert answer is not None
    headers = dict(answer.headers)
    assert answer.status == 204
    assert headers[b"access-control-allow-origin"] == APP
    assert headers[b"access-control-allow-credentials"] == b"true"
    assert headers[b"access-control-allow-methods"] == b"GET, HEAD"
    assert {b"Last-Event-ID", b"Authorization"} <= set(headers[b"access-control-allow-headers"].split(b", "))
    assert headers[b"access-control-max-age"] == b"600"
    assert headers[b"vary"] == b"Origin"


@pytest.mark.parametrize("methods", [[b"POST"], [b"DELETE"], [b"get"], [b"GET, POST"], [b"GET", b"GET"], [b""]])
def test_a_preflight_for_another_method_is_refused(methods: list[bytes]) -> None:
    asked = from_origin(APP) + [(b"access-control-request-method", method) for method in methods]
    answer = OWN.preflight("OPTIONS", asked)
    assert answer is not None
    assert answer.status == 403
    assert b"access-control-allow-methods" not in dict(answer.headers)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("OPTIONS", from_origin(APP)),
        ("OPTIONS", [(b"access-control-request-method", b"GET")]),
        ("GET", [*from_origin(APP), (b"access-control-request-method", b"GET")]),
        ("OPTIONS", []),
    ],
)
def test_what_is_no_preflight(method: str, headers: list[tuple[bytes, bytes]]) -> None:
    assert OWN.preflight(method, headers) is None
