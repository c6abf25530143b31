"""What claims must say, what a query may show, what a challenge looks like."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.access import REDACTED, challenge, claim, claim_text, holds, redact

CLAIMS: dict[str, object] = {
    "sub": "ada",
    "scope": "orders:read orders:write",
    "scp": ["a", "b"],
    "roles": ["editor", 7, True],
    "tenant": 7,
    "admin": True,
    "nobody": None,
    "empty": "",
    "level": 1,
    "share": 0.5,
    "realm_access": {"roles": ["admin"], "deep": {"x": "y"}},
    "https://app.example/tenant": "acme",
    "a.b": "whole name",
    "a": {"b": "path"},
}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("sub", "ada"),
        ("scope", "orders:read"),
        ("scope", "orders:write"),
        ("scp", "b"),
        ("roles", "editor"),
        ("roles", "7"),
        ("roles", True),
        ("tenant", 7),
        ("tenant", "7"),
        ("admin", True),
        ("realm_access.roles", "admin"),
        ("realm_access.deep.x", "y"),
        ("https://app.example/tenant", "acme"),
        ("a.b", "whole name"),
    ],
)
def test_what_is_held(name: str, wanted: str | int | bool) -> None:
    assert holds(CLAIMS, name, wanted)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("sub", "Ada"),
        ("sub", "ad"),
        ("sub", "ada "),
        ("sub", ""),
        ("scope", "orders"),
        ("scope", "orders:read orders:write"),
        ("scope", "orders:read "),
        ("scope", ""),
        ("scp", "a b"),
        ("roles", "admin"),
        ("roles", 1),
        ("tenant", "07"),
        ("tenant", True),
        ("tenant", "7.0"),
        ("admin", "true"),
        ("admin", "True"),
        ("admin", 1),
        ("level", True),
        ("share", "0.5"),
        ("nobody", "None"),
        ("empty", ""),
        ("absent", "x"),
        ("absent", ""),
        ("realm_access", "admin"),
        ("realm_access.roles.0", "admin"),
        ("sub.x", "a"),
        ("a.b", "path"),
        ("", "x"),
        (".", "x"),
    ],
)
def test_what_is_not_held(name: str, wanted: str | int | bool) -> None:
    assert not holds(CLAIMS, name, wanted)


def test_a_claim_as_a_template_uses_it() -> None:
    texts = {name: claim_text(CLAIMS, name) for name in ("sub", "tenant", "admin", "scp", "nobody", "share", "absent")}
    assert texts == dict.fromkeys(texts, None) | {"sub": "ada", "tenant": "7"}
    assert claim(CLAIMS, "realm_access.roles") == ["admin"]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (b"", b""),
        (b"a=1&b=2", b"a=1&b=2"),
        (b"token=secret", b"token=[redacted]"),
        (b"a=1&token=secret&b=2", b"a=1&token=[redacted]&b=2"),
        (b"token=one&token=two", b"token=[redacted]&token=[redacted]"),
        (b"%74oken=secret", b"%74oken=[redacted]"),
        (b"to%6ben=se=cr=et", b"to%6ben=[redacted]"),
        (b"access_token=secret", b"access_token=[redacted]"),
        (b"a=1;token=secret", b"a=[redacted]"),
        (b"token;x=secret", b"token=[redacted]"),
        (b"Token=shown", b"Token=shown"),
        (b"tokens=shown&xtoken=shown", b"tokens=shown&xtoken=shown"),
        (b"token", b"token"),
        (b"token=", b"token=[redacted]"),
        (b"&&=&", b"&&=&"),
        (b"\xff=\xfe", b"\xff=\xfe"),
    ],
)
def test_a_query_without_its_secrets(query: bytes, shown: bytes) -> None:
    assert redact(query, {"token"}) == shown


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=6), st.text(min_size=8, max_size=20))
def test_no_secret_stays_and_nothing_else_goes(pairs: list[tuple[str, str]], secret: str) -> None:
    pairs = [(name, value) for name, value in pairs if name not in ("key", "access_token")]
    query = urlencode([*pairs, ("key", secret), *pairs]).encode()
    shown = parse_qsl(redact(query, {"key"}).decode(), keep_blank_values=True)
    assert shown == [*pairs, ("key", REDACTED.decode()), *pairs]


def test_a_challenge_says_what_rfc_6750_wants() -> None:
    assert challenge() == b'Bearer realm="sidecar"'
    assert challenge("insufficient_scope", "no", "a b") == (
        b'Bearer realm="sidecar", error="insufficient_scope", error_description="no", scope="a b"'
    )


@pytest.mark.parametrize(
    "scope", ['x", realm="evil', "x\r\nset-cookie: a=b", "é", "a\\", "a  b", " a", "\x00", "\udcff"]
)
def test_a_strangers_scope_does_not_get_into_a_header(scope: str) -> None:
    assert challenge("insufficient_scope", "no", scope) == challenge("insufficient_scope", "no")
