"""The application decides: answers with ``Sidecar-Subscribe``, and the event streams they become."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from sidecar.amqp import Properties
from sidecar.broker.port import Binding, Declaration, Exchange, StreamQueue
from sidecar.config.model import Offer
from sidecar.deadlines import Deadlines
from sidecar.forwarded import Proxies
from sidecar.http.streams import Streams
from sidecar.http.subscribe import REMEMBERED, Offers
from sidecar.http.upstream import UpstreamError
from sidecar.hub.hub import Hub
from sidecar.observe.metrics import Metrics
from sidecar.observe.reasons import CloseReason
from tests.proxy.client import client2
from tests.proxy.conftest import Beginning, Beside
from tests.proxy.origin import Conversation, answering, ok
from tests.server.serving import eventually

GET = b"GET /orders/42?page=1 HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n"
ORDERS: list[dict[str, Any]] = [
    {"exchange": "orders", "declare": {"type": "topic"}, "event": "{routing_key}", "replay": {"memory": 10}}
]
PLEASE = b'Sidecar-Subscribe: exchange="orders", binding_key="order.42.*"'


async def publish(sidecar: Beside, key: str, body: bytes) -> None:
    await sidecar.service.publish("orders", key, body, Properties())


async def test_an_answer_becomes_an_event_stream(beside: Beginning) -> None:
    answer = ok(b"not for you", PLEASE, b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"ETag: x", b"X-Shop: 7")
    sidecar = await beside(answering(answer), subscribe=ORDERS)
    async with await sidecar.client() as client:
        await client.send(GET)
        status, fields = await client.head()
        assert (status, fields["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert (fields["set-cookie"], fields["x-shop"]) == ("a=1, b=2", "7")
        assert not {"etag", "content-length", "sidecar-subscribe"} & fields.keys()
        await client.until(b"\n\n\r\n")
        await publish(sidecar, "order.41.paid", b"no")
        await publish(sidecar, "order.42.paid", b"yes")
        heard = await client.until(b"data: yes\n")
        assert b"event: order.42.paid\n" in heard
        assert b"data: no\n" not in heard
    raw = bytes(sidecar.application.conversations[0].raw)
    assert raw.startswith(b"GET /orders/42?page=1 HTTP/1.1\r\n")
    assert sidecar.codes == {200: 1}


async def test_the_applications_connection_is_free_again(beside: Beginning) -> None:
    sidecar = await beside(answering(ok(b"not for you", PLEASE)), subscribe=ORDERS)
    async with await sidecar.client() as one, await sidecar.client() as other:
        for client in (one, other):
            await client.send(GET)
            await client.head()
    assert len(sidecar.application.conversations) == 1


async def test_over_http2_beside_other_requests(beside: Beginning, nursery: trio.Nursery) -> None:
    async def script(conversation: Conversation) -> None:
        while True:
            asked = await conversation.head()
            await conversation.send(ok(b"", PLEASE) if "/orders" in asked.line else ok(b"plain"))

    sidecar = await beside(script, subscribe=ORDERS)
    client = await client2(nursery, sidecar.address)
    stream = await client.request("GET", "/orders/42", ("accept", "text/event-stream"))
    await client.until(lambda: b"\n\n" in stream.body)
    assert (await client.ended(await client.request("GET", "/"))).body == b"plain"
    await publish(sidecar, "order.42.paid", b"yes")
    await client.until(lambda: b"data: yes\n" in stream.body)
    assert not stream.ended
    client.h2.reset_stream(stream.id, 8)
    await client.flush()
    with trio.fail_after(5):
        while sidecar.service._streams.open:
            await trio.lowlevel.checkpoint()


async def test_a_reconnect_is_asked_for_again_and_replayed(beside: Beginning) -> None:
    answers = [ok(b"", PLEASE), ok(b"", PLEASE), b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"]

    async def script(conversation: Conversation) -> None:
        while True:
            asked.append(await conversation.head())
            await conversation.send(answers[len(asked) - 1])

    asked: list[Any] = []
    sidecar = await beside(script, subscribe=ORDERS)
    async with await sidecar.client() as client:
        await client.send(GET)
        await client.head()
        await client.until(b"\n\n")
        await publish(sidecar, "order.42.a", b"first")
        heard = await client.until(b"data: first\n")
    (last_id,) = [line[4:] for line in heard.split(b"\n") if line.startswith(b"id: ")][-1:]
    await publish(sidecar, "order.42.b", b"missed")
    returning = GET.replace(b"Accept", b"Last-Event-ID: " + last_id + b"\r\nAccept")
    async with await sidecar.client() as client:
        await client.send(returning)
        await client.head()
        body = await client.until(b"data: missed\n")
        assert b"first" not in body
        assert b"sidecar.reset" not in body
    async with await sidecar.client() as client:
        await client.send(returning)
        assert (await client.head())[0] == 403
    assert all(request["last-event-id"].encode() == last_id for request in asked[1:])


async def test_a_stream_with_its_past_as_the_application_words_it(beside: Beginning) -> None:
    words = b'stream="orders.log", binding_key=("order.42.*" "notice"), event="it is {type}", heartbeat=0.2'
    sidecar = await beside(answering(ok(b"", b"Sidecar-Subscribe: " + words)), subscribe=[{"stream": "orders.log"}])
    orders = (Exchange("orders", Declaration("topic")), Binding("#"))
    await sidecar.service.broker.open_stream(StreamQueue("orders.log", declare=True, bindings=(orders,)))
    for key in ("order.41.paid", "order.42.paid", "notice"):
        await sidecar.service.publish("orders", key, key.encode(), Properties(type="new"))
    async with await sidecar.client() as client:
        await client.send(GET.replace(b"Accept", b"Last-Event-ID: earliest\r\nAccept"))
        assert (await client.head())[0] == 200
        past = await client.until(b"data: notice\n")
        assert past.count(b"event: it is new\n") == 2
        assert b"data: order.42.paid\n" in past
        assert b"order.41" not in past
        await client.until(b"\r\n:\n\n\r\n")  # a heartbeat, sooner than after the offer's 15 seconds


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(GET.replace(b"GET", b"POST"), id="another method"),
        pytest.param(GET.replace(b"text/event-stream", b"text/html"), id="a client that takes no event stream"),
        pytest.param(GET.replace(b"Host", b"Content-Length: 0\r\nHost").replace(b"GET", b"PUT"), id="PUT"),
    ],
)
async def test_other_requests_get_the_answer_without_the_field(beside: Beginning, request_: bytes) -> None:
    sidecar = await beside(answering(ok(b"page", PLEASE)), subscribe=ORDERS)
    async with await sidecar.client() as client:
        await client.send(request_)
        status, fields, body = await client.answer()
    assert (status, body) == (200, b"page")
    assert "sidecar-subscribe" not in fields


async def test_an_answer_that_is_no_success_stays_what_it_is(beside: Beginning) -> None:
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n" + PLEASE + b"\r\n\r\nno"
    sidecar = await beside(answering(refusal), subscribe=ORDERS)
    async with await sidecar.client() as client:
        await client.send(GET)
        status, fields, body = await client.answer()
    assert (status, body) == (401, b"no")
    assert "sidecar-subscribe" not in fields


async def test_where_nothing_is_offered_the_field_is_any_field(beside: Beginning) -> None:
    sidecar = await beside(answering(ok(b"page", PLEASE)))
    async with await sidecar.client() as client:
        await client.send(GET)
        _, fields, body = await client.answer()
    assert (body, fields["sidecar-subscribe"]) == (b"page", PLEASE.partition(b": ")[2].decode())


async def test_a_client_cannot_subscribe_itself(beside: Beginning) -> None:
    sidecar = await beside(answering(ok(b"page")), subscribe=ORDERS)
    async with await sidecar.client() as client:
        await client.send(GET.replace(b"Host", PLEASE + b"\r\nHost"))
        assert (await client.answer())[2] == b"page"
        await client.send(b"GET /Sidecar-Subscribe:orders HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
        assert (await client.answer())[2] == b"page"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"exchange=", id="broken"),
        pytest.param(b"orders", id="no source"),
        pytest.param(b'exchange="others"', id="not offered"),
        pytest.param(b'stream="orders"', id="an exchange is no stream"),
        pytest.param(b'exchange="orders", stream="orders"', id="two sources"),
        pytest.param(b"exchange=orders", id="a token"),
        pytest.param(b'exchange="orders", queue="q"', id="an unknown key"),
        pytest.param(b'exchange="orders", binding_key=5', id="a key that is a number"),
        pytest.param(b'exchange="orders", binding_key=()', id="no keys"),
        pytest.param(b'exchange="orders", binding_key=("a" b)', id="a token among the keys"),
        pytest.param(b'exchange="orders", binding_key="a*"', id="a wildcard within a word"),
        pytest.param(b'exchange="orders", binding_key="' + b"x" * 256 + b'"', id="a long key"),
        pytest.param(b'exchange="orders", event="{"', id="an open brace"),
        pytest.param(b'exchange="orders", heartbeat=0', id="no heartbeat"),
        pytest.param(b'exchange="orders", heartbeat=?1', id="a heartbeat that is true"),
        pytest.param(b'exchange="orders", heartbeat=1000000', id="a heartbeat of days"),
    ],
)
async def test_what_cannot_be_followed_is_a_broken_answer(beside: Beginning, value: bytes) -> None:
    sidecar = await beside(answering(ok(b"page", b"Sidecar-Subscribe: " + value)), subscribe=ORDERS)
    async with await sidecar.client() as client:
        await client.send(GET)
        status, fields, body = await client.answer()
    assert (status, body) == (502, b"the application's answer is broken\n")
    assert "sidecar-subscribe" not in fields


async def test_two_fields_are_one_list(beside: Beginning) -> None:
    said = [b'Sidecar-Subscribe: exchange="orders"', b'Sidecar-Subscribe: binding_key=("a.*" "b.#"), event="now"']
    sidecar = await beside(answering(ok(b"", *said)), subscribe=ORDERS)
    async with await sidecar.client() as client:
        await client.send(GET)
        await client.until(b"\n\n")
        for key in ("a.1", "c.1", "b.1.2"):
            await publish(sidecar, key, key.encode())
        heard = await client.until(b"data: b.1.2\n")
    assert heard.count(b"event: now\n") == 2
    assert b"data: a.1\n" in heard
    assert b"c.1" not in heard


async def test_what_was_given_out_ends_when_the_offers_change(beside: Beginning) -> None:
    sidecar = await beside(answering(ok(b"page", PLEASE)), subscribe=ORDERS)
    old = sidecar.service.config
    assert old.upstream is not None
    async with await sidecar.client() as client, await sidecar.client() as later:
        await client.send(GET)
        await client.until(b"\n\n")
        nothing = old.upstream.model_copy(update={"subscribe": []})
        await sidecar.service.apply(old.model_copy(update={"upstream": nothing}))
        await client.until(b"0\r\n\r\n")
        await later.send(GET)
        assert (await later.answer())[2] == b"page"
    (route,) = (route for route in sidecar.service.metrics.routes if route.path == "/Sidecar-Subscribe:orders")
    assert route.closes[CloseReason.ROUTE_GONE] == 1


def offers() -> Offers:
    """Offers alone, beside no broker: their routes are compiled, not served."""
    metrics = Metrics()
    deadlines = Deadlines()
    streams = Streams(Hub(None, deadlines, flush=lambda: None), deadlines, metrics)  # type: ignore[arg-type]  # it is not asked
    return Offers([Offer.model_validate(offer) for offer in ORDERS], streams, metrics, Proxies())


async def test_keys_are_taken_literally() -> None:
    route = offers().route(rb'exchange="orders", binding_key="a.{query.b}"')
    (binding,) = route.wanted({}, lambda name: pytest.fail(f"{name} was asked for")).bindings
    assert binding.key == "a.{query.b}"


async def test_equal_words_are_one_route_and_few_are_remembered() -> None:
    those = offers()
    first = those.route(PLEASE[19:])
    assert those.route(PLEASE[19:]) is first
    for number in range(REMEMBERED):
        those.route(b'exchange="orders", binding_key="k%d"' % number)
    assert those.route(PLEASE[19:]) is not first
    assert len(those._known) == REMEMBERED


@given(said=st.binary(max_size=60) | st.text('exchang="orders,binding_key() *#.{}?:10;', max_size=60).map(str.encode))
async def test_whatever_it_says_it_is_understood_or_refused(said: bytes) -> None:
    try:
        exchange = offers().route(said).settings.exchange
    except UpstreamError:
        exchange = None
    assert exchange in (None, "orders")


async def test_a_client_that_leaves_in_the_moment_of_the_answer_leaves_nothing(beside: Beginning) -> None:
    """Nobody would tell its stream of the end any more: the process could not end either."""

    async def wait(conversation: Conversation) -> None:
        await conversation.head()
        asked.append(conversation)
        await trio.sleep_forever()  # the test answers

    asked: list[Conversation] = []
    sidecar = await beside(wait, subscribe=ORDERS)
    for _ in range(12):  # trio shuffles what is due in one turn: each round is a coin's throw
        asked.clear()
        client = await sidecar.client()
        await client.send(GET)
        await eventually(lambda: asked)
        # The answer and the client's end come while the process does something else.
        for stream, last in ((asked[0].stream, ok(b"", PLEASE)), (client.stream, b"")):
            plain = stream.socket._sock  # type: ignore[attr-defined]
            if last:
                plain.send(last)
            else:
                plain.shutdown(socket.SHUT_WR)
        time.sleep(0.01)
        await trio.sleep(0.02)
        await client.stream.aclose()
        await asked[0].stream.aclose()
    await eventually(lambda: not sidecar.service.connections)
    assert not sidecar.service._streams.open
