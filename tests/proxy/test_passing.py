"""The rules of what goes on to the next hop, as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.forwarded import Proxies
from sidecar.http.passing import (
    FORWARDING,
    FRAMING,
    HOP_BY_HOP,
    NO_TRAILERS,
    Fields,
    Head,
    RefusedError,
    answered,
    asked,
    trailers,
    upgrade,
)

HOST = (b"host", b"shop.example")
PEER = ("192.0.2.7", 4711)
TRUSTED = Proxies.parse(["192.0.2.0/24", "2001:db8::/32", "unix"])
NOBODY = Proxies()


def head(
    *fields: tuple[bytes, bytes],
    method: bytes = b"GET",
    target: bytes = b"/",
    version: str = "1.1",
    peer: tuple[str, int] | None = PEER,
    body: bool = False,
) -> Head:
    return Head(method, target, list(fields), version, "http", peer, body)


def sent(request: Head, proxies: Proxies = NOBODY) -> Fields:
    """The fields that reach the application, without those that say who the client is."""
    return [field for field in asked(request, proxies, b"app:80")[1] if field[0] not in FORWARDING]


def forwarding(request: Head, proxies: Proxies = NOBODY) -> dict[str, str]:
    return {n.decode(): v.decode() for n, v in asked(request, proxies, b"app:80")[1] if n in FORWARDING}


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        pytest.param([(b"accept", b"*/*")], [(b"accept", b"*/*")], id="ordinary"),
        pytest.param([(b"cookie", b"a"), (b"cookie", b"b")], [(b"cookie", b"a"), (b"cookie", b"b")], id="repeated"),
        pytest.param([(b"keep-alive", b"timeout=5")], [], id="keep-alive"),
        pytest.param([(b"proxy-connection", b"keep-alive")], [], id="proxy-connection"),
        pytest.param([(b"connection", b"X-Mine, close"), (b"x-mine", b"1")], [], id="named by Connection"),
        pytest.param(
            [(b"connection", b"a"), (b"connection", b"B"), (b"a", b"1"), (b"b", b"2"), (b"c", b"3")],
            [(b"c", b"3")],
            id="two Connection fields",
        ),
        pytest.param(
            [(b"connection", b"content-length, host"), (b"content-length", b"0")],
            [(b"content-length", b"0")],
            id="Connection cannot take the framing away",
        ),
        pytest.param([(b"te", b"gzip, trailers")], [(b"connection", b"te"), (b"te", b"trailers")], id="te"),
        pytest.param([(b"te", b"gzip")], [], id="te without trailers"),
        pytest.param([(b"trailer", b"x-sum")], [(b"trailer", b"x-sum")], id="trailer is announced"),
        pytest.param([(b"upgrade", b"h2c"), (b"connection", b"upgrade"), (b"http2-settings", b"A")], [], id="h2c"),
        pytest.param([(b"upgrade", b"websocket")], [], id="upgrade without Connection"),
        pytest.param(
            [(b"upgrade", b"websocket"), (b"connection", b"keep-alive, Upgrade"), (b"origin", b"http://a")],
            [(b"origin", b"http://a"), (b"connection", b"upgrade"), (b"upgrade", b"websocket")],
            id="websocket",
        ),
        pytest.param([(b"expect", b"100-continue")], [], id="expect is met here"),
        pytest.param([(b"x_forwarded_for", b"1.2.3.4")], [], id="x_forwarded_for in WSGI's eyes"),
        pytest.param([(b"content_length", b"5")], [], id="content_length in WSGI's eyes"),
        pytest.param([(b"x_mine", b"1")], [(b"x_mine", b"1")], id="an underscore of its own"),
        pytest.param([(b"authorization", b"Basic x")], [(b"authorization", b"Basic x")], id="authorization"),
    ],
)
def test_fields_of_a_request(given: Fields, passed: Fields) -> None:
    assert sent(head(HOST, *given)) == [HOST, *passed]


def test_a_body_of_unknown_length_is_chunked() -> None:
    assert sent(head(HOST, method=b"POST", version="2", body=True)) == [HOST, (b"transfer-encoding", b"chunked")]
    sized = (b"content-length", b"5")
    assert sent(head(HOST, sized, method=b"POST", body=True)) == [HOST, sized]


@pytest.mark.parametrize(
    ("method", "target", "origin_form", "host"),
    [
        (b"GET", b"/a/%2e%2e/b?c=/d&e", b"/a/%2e%2e/b?c=/d&e", b"shop.example"),
        (b"GET", b"/?", b"/?", b"shop.example"),
        (b"GET", b"//evil.example/x", b"//evil.example/x", b"shop.example"),
        (b"GET", b"http://other.example:81/a?b", b"/a?b", b"other.example:81"),
        (b"GET", b"HTTPS://other.example", b"/", b"other.example"),
        (b"GET", b"http://other.example?b", b"/?b", b"other.example"),
        (b"GET", b"http://[::1]:80/a", b"/a", b"[::1]:80"),
        (b"OPTIONS", b"*", b"*", b"shop.example"),
        (b"OPTIONS", b"http://other.example", b"*", b"other.example"),
    ],
)
def test_targets(method: bytes, target: bytes, origin_form: bytes, host: bytes) -> None:
    written, fields = asked(head(HOST, method=method, target=target), NOBODY, b"app:80")
    assert (written, fields[0]) == (origin_form, (b"host", host))


def test_a_client_of_http_1_0_need_name_no_host() -> None:
    assert sent(head(version="1.0")) == [(b"host", b"app:80")]


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        pytest.param(400, head(HOST, target=b"*"), id="asterisk without OPTIONS"),
        pytest.param(400, head(HOST, target=b"a/b"), id="relative target"),
        pytest.param(400, head(HOST, target=b"ftp://a/b"), id="foreign scheme"),
        pytest.param(400, head(HOST, target=b"http://user@a/"), id="user in the authority"),
        pytest.param(400, head(HOST, target=b"http:///a"), id="no authority"),
        pytest.param(400, head(HOST, target=b"/a b"), id="a space in the target"),
        pytest.param(400, head(HOST, target=b"/a\r\nx: y"), id="a line end in the target"),
        pytest.param(400, head(HOST, target=b"/a#b"), id="fragment"),
        pytest.param(400, head(HOST, target=b"/\xc3\xa4"), id="raw UTF-8"),
        pytest.param(400, head(HOST, target=b""), id="no target"),
        pytest.param(501, head(HOST, method=b"CONNECT", target=b"a:443"), id="CONNECT"),
        pytest.param(501, head(HOST, method=b"GET /x HTTP/1.1\r\nA:"), id="a method that is none"),
        pytest.param(400, head(HOST, HOST), id="two hosts"),
        pytest.param(400, head((b"host", b"a b")), id="a host with a space"),
        pytest.param(400, head((b"host", b"a/b")), id="a host with a path"),
        pytest.param(400, head((b"host", b"a@b")), id="a host with a user"),
        pytest.param(
            400, head(HOST, (b"content-length", b"3"), (b"transfer-encoding", b"chunked"), body=True), id="two framings"
        ),
        pytest.param(400, head(HOST, (b"transfer-encoding", b"chunked"), version="1.0", body=True), id="chunked 1.0"),
        pytest.param(
            400, head(HOST, (b"content-length", b"3"), (b"content-length", b"3"), body=True), id="two lengths"
        ),
        pytest.param(400, head(HOST, (b"content-length", b"3"), version="2"), id="a length without a body"),
        pytest.param(417, head(HOST, (b"expect", b"the unexpected")), id="expectation"),
    ],
)
def test_what_does_not_go_on(status: int, request_: Head) -> None:
    with pytest.raises(RefusedError) as refused:
        asked(request_, NOBODY, b"app:80")
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("peer", "given", "passed"),
    [
        pytest.param(
            PEER,
            [],
            {
                "x-forwarded-for": "192.0.2.7",
                "x-forwarded-proto": "http",
                "x-forwarded-host": "shop.example",
                "forwarded": 'for=192.0.2.7;host="shop.example";proto=http',
            },
            id="begun by a trusted proxy that says nothing",
        ),
        pytest.param(
            PEER,
            [(b"x-forwarded-for", b"198.51.100.1"), (b"x-forwarded-proto", b"https")],
            {
                "x-forwarded-for": "198.51.100.1, 192.0.2.7",
                "x-forwarded-proto": "https",
                "x-forwarded-host": "shop.example",
            },
            id="continued, without a Forwarded that would name the proxy",
        ),
        pytest.param(
            PEER,
            [(b"x-forwarded-for", b"1.1.1.1"), (b"x-forwarded-for", b"2.2.2.2"), (b"x-forwarded-host", b"a.example")],
            {
                "x-forwarded-for": "1.1.1.1, 2.2.2.2, 192.0.2.7",
                "x-forwarded-proto": "http",
                "x-forwarded-host": "a.example",
            },
            id="two lines are one list",
        ),
        pytest.param(
            PEER,
            [(b"forwarded", b"for=198.51.100.1;proto=https")],
            {"forwarded": 'for=198.51.100.1;proto=https, for=192.0.2.7;host="shop.example";proto=http'},
            id="Forwarded alone",
        ),
        pytest.param(
            ("2001:db8::1", 1),
            [(b"forwarded", b"for=a"), (b"x-forwarded-for", b"a")],
            {
                "x-forwarded-for": "a, 2001:db8::1",
                "x-forwarded-proto": "http",
                "x-forwarded-host": "shop.example",
                "forwarded": 'for=a, for="[2001:db8::1]";host="shop.example";proto=http',
            },
            id="IPv6 is quoted",
        ),
        pytest.param(
            None,
            [(b"x-forwarded-for", b"198.51.100.1")],
            {
                "x-forwarded-for": "198.51.100.1",
                "x-forwarded-proto": "http",
                "x-forwarded-host": "shop.example",
            },
            id="a unix socket has no address to add",
        ),
    ],
)
def test_a_trusted_proxy_is_continued(peer: tuple[str, int] | None, given: Fields, passed: dict[str, str]) -> None:
    assert forwarding(head(HOST, *given, peer=peer), TRUSTED) == passed


@pytest.mark.parametrize("peer", [("203.0.113.9", 1), None])
def test_anybody_elses_word_is_replaced(peer: tuple[str, int] | None) -> None:
    claims = [(name, b"198.51.100.1") for name in FORWARDING]
    told = forwarding(head(HOST, *claims, peer=peer), NOBODY)
    assert "198.51.100.1" not in str(told)
    assert told["x-forwarded-proto"] == "http"
    assert told["forwarded"].startswith("for=203.0.113.9" if peer else "for=unknown")


@pytest.mark.parametrize(
    ("status", "given", "passed"),
    [
        (200, [(b"content-length", b"3"), (b"server", b"x")], [(b"content-length", b"3"), (b"server", b"x")]),
        (200, [(b"content-length", b"3"), (b"transfer-encoding", b"chunked")], []),
        (200, [(b"connection", b"close, x-internal"), (b"x-internal", b"1"), (b"a", b"b")], [(b"a", b"b")]),
        (200, [(b"keep-alive", b"timeout=5"), (b"upgrade", b"h2c")], []),
        (200, [(b"set-cookie", b"a"), (b"set-cookie", b"b")], [(b"set-cookie", b"a"), (b"set-cookie", b"b")]),
        (204, [(b"content-length", b"0"), (b"etag", b"1")], [(b"etag", b"1")]),
        (304, [(b"content-length", b"5")], [(b"content-length", b"5")]),
        (103, [(b"link", b"</a>"), (b"content-length", b"0")], [(b"link", b"</a>")]),
    ],
)
def test_fields_of_an_answer(status: int, given: Fields, passed: Fields) -> None:
    assert answered(status, given) == passed


@pytest.mark.parametrize("name", sorted(NO_TRAILERS))
def test_no_trailer_says_what_only_a_head_may(name: bytes) -> None:
    assert trailers([(name, b"1"), (b"x-sum", b"2")]) == [(b"x-sum", b"2")]


def test_no_trailer_is_one_in_disguise() -> None:
    assert trailers([(b"content_length", b"1"), (b"x_sum", b"2")]) == [(b"x_sum", b"2")]


@pytest.mark.parametrize(
    ("offered", "request_"),
    [
        (b"websocket", head(HOST, (b"connection", b"upgrade"), (b"upgrade", b"websocket"))),
        (b"foo/1, bar", head(HOST, (b"connection", b"upgrade"), (b"upgrade", b"foo/1, bar"))),
        (b"", head(HOST, (b"connection", b"upgrade"), (b"upgrade", b"websocket, h2c"))),
        (b"", head(HOST, (b"connection", b"upgrade"), (b"upgrade", b"TLS/1.0"))),
        (b"", head(HOST, (b"connection", b"upgrade"), (b"upgrade", b"websocket"), version="1.0")),
        (b"", head(HOST, (b"connection", b"upgrade"), (b"upgrade", b"websocket"), body=True)),
        (b"", head(HOST, (b"connection", b"upgrade"))),
    ],
)
def test_upgrades(offered: bytes, request_: Head) -> None:
    assert upgrade(request_) == offered


NAMES = st.sampled_from(sorted(HOP_BY_HOP | FORWARDING | FRAMING - {b"host"} | {b"a", b"b", b"x_forwarded_for"}))
VALUES = st.sampled_from(
    [b"a", b"b, te", b"close", b"upgrade", b"5", b"host, content-length", b"trailers", b"websocket"]
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8), st.booleans(), st.sampled_from(["1.0", "1.1", "2"]))
def test_however_they_are_mixed_the_framing_stays_one(given: Fields, body: bool, version: str) -> None:
    request = head(HOST, *given, body=body, version=version)
    try:
        fields = asked(request, TRUSTED, b"app:80")[1]
    except RefusedError:
        return
    names = [name for name, _ in fields]
    assert names.count(b"host") == 1
    assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
    assert not body or names.count(b"content-length") + names.count(b"transfer-encoding") == 1
    assert not {b"keep-alive", b"proxy-connection", b"http2-settings", b"x_forwarded_for"} & set(names)
    assert {value for name, value in fields if name == b"connection"} <= {b"te", b"upgrade"}
