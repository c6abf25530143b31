"""Who hears a message, as RabbitMQ's four exchange types would deal it out, and what one bad message costs."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs
from trio.testing import MockClock

from sidecar.amqp import Delivery, Properties
from sidecar.broker.port import BrokerRefused, Declaration, Exchange
from sidecar.hub.encoder import Encoder
from sidecar.observe.reasons import DropReason
from tests.hub.stand_ins import room


@pytest.mark.parametrize(
    ("kind", "bound", "published", "heard"),
    [
        ("direct", ["a"], ["a", "b", "a.b", "#", ""], ["a"]),
        ("direct", ["#", "*", "a.*"], ["a", "#", "*", "a.*", "a.b"], ["#", "*", "a.*"]),
        ("direct", ["", "a"], ["", "a", "b"], ["", "a"]),
        ("fanout", ["a"], ["a", "b", "", "x.y"], ["a", "b", "", "x.y"]),
        ("topic", ["a.*"], ["a", "a.b", "a.b.c", "a.", "b.a"], ["a.b", "a."]),
        ("topic", ["#"], ["", "a", "a.b.c"], ["", "a", "a.b.c"]),
        ("topic", ["a.#.z"], ["a.z", "a.b.z", "a.b.c.z", "az", "a"], ["a.z", "a.b.z", "a.b.c.z"]),
        ("topic", ["*", "#.b"], ["a", "b", "a.b", "a.c"], ["a", "b", "a.b"]),
    ],
)
async def test_by_routing_key(
    kind: str, bound: list[str], published: list[str], heard: list[str], autojump_clock: MockClock
) -> None:
    exchange = Exchange("x", Declaration(kind))
    async with room() as hub:
        listener, other = await hub.listen(*bound, source=exchange), await hub.listen("nobody.says", source=exchange)
        for key in published:
            await hub.publish(key, key or "empty", exchange="x")
        assert listener.data == [key or "empty" for key in heard]
        assert other.data == ([key or "empty" for key in heard] if kind == "fanout" else [])


@pytest.mark.parametrize(
    ("asked", "headers", "heard"),
    [
        ({"tenant": "a"}, {"tenant": "a", "more": 1}, True),
        ({"tenant": "a"}, {"tenant": "b"}, False),
        ({"tenant": "a"}, {}, False),
        ({"x-match": "all", "tenant": "a", "size": 3}, {"tenant": "a", "size": 3}, True),
        ({"x-match": "all", "tenant": "a", "size": 3}, {"tenant": "a"}, False),
        ({"x-match": "any", "tenant": "a", "size": 3}, {"size": 3}, True),
        ({"x-match": "any", "tenant": "a", "size": 3}, {"size": 4}, False),
        ({"x-match": "any-with-x", "x-kind": "a"}, {"x-kind": "a"}, True),
        ({"x-match": "any", "x-kind": "a"}, {"x-kind": "a"}, False),
    ],
)
async def test_by_headers(
    asked: dict[str, Any], headers: dict[str, Any], heard: bool, autojump_clock: MockClock
) -> None:
    exchange = Exchange("x", Declaration("headers"))
    async with room() as hub:
        listener = await hub.listen(source=exchange, headers=tuple(sorted(asked.items())))
        await hub.publish("ignored", "body", exchange="x", headers=headers)
        assert listener.data == (["body"] if heard else [])


async def test_headers_that_the_broker_refuses(autojump_clock: MockClock) -> None:
    async with room() as hub:
        with pytest.raises(BrokerRefused, match="x-match"):
            await hub.listen(source=Exchange("x", Declaration("headers")), headers=(("x-match", "most"),))
        assert repr(hub.hub) == "<Hub 0 subscriptions on 0 sources>"


async def test_a_filter_lets_through_only_messages_whose_value_is_equal(autojump_clock: MockClock) -> None:
    async with room() as hub:
        mine = await hub.listen("#", where={"headers.tenant": "a", "type": "paid"})
        everybody = await hub.listen("#")
        for number, (tenant, type_) in enumerate(
            [("a", "paid"), ("b", "paid"), ("a", None), (None, None), ("A", "paid")]
        ):
            headers = {} if tenant is None else {"tenant": tenant}
            await hub.publish("k", str(number), headers=headers, type=type_)
        assert mine.data == ["0"]
        assert everybody.data == ["0", "1", "2", "3", "4"]


async def test_a_message_that_cannot_be_encoded_costs_itself_only(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Encoder.encode

    def picky(self: Encoder, delivery: Delivery, event_id: str | None = None) -> bytes | None:
        if delivery.body == b"bad":
            raise ValueError("a mistake in the encoder")
        return encode(self, delivery, event_id)

    monkeypatch.setattr(Encoder, "encode", picky)
    async with room() as hub:
        listeners = [await hub.listen("#") for _ in range(3)]
        bodies = (b"one", b"bad", b"two")
        batch = [Delivery("t", n, False, "news", "k", body, properties=Properties()) for n, body in enumerate(bodies)]
        with capture_logs() as logs:
            hub.broker.sinks[0].deliver(batch)
        assert [listener.data for listener in listeners] == [["one", "two"]] * 3
        assert hub.metrics.route("/x").drops[DropReason.UNENCODABLE] == 3
        assert [line["event"] for line in logs] == ["a message could not be encoded"]


async def test_a_batch_is_one_write_for_each_subscription(autojump_clock: MockClock) -> None:
    async with room() as hub:
        all_of_it, some = await hub.listen("#"), await hub.listen("a")
        writes: list[int] = []
        all_of_it.outlet.write = lambda blocks: writes.append(len(blocks))  # type: ignore[method-assign]
        keys = ["a", "b", "a", "c"]
        batch = [
            Delivery("t", n, False, "news", key, key.encode(), properties=Properties()) for n, key in enumerate(keys)
        ]
        hub.broker.sinks[0].deliver(batch)
        assert writes == [4]
        assert some.data == ["a", "a"]
