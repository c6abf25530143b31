"""Secrets are put into lines in every way they travel, and must not come out; what is none must come out whole."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from sidecar.observe.secrets import HIDDEN, hide_in_text, hide_in_value, hide_under_name

SECRET = "s3cr3t-0f-a-kind"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"amqp://guest:{SECRET}@rabbit:5672/", "amqp://guest:***@rabbit:5672/"),
        (f"amqps://u:{SECRET}@a/,amqps://u:{SECRET}@b/", None),
        (f"amqp://u:p@{SECRET}@rabbit/", "amqp://u:***@rabbit/"),
        (f"amqp://u:p/{SECRET}@rabbit/", "amqp://u:***@rabbit/"),
        (f"amqp://:{SECRET}@rabbit/", "amqp://:***@rabbit/"),
        (f"GET /events/a?token={SECRET}&x=1", "GET /events/a?token=***&x=1"),
        (f"/events/a?x=1&access_token={SECRET}#there", "/events/a?x=1&access_token=***#there"),
        (f"/events?TOKEN={SECRET}", "/events?TOKEN=***"),
        (f"id_token_hint={SECRET}", "id_token_hint=***"),
        (f"jwt={SECRET};api_key={SECRET};apikey={SECRET}", "jwt=***;api_key=***;apikey=***"),
        (f"connect(password='{SECRET} with a blank')", "connect(password=***)"),
        (f'secret="{SECRET}"', "secret=***"),
        (f"Authorization: Bearer {SECRET}", "Authorization: ***"),
        (f"Proxy-Authorization: Basic {SECRET}", "Proxy-Authorization: ***"),
        (f"Cookie: session={SECRET}; other={SECRET}\nHost: a", "Cookie: ***\nHost: a"),
        (f"Set-Cookie: session={SECRET}", "Set-Cookie: ***"),
        (f"[(b'host', b'a'), (b'cookie', b'a={SECRET}')]", "[(b'host', b'a'), (b'cookie', ***"),
        (f"{{'authorization': 'Bearer {SECRET}'}}", "{'authorization': ***"),
        (f"the header said Bearer {SECRET}!", "the header said Bearer ***!"),
        (f"refused: {JWT} has expired", "refused: *** has expired"),
    ],
)
def test_a_secret_in_a_text_is_hidden(text: str, shown: str | None) -> None:
    hidden = hide_in_text(text)
    assert SECRET not in hidden
    assert JWT not in hidden
    assert shown is None or hidden == shown


@pytest.mark.parametrize(
    "text",
    [
        "GET /events/orders/42?since=2026-01-01T00:00:00Z",
        "http://127.0.0.1:8080/users/@me",
        "http://[::1]:8080/",
        "/events?author=ann&authority=b",
        "consumer_tag=sidecar.7 routing_key=order.1.paid",
        "the token has expired",
        "the broker rejected the credentials of guest",
        "",
    ],
)
def test_what_is_no_secret_stays_as_it_is(text: str) -> None:
    assert hide_in_text(text) == text


def test_values_are_searched_to_their_leaves() -> None:
    value = {
        "headers": [(b"Authorization", SECRET.encode()), (b"Host", b"a")],
        "nested": {"deep": [{"db_password": SECRET, "port": 5672}], "url": f"amqp://u:{SECRET}@h/"},
        "bytes": f"?token={SECRET}".encode(),
        "error": ValueError(f"amqp://u:{SECRET}@h/"),
    }
    assert hide_in_value(value) == {
        "headers": [["Authorization", HIDDEN], ["Host", "a"]],
        "nested": {"deep": [{"db_password": HIDDEN, "port": 5672}], "url": "amqp://u:***@h/"},
        "bytes": "?token=***",
        "error": "ValueError('amqp://u:***@h/')",
    }


def test_what_stands_under_a_telling_name_is_not_even_looked_at() -> None:
    assert hide_under_name("password", "x") == HIDDEN
    assert hide_under_name("X-Api-Key", ["x"]) == HIDDEN
    assert hide_under_name("secret", SecretStr("x")) == "SecretStr('**********')"
    assert hide_under_name("sessions", 3) == 3
    assert hide_under_name("token", None) is None


@given(st.sampled_from(["token", "://a:", "cookie", "Bearer ", "eyJaaaa.", "='", "a", "\n"]), st.integers(1, 4000))
def test_a_long_text_by_a_stranger_costs_little(piece: str, count: int) -> None:
    before = time.process_time()
    hide_in_text(piece * count)
    assert time.process_time() - before < 0.5


@given(
    st.recursive(st.none() | st.integers() | st.text() | st.binary(), lambda inner: st.lists(inner) | st.tuples(inner))
)
def test_any_value_can_be_shown(value: object) -> None:
    hide_in_value(value)
