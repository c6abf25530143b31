"""Ten thousand events a second: the page shows a sample, says so, and stays at hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from queue import SimpleQueue
from typing import Any

import pytest
import trio
from selenium import webdriver

from sidecar.amqp import Properties
from sidecar.cli.demo import configuration, declare
from sidecar.service import Service
from tests.page.person import Person

RATE = 10_000  # events a second
ROWS = 200  # the page's own bound


async def pour(started: SimpleQueue[Any]) -> None:
    """A service with the demo's routes, and a ticker that never rests, until the scope handed out is cancelled."""
    service = Service(configuration(0))
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        await declare(service.broker, service.config.routes)
        started.put((service.admin_address, trio.lowlevel.current_trio_token(), nursery.cancel_scope))
        began, sent = trio.current_time(), 0
        while True:
            while sent < (trio.current_time() - began) * RATE:
                body = json.dumps({"symbol": "ACME", "n": sent}).encode()
                await service.broker.publish("ticker", "ACME", body, Properties(type="price"))
                sent += 1
            await trio.sleep(0.01)


@pytest.fixture
def flooded() -> Iterator[str]:
    """The address of the admin listener of such a service, in a thread of its own."""
    started: SimpleQueue[Any] = SimpleQueue()
    thread = threading.Thread(target=partial(trio.run, pour, started))
    thread.start()
    address, token, scope = started.get(timeout=10)
    yield address
    trio.from_thread.run_sync(scope.cancel, trio_token=token)
    thread.join(10)
    assert not thread.is_alive()


def test_a_flood_is_sampled_and_the_page_stays_at_hand(chromium: webdriver.Chrome, flooded: str) -> None:
    person = Person(chromium, flooded)
    person.open()
    person.listen("/events/ticker/{symbol}", symbol="ACME")
    person.until(lambda: int(person.text("#listen-count")) > 1.5 * RATE, "a second and a half of it")
    assert "about 1 in" in person.text("#listen-sampled")
    rows = person.texts("#listen-events .event")
    assert 0 < len(rows) <= ROWS
    assert int(person.text("#listen-rate")) > 5 * ROWS  # what comes, not what is shown of it
    person.click("#listen-pause")
    person.until(lambda: person.text("#listen-sampled").startswith("Paused"), "the pause")
    shown = person.data()[0]
    person.until(lambda: int(person.text("#listen-count")) > 2 * RATE, "more of it")
    assert person.data()[0] == shown
    person.click("#listen-pause")
    person.type("#listen-filter", "77}")  # while it goes on
    person.until(lambda: person.data()[0].endswith("77}"), "the filter")
    assert person.text("#listen-status") == "Connected"
    assert not [mark for mark in person.texts(".mark") if "again in" in mark]
    person.leave()
