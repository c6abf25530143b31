"""A message becomes a block: whatever it holds, it changes nothing but its own event, and nothing of it is lost."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import sse
from sidecar.amqp import Delivery, Properties
from sidecar.hub.encoder import Encoder
from sidecar.template import Template


def encoder(event: str | None = None, *, envelope: bool = False, **parameters: str) -> Encoder:
    return Encoder(event=Template.parse(event) if event else None, envelope=envelope, where={}, parameters=parameters)


def delivery(body: bytes = b"x", *, key: str = "order.1.paid", exchange: str = "orders", **properties: Any) -> Delivery:
    return Delivery("tag", 1, False, exchange, key, body, properties=Properties(**properties))


def only(block: bytes | None) -> sse.Event:
    """The one event of a block, as a browser would dispatch it."""
    assert block is not None
    (event,) = sse.Parser().feed(block + b"data: what follows is untouched\n\n")[:-1]
    return event


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (None, "message"),
        ("update", "update"),
        ("{routing_key}", "order.1.paid"),
        ("{exchange}/{type}", "orders/paid"),
        ("{message_id}-{app_id}", "m1-shop"),
        ("{headers.tenant}", "a"),
        ("{headers.count}", "3"),
        ("{headers.flag}", "true"),
        ("{headers.raw}", "\ufffdx"),
        ("{headers.absent}", "message"),
        ("[{headers.absent}]", "[]"),
        ("order-{order}", "order-17"),
    ],
)
def test_an_event_is_named_by_its_template(template: str | None, name: str) -> None:
    headers = {"tenant": "a", "count": 3, "flag": True, "raw": b"\xffx"}
    message = delivery(type="paid", message_id="m1", app_id="shop", headers=headers)
    assert only(encoder(template, order="17").encode(message)).type == name


def test_a_parameter_of_the_route_wins_over_a_field_of_its_name() -> None:
    assert only(encoder("{type}", type="mine").encode(delivery(type="theirs"))).type == "mine"


@pytest.mark.parametrize("evil", ["\r", "\n", "\r\n", "\0", "a\ndata: injected\n\nevent: forged", "x\rid: 1"])
def test_line_ends_and_nul_in_values_start_nothing(evil: str) -> None:
    message = delivery(key=f"k{evil}", type=evil, headers={"h": evil})
    for template in ("{routing_key}", "{type}!", "{headers.h}!", "{p}!"):
        event = only(encoder(template, p=evil).encode(message))
        assert event.data == "x"
        assert not set(event.type) & set("\r\n\0")
        assert event.id == ""


@given(st.text(), st.text())
def test_any_text_arrives_with_its_lines(body: str, key: str) -> None:
    event = only(encoder("e{routing_key}").encode(delivery(body.encode(), key=key)))
    assert event.data == body.replace("\r\n", "\n").replace("\r", "\n")
    assert event.type == "e" + key.translate({0: None, 10: None, 13: None})


@given(st.binary())
def test_any_bytes_arrive_as_text_or_as_a_data_url(body: bytes) -> None:
    data = only(encoder().encode(delivery(body, content_type="image/png"))).data
    try:
        text = body.decode()
    except UnicodeDecodeError:
        prefix = "data:image/png;base64,"
        assert data.startswith(prefix)
        assert base64.b64decode(data.removeprefix(prefix), validate=True) == body
    else:
        assert data == text.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize(
    ("content_type", "media"),
    [
        (None, "application/octet-stream"),
        ("", "application/octet-stream"),
        ("text/plain; charset=latin-1", "text/plain;charset=latin-1"),
        ("a/b,c\r\ndata: x", "a/bcdata:x"),
    ],
)
def test_the_content_type_of_a_data_url_ends_where_it_should(content_type: str | None, media: str) -> None:
    data = only(encoder().encode(delivery(b"\xff,\xfe", content_type=content_type))).data
    assert data == f"data:{media};base64," + base64.b64encode(b"\xff,\xfe").decode()


def test_an_envelope_is_one_object_with_everything() -> None:
    when = datetime(2026, 5, 17, 12, 30, tzinfo=UTC)
    headers = {
        "text": "ü\n", "int": 3, "float": 0.5, "bool": True, "none": None, "bytes": b"\xff", "time": when,
        "decimal": Decimal("1.50"), "list": [1, "a", {"deep": b"x"}], "table": {"k": "v"},
    }  # fmt: skip
    message = delivery(b"line\r\nline", type="paid", message_id="m1", priority=5, timestamp=when, headers=headers)
    event = only(encoder("{type}", envelope=True).encode(message, "id-1"))
    assert (event.type, event.id) == ("paid", "id-1")
    assert "\n" not in event.data
    assert json.loads(event.data) == {
        "exchange": "orders",
        "routing_key": "order.1.paid",
        "headers": {
            "text": "ü\n", "int": 3, "float": 0.5, "bool": True, "none": None, "decimal": "1.50",
            "bytes": "data:application/octet-stream;base64,/w==", "time": "2026-05-17T12:30:00+00:00",
            "list": [1, "a", {"deep": "data:application/octet-stream;base64,eA=="}], "table": {"k": "v"},
        },
        "properties": {"type": "paid", "message_id": "m1", "priority": 5},
        "timestamp": "2026-05-17T12:30:00+00:00",
        "redelivered": False,
        "body": "line\r\nline",
    }  # fmt: skip


@pytest.mark.parametrize("body", [b"\xff\xfe", b"text", b"", b"\0", '"quoted" \\ ü \u2028'.encode()])
def test_an_envelope_keeps_every_byte_of_the_body(body: bytes) -> None:
    got = json.loads(only(encoder(envelope=True).encode(delivery(body))).data)["body"]
    assert got == (body.decode() if body != b"\xff\xfe" else "data:application/octet-stream;base64,//4=")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_an_envelope_is_json_even_where_a_header_is_no_number_of_json(number: float) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON (RFC 8259 §6)")

    message = delivery(headers={"odd": number, "deep": [{"odd": number}], "fine": 1.5})
    data = only(encoder(envelope=True).encode(message)).data
    headers = json.loads(data, parse_constant=refuse)["headers"]
    assert headers == {"odd": None, "deep": [{"odd": None}], "fine": 1.5}


def test_ten_megabytes_of_lines() -> None:
    body = b"line\n" * 2_000_000
    assert only(encoder().encode(delivery(body))).data == body.decode()


def test_a_filter_compares_text() -> None:
    keep = Encoder(event=None, envelope=False, where={"headers.n": "3", "routing_key": "k"}, parameters={})
    assert keep.encode(delivery(key="k", headers={"n": 3})) is not None
    assert keep.encode(delivery(key="k", headers={"n": "3"})) is not None
    assert keep.encode(delivery(key="k", headers={"n": 4})) is None
    assert keep.encode(delivery(key="k")) is None
    assert keep.encode(delivery(key="other", headers={"n": 3})) is None
