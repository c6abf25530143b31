"""A message published to an exchange of each type is an event, on every kind of connection; others are not."""

from __future__ import annotations

from typing import Any

import trio

from tests.e2e.conftest import Client
from tests.lab.publisher import Publisher


async def test_topic(every_client: Client, publisher: Publisher, name: str) -> None:
    stream = await every_client.listen(f"/topic/{name}")
    for key in (f"order.{name}.paid", "order.other.paid", f"order.{name}.paid.twice", f"order.{name}.sent"):
        publisher.publish("e2e.topic", key, f"body of {key}")
    events = await stream.until_events(2)
    assert [event.type for event in events] == [f"order.{name}.paid", f"order.{name}.sent"]
    assert events[0].data == f"body of order.{name}.paid"


async def test_direct(every_client: Client, publisher: Publisher, name: str) -> None:
    stream = await every_client.listen(f"/direct/{name}")
    for key in (f"{name}x", name, f"{name}.{name}", name):
        publisher.publish("e2e.direct", key, key)
    assert [event.type for event in await stream.until_events(2)] == [name, name]


async def test_fanout(every_client: Client, publisher: Publisher, name: str) -> None:
    stream = await every_client.listen("/fanout")
    for key in (name, f"{name}.any", ""):
        publisher.publish("e2e.fanout", key, name)
    events = await stream.until_events(3)
    assert [(event.type, event.data) for event in events] == [
        (name, name),
        (f"{name}.any", name),
        ("message", name),  # an empty event type is none
    ]


async def test_headers(every_client: Client, publisher: Publisher, name: str) -> None:
    stream = await every_client.listen(f"/headers/{name}")
    sent: list[dict[str, Any]] = [
        {"tenant": name},
        {"tenant": "other", "kind": "order"},
        {"tenant": name, "kind": "order", "more": 1},
    ]
    for number, headers in enumerate(sent):
        publisher.publish("e2e.headers", f"key.{number}", "body", headers=headers)
    publisher.publish("e2e.headers", "key.last", "body", headers={"kind": "order", "tenant": name})
    assert [event.type for event in await stream.until_events(2)] == ["key.2", "key.last"]


async def test_one_message_to_many_kinds_at_once(client: Client, publisher: Publisher, name: str) -> None:
    async with trio.open_nursery() as nursery:
        kinds = [
            Client(nursery, client.service, client.certificates, kind)
            for kind in ("http/1.0", "http/1.1", "unix", "h2c", "h2", "h2")
        ]
        streams = [await each.listen(f"/plain/{name}") for each in kinds]
        for number in range(20):
            publisher.publish("e2e.topic", f"plain.{name}", str(number))
        for stream in streams:
            await stream.until_events(20)
            assert stream.data == [str(number) for number in range(20)]
        nursery.cancel_scope.cancel()


async def test_two_binding_keys_that_both_match_give_one_event(client: Client, publisher: Publisher, name: str) -> None:
    stream = await client.listen(f"/two/{name}")
    neighbour = await client.listen(f"/plain/{name}")
    publisher.publish("e2e.topic", f"also.{name}", "1")
    publisher.publish("e2e.topic", f"also.{name}.a.b", "2")
    publisher.publish("e2e.topic", f"plain.{name}", "3")
    await stream.until_events(3)
    await neighbour.until_events(1)
    assert stream.data == ["1", "2", "3"]
    assert neighbour.data == ["3"]


async def test_what_is_published_the_moment_the_first_bytes_have_come_arrives(
    every_client: Client, publisher: Publisher, name: str
) -> None:
    for number in range(10):
        stream = await every_client.listen(f"/plain/{name}{number}")
        publisher.publish("e2e.topic", f"plain.{name}{number}", str(number), mandatory=True)
        await stream.until_events(1)
