"""One suite for both brokers: what the port promises (sidecar/broker/port.py), in front of a real RabbitMQ too."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import trio

from sidecar.amqp import Properties
from sidecar.broker import open_broker
from sidecar.broker.port import Binding, Broker, BrokerAway, BrokerRefused, Declaration, Exchange, Tap
from sidecar.config.model import BrokerSettings
from sidecar.topic import index_for
from tests.broker.sinks import PATIENCE, Recorder

END = "the.end"


def declared(type_: str, name: str = "", **more: object) -> Exchange:
    return Exchange(name or f"test.{type_}", Declaration(type_, **more))  # type: ignore[arg-type]


async def open_tap(broker: Broker, exchange: Exchange, *keys: str) -> tuple[Tap, Recorder]:
    sink = Recorder()
    tap = await broker.tap(exchange, sink)
    for key in keys:
        await tap.bind(Binding(key))
    return tap, sink


async def test_it_says_that_it_is_connected(broker: Broker) -> None:
    assert broker.connected
    assert broker.problem is None


# Each exchange type dispatches as the hub's index of that type expects

KEYS = ["", "a", "b", "a.b", "a.c", "a.b.c", "a..b", ".", "#", "*", "a.*", "ä.ö", "x" * 255, "ü" * 127]
BINDINGS = ["", "a", "#", "*", "a.*", "a.#", "#.c", "*.*", "a.*.c", "a..b", "ä.*", "x" * 255, "*.", "#.#"]


@pytest.mark.parametrize("type_", ["direct", "topic", "fanout"])
async def test_routing_by_key(broker: Broker, type_: str) -> None:
    exchange = declared(type_)
    taps = {key: await open_tap(broker, exchange, key, END) for key in BINDINGS}
    for number, key in enumerate([*KEYS, END]):
        await broker.publish(exchange.name, key, b"%d" % number)
    for binding, (tap, sink) in taps.items():
        index = index_for(type_)
        index.add(binding, (), binding)
        expected = [key for key in KEYS if binding in index.match(key, dict)]
        assert await sink.until_key(END) == expected, binding
        assert tap.exchange_type == type_
        assert {each.exchange for each in sink.deliveries} == {exchange.name}


HEADERS: list[dict[str, object]] = [
    {},
    {"a": 1},
    {"a": 1, "b": "x"},
    {"a": 2, "b": "x"},
    {"a": "1"},
    {"b": "x", "c": True},
    {"a": None},
    {"x-a": 1},
    {"a": [1, "x"]},
]
HEADER_BINDINGS: list[tuple[tuple[str, object], ...]] = [
    (),
    (("a", 1),),
    (("a", 1), ("b", "x"), ("x-match", "all")),
    (("a", 1), ("b", "x"), ("x-match", "any")),
    (("a", None),),
    (("x-a", 1),),
    (("x-a", 1), ("x-match", "all-with-x")),
    (("x-a", 1), ("x-match", "any-with-x")),
    (("x-match", "any"),),
]


async def test_routing_by_headers(broker: Broker) -> None:
    exchange = declared("headers")
    sinks: list[Recorder] = []
    for headers in HEADER_BINDINGS:
        tap, sink = await open_tap(broker, exchange)
        await tap.bind(Binding("", headers))  # type: ignore[arg-type]
        await tap.bind(Binding("", (("the end", True),)))
        sinks.append(sink)
    for number, message in enumerate([*HEADERS, {"the end": True}]):
        await broker.publish(exchange.name, str(number), b"", Properties(headers=message))  # type: ignore[arg-type]
    for headers, sink in zip(HEADER_BINDINGS, sinks, strict=True):
        index = index_for("headers")
        index.add("", headers, 1)
        expected = [
            str(number) for number, message in enumerate(HEADERS) if index.match("", lambda given=message: given)
        ]
        assert await sink.until_key(str(len(HEADERS))) == expected, headers


async def test_headers_that_no_header_exchange_takes(broker: Broker) -> None:
    tap, _ = await open_tap(broker, declared("headers"))
    with pytest.raises(BrokerRefused):
        await tap.bind(Binding("", (("x-match", "most"),)))
    await tap.bind(Binding("", (("a", 1),)))


# Bindings


async def test_several_bindings_and_no_duplicates(broker: Broker) -> None:
    tap, sink = await open_tap(broker, declared("topic"), "a.#", "#.b", "*.*", "a.b", END)
    await tap.bind(Binding("a.b"))
    await broker.publish("test.topic", "a.b", b"once")
    await broker.publish("test.topic", END, b"")
    assert await sink.until_key(END) == ["a.b"]


async def test_after_unbind_nothing_more_comes(broker: Broker) -> None:
    tap, sink = await open_tap(broker, declared("topic"), "a", "b", END)
    await tap.unbind(Binding("a"))
    await tap.unbind(Binding("a"))
    await tap.unbind(Binding("never bound"))
    for key in ("a", "b", END):
        await broker.publish("test.topic", key, b"")
    assert await sink.until_key(END) == ["b"]
    await tap.bind(Binding("a"))
    await broker.publish("test.topic", "a", b"again")
    await sink.until(lambda: sink.keys[-1] == "a")


async def test_what_is_published_after_bind_is_never_missed(broker: Broker) -> None:
    tap, sink = await open_tap(broker, declared("direct"))
    for number in range(100):
        await tap.bind(Binding(str(number)))
        await broker.publish("test.direct", str(number), b"")
    await sink.until(lambda: len(sink.deliveries) == 100)
    assert sink.keys == [str(number) for number in range(100)]


async def test_many_at_once(broker: Broker) -> None:
    tap, sink = await open_tap(broker, declared("direct"))
    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(tap.bind, Binding(str(number)))
    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(broker.publish, "test.direct", str(number), b"")
    await sink.until(lambda: len(sink.deliveries) == 200)
    assert set(sink.keys) == {str(number) for number in range(200)}


async def test_order(broker: Broker) -> None:
    _, sink = await open_tap(broker, declared("topic"), "#")
    for number in range(300):
        await broker.publish("test.topic", f"k.{number % 7}", b"%d" % number)
    await sink.until(lambda: len(sink.deliveries) == 300)
    assert sink.bodies == [b"%d" % number for number in range(300)]
    tags = [each.delivery_tag for each in sink.deliveries]
    assert tags == list(range(1, 301))
    assert not any(each.redelivered for each in sink.deliveries)


async def test_a_caller_who_gives_up_leaves_no_binding(broker: Broker) -> None:
    tap, sink = await open_tap(broker, declared("topic"), END)
    with trio.CancelScope() as scope:
        scope.cancel()
        await tap.bind(Binding("given.up"))
    assert scope.cancelled_caught
    await tap.bind(Binding("other"))
    for key in ("given.up", "other", END):
        await broker.publish("test.topic", key, b"")
    assert await sink.until_key(END) == ["other"]


@pytest.mark.parametrize("key", ["x" * 256, "ü" * 128, "\udcff"])
async def test_keys_that_no_frame_holds(broker: Broker, key: str) -> None:
    tap, sink = await open_tap(broker, declared("topic"), "#")
    with pytest.raises(BrokerRefused, match="routing key"):
        await tap.bind(Binding(key))
    with pytest.raises(BrokerRefused, match="routing key"):
        await broker.publish("test.topic", key, b"")
    await broker.publish("test.topic", END, b"")
    assert await sink.until_key(END) == []


# Messages


@pytest.mark.parametrize("size", [0, 1, 131_064, 131_065, 300_000, 10_000_000])
async def test_bodies_of_any_size(broker: Broker, size: int) -> None:
    _, sink = await open_tap(broker, declared("fanout"), "")
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    await broker.publish("test.fanout", "k", body)
    await broker.publish("test.fanout", "k", b"next")
    await sink.until(lambda: len(sink.deliveries) == 2)
    assert sink.bodies == [body, b"next"]


async def test_all_properties_arrive(broker: Broker) -> None:
    properties = Properties(
        content_type="application/json",
        content_encoding="gzip",
        headers={
            "text": "ö",
            "octets": b"\x00\xff",
            "yes": True,
            "small": -7,
            "large": 2**40,
            "float": 1.5,
            "decimal": Decimal("12.50"),
            "when": datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC),
            "nothing": None,
            "list": [1, "two", [False]],
            "table": {"a": {"b": 1}},
        },
        delivery_mode=2,
        priority=3,
        correlation_id="c",
        reply_to="r",
        expiration="60000",
        message_id="m-1",
        timestamp=datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
        type="order.paid",
        user_id="guest",
        app_id="shop",
    )
    _, sink = await open_tap(broker, declared("topic"), "#")
    await broker.publish("test.topic", "k", b"{}", properties)
    await sink.until(lambda: sink.deliveries)
    assert sink.deliveries[0].properties == properties


async def test_no_properties(broker: Broker) -> None:
    _, sink = await open_tap(broker, declared("topic"), "#")
    await broker.publish("test.topic", "k", b"")
    await sink.until(lambda: sink.deliveries)
    found = sink.deliveries[0].properties
    assert (found.content_type, found.type, found.timestamp, dict(found.headers)) == (None, None, None, {})


# Several taps


async def test_two_taps_hear_the_same_and_end_apart(broker: Broker) -> None:
    first, heard_first = await open_tap(broker, declared("topic"), "#")
    second, heard_second = await open_tap(broker, declared("topic"), "#")
    await broker.publish("test.topic", "one", b"")
    await heard_first.until_key("one")
    await heard_second.until_key("one")
    await first.aclose()
    await first.aclose()
    await broker.publish("test.topic", "two", b"")
    await heard_second.until_key("two")
    assert heard_first.keys == ["one"]
    assert heard_first.events == heard_second.events == []
    with pytest.raises(BrokerRefused, match="closed"):
        await first.bind(Binding("x"))
    await second.aclose()


async def test_taps_on_several_exchanges(broker: Broker) -> None:
    types = ("direct", "topic", "fanout")
    sinks = [(await open_tap(broker, declared(type_), "k"))[1] for type_ in types]
    for type_ in types:
        await broker.publish(f"test.{type_}", "k", type_.encode())
    for type_, sink in zip(types, sinks, strict=True):
        await sink.until(lambda heard=sink: heard.deliveries)
        assert sink.bodies == [type_.encode()]


# Exchanges


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("amq.direct", "direct"),
        ("amq.topic", "topic"),
        ("amq.fanout", "fanout"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ],
)
async def test_predeclared_exchanges(broker: Broker, name: str, type_: str) -> None:
    tap, sink = await open_tap(broker, Exchange(name), "k")
    assert tap.exchange_type == type_
    await broker.publish(name, "k", b"")
    await sink.until_key("k")


@pytest.mark.parametrize("type_", ["direct", "topic", "fanout", "headers"])
@pytest.mark.parametrize("durable", [True, False])
async def test_the_type_of_an_existing_exchange_is_found_out(broker: Broker, type_: str, durable: bool) -> None:
    first, _ = await open_tap(broker, declared(type_, durable=durable))
    tap, sink = await open_tap(broker, Exchange(f"test.{type_}"), "k")
    assert tap.exchange_type == first.exchange_type == type_
    await broker.publish(f"test.{type_}", "k", b"")
    await sink.until_key("k")


async def test_a_missing_exchange_is_refused(broker: Broker) -> None:
    with pytest.raises(BrokerRefused, match="no exchange 'nowhere'"):
        await broker.tap(Exchange("nowhere"), Recorder())
    with pytest.raises(BrokerRefused, match="no exchange 'nowhere'"):
        await broker.publish("nowhere", "k", b"")
    _, sink = await open_tap(broker, declared("topic"), "#")
    await broker.publish("test.topic", "still.works", b"")
    await sink.until_key("still.works")


@pytest.mark.parametrize(
    ("second", "argument"),
    [
        (Declaration("fanout"), "type"),
        (Declaration("topic", durable=False), "durable"),
        (Declaration("topic", auto_delete=True), "auto_delete"),
        (Declaration("topic", internal=True), "internal"),
        (Declaration("topic", arguments={"alternate-exchange": "amq.fanout"}), "alternate-exchange"),
    ],
)
async def test_another_declaration_is_refused(broker: Broker, second: Declaration, argument: str) -> None:
    await broker.tap(declared("topic", "orders"), Recorder())
    with pytest.raises(BrokerRefused, match=f"inequivalent arg '{argument}' for exchange 'orders'"):
        await broker.tap(Exchange("orders", second), Recorder())
    tap, _ = await open_tap(broker, declared("topic", "orders"))
    assert tap.exchange_type == "topic"


async def test_reserved_and_unknown_are_refused(broker: Broker) -> None:
    with pytest.raises(BrokerRefused, match="reserved prefix"):
        await broker.tap(declared("topic", "amq.mine"), Recorder())
    with pytest.raises(BrokerRefused, match="'x-random'"):
        await broker.tap(declared("x-random"), Recorder())
    with pytest.raises(BrokerRefused, match="default exchange"):
        await broker.tap(Exchange(""), Recorder())
    assert broker.connected


async def test_internal_exchanges_take_no_messages(broker: Broker) -> None:
    await broker.tap(declared("topic", "inner", internal=True), Recorder())
    with pytest.raises(BrokerRefused, match="internal exchange 'inner'"):
        await broker.publish("inner", "k", b"")


async def test_what_nobody_is_bound_to_goes_to_the_alternate_exchange(broker: Broker) -> None:
    _, spare = await open_tap(broker, declared("fanout", "spare"), "")
    orders = declared("topic", "orders", arguments={"alternate-exchange": "spare"})
    _, sink = await open_tap(broker, orders, "wanted")
    for key in ("unwanted", "wanted"):
        await broker.publish("orders", key, b"")
    await sink.until_key("wanted")
    await spare.until_key("unwanted")
    assert sink.keys == ["wanted"]
    await broker.publish("spare", END, b"")
    assert await spare.until_key(END) == ["unwanted"]


async def test_an_auto_delete_exchange_goes_with_its_last_binding(broker: Broker) -> None:
    tap, _ = await open_tap(broker, declared("topic", "passing", auto_delete=True))
    await tap.bind(Binding("a"))
    await broker.publish("passing", "k", b"")
    await tap.unbind(Binding("a"))
    with pytest.raises(BrokerRefused, match="no exchange 'passing'"):
        await broker.tap(Exchange("passing"), Recorder())
    with pytest.raises(BrokerRefused, match="no exchange 'passing'"):
        await tap.bind(Binding("a"))


async def test_nobody_to_hear_is_no_mistake(broker: Broker) -> None:
    await broker.tap(declared("topic"), Recorder())
    await broker.publish("test.topic", "k", b"")
    await broker.publish("", "no.such.queue", b"")


# Before and after


async def test_away_before_and_after_its_run(url: str) -> None:
    broker = open_broker(BrokerSettings(url=[url]))
    sink = Recorder()
    await is_away(broker)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(broker.run)
        with trio.fail_after(PATIENCE):
            await broker.wait_connected()
        tap, _ = await open_tap(broker, declared("topic"), "#")
        await broker.tap(declared("topic"), sink)
        nursery.cancel_scope.cancel()
    assert sink.events == ["lost"]
    await is_away(broker)
    with pytest.raises(BrokerAway):
        await tap.bind(Binding("k"))
    await tap.unbind(Binding("#"))
    await tap.aclose()


async def is_away(broker: Broker) -> None:
    assert not broker.connected
    assert broker.problem
    attempts: list[Callable[[], object]] = [
        lambda: broker.tap(Exchange("amq.topic"), Recorder()),
        lambda: broker.publish("amq.topic", "k", b""),
    ]
    for attempt in attempts:
        with pytest.raises(BrokerAway):
            await attempt()  # type: ignore[misc]


async def test_it_can_be_printed(broker: Broker) -> None:
    tap, _ = await open_tap(broker, declared("topic"), "#")
    assert "guest" not in f"{broker!r} {tap!r}"
