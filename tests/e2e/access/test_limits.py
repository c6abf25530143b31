"""How many streams at once, of a route and of one client: the full house of an EventSource."""

from __future__ import annotations

import pytest
import trio

from tests.e2e.access.conftest import ACCEPT, bearer, token
from tests.e2e.conftest import Client
from tests.lab import wire


async def is_turned_away(response: wire.Response) -> bool:
    """Whether this is the full house of an EventSource: 200, a retry, nothing else, and a clean end."""
    assert response.status == 200
    with trio.move_on_after(0.3):
        await response.until_end()
    return (response.end, response.events, response.stream.retry is not None) == ("clean", [], True)


async def test_a_reader_s_places_are_counted_by_the_claim(both: Client, name: str) -> None:
    kept = [await both.listen("/few", headers=bearer(token(name))) for _ in range(2)]
    assert await is_turned_away(await both.get("/few", headers=bearer(token(name))))
    assert (await both.listen("/few", headers=bearer(token(f"{name}x")))).end is None
    assert all(stream.end is None for stream in kept)
    reason = {"route": "/few", "reason": "limit"}
    assert both.service.sidecar.metric("sidecar_streams_closed_total", **reason) >= 1
    await trio.to_thread.run_sync(both.service.sidecar.log.wait, lambda line: reason.items() <= line.items())


async def test_a_place_that_was_left_is_free_again(client: Client, name: str) -> None:
    opened = await wire.open_http1(client.nursery, client.service.http, "/few", headers=bearer(token(name)))
    await opened.response.until_open()
    await client.listen("/few", headers=bearer(token(name)))
    assert await is_turned_away(await client.get("/few", headers=bearer(token(name))))
    await opened.aclose()
    with trio.fail_after(5):
        while await is_turned_away(await client.get("/few", headers=bearer(token(name)))):
            pass  # until the process has seen that it left


async def test_an_honest_full_house(client: Client, name: str) -> None:
    for _ in range(2):
        await client.listen("/few/honest", headers=bearer(token(name)))
    response = await client.get("/few/honest", headers=bearer(token(name)))
    assert (response.status, response.header("retry-after")) == (503, "1")


async def test_a_route_s_places_are_everybody_s(client: Client, name: str) -> None:
    kept = [await client.listen("/full", headers=bearer(token(f"{name}-{number}"))) for number in range(3)]
    assert await is_turned_away(await client.get("/full", headers=bearer(token(name))))
    assert all(stream.end is None for stream in kept)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("203.0.113.1", "203.0.113.1", True),
        ("203.0.113.2", "203.0.113.3", False),
        ("2001:db8:1:1::1", "2001:db8:1:1:ffff::2", True),  # one subscriber's /64
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:203.0.113.4", "203.0.113.4", True),
        ("203.0.113.5", "198.51.100.1, 203.0.113.5", True),  # what stands further left is hearsay
        ("203.0.113.6", "198.51.100.2, 203.0.113.6, 127.0.0.1", True),
    ],
)
async def test_an_address_s_places_behind_a_trusted_proxy(client: Client, first: str, second: str, same: bool) -> None:
    kept = await client.listen("/open", headers=[ACCEPT, ("x-forwarded-for", first)])
    response = await client.get("/open", headers=[ACCEPT, ("x-forwarded-for", second)])
    assert await is_turned_away(response) is same
    assert kept.end is None
