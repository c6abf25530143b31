"""Eight event streams of one origin in a real browser: all of them over HTTP/2, six over HTTP/1.1."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

from tests.lab.process import Service
from tests.lab.publisher import Publisher

STREAMS = 8
OPEN = """
window.heard = arguments[0].map(() => []);
window.sources = arguments[0].map((path, index) => {
    const source = new EventSource(path);
    source.onmessage = event => window.heard[index].push(event.data);
    return source;
});
"""
COUNT_OPENS = "window.opens = 0; window.sources[0].onopen = () => window.opens++"
STATES = "return window.sources.map(source => source.readyState)"  # 0 connecting, 1 open, 2 closed
HEARD = "return window.heard"
LEAVE = "window.sources.forEach(source => source.close())"


def until(browser: webdriver.Chrome, script: str, condition: Callable[[Any], bool]) -> Any:
    """What a script returns, once a condition holds of it."""
    seen: Any = None

    def holds(browser: webdriver.Chrome) -> bool:
        nonlocal seen
        seen = browser.execute_script(script)
        return condition(seen)

    WebDriverWait(browser, 20, poll_frequency=0.05).until(holds, message=f"{script}: at last {json.dumps(seen)}")
    return seen


def opened(states: list[int], number: int) -> bool:
    """Whether exactly this many are open."""
    return states.count(1) == number


@pytest.fixture
def paths(name: str) -> list[str]:
    """Eight paths of one test."""
    return [f"/plain/{name}-{number}" for number in range(STREAMS)]


def publish_to_all(publisher: Publisher, paths: list[str], body: str) -> None:
    """One message to each path."""
    for path in paths:
        publisher.publish("e2e.topic", path[1:].replace("/", "."), body)


def test_eight_streams_over_http2_all_receive(
    chromium: webdriver.Chrome, service: Service, publisher: Publisher, paths: list[str]
) -> None:
    assert service.https is not None
    chromium.get("https://{}:{}/".format(*service.https))  # any page of the origin will do
    chromium.execute_script(OPEN, paths)
    until(chromium, STATES, functools.partial(opened, number=STREAMS))
    publish_to_all(publisher, paths, "hello\nbrowser")
    until(chromium, HEARD, lambda heard: heard == [["hello\nbrowser"]] * STREAMS)
    connections = chromium.execute_script(
        "return performance.getEntriesByType('navigation').map(entry => entry.nextHopProtocol)"
    )
    assert connections == ["h2"]
    chromium.execute_script(LEAVE)
    service.sidecar.wait_metric("sidecar_subscribers", 0, route="/plain/{name}")


def test_the_same_page_over_http1_is_stuck_at_six(
    chromium: webdriver.Chrome, service: Service, publisher: Publisher, paths: list[str]
) -> None:
    chromium.get("http://{}:{}/".format(*service.http))
    chromium.execute_script(OPEN, paths)
    until(chromium, STATES, functools.partial(opened, number=6))
    publish_to_all(publisher, paths, "hello")
    heard = until(chromium, HEARD, lambda heard: heard.count(["hello"]) == 6)
    assert heard.count([]) == 2
    assert service.sidecar.metric("sidecar_subscribers", route="/plain/{name}") == 6
    first = next(index for index, state in enumerate(chromium.execute_script(STATES)) if state == 1)
    chromium.execute_script("window.sources[arguments[0]].close()", first)
    states = until(chromium, STATES, functools.partial(opened, number=6))  # one of the two that waited
    assert states[first] == 2
    chromium.execute_script(LEAVE)
    service.sidecar.wait_metric("sidecar_subscribers", 0, route="/plain/{name}")


def test_a_browser_comes_back_by_itself_after_a_clean_end(
    chromium: webdriver.Chrome, service: Service, publisher: Publisher, name: str
) -> None:
    assert service.https is not None
    chromium.get("https://{}:{}/".format(*service.https))
    chromium.execute_script(
        OPEN + "window.opens = 0; window.sources[0].onopen = () => window.opens++", [f"/brief/{name}"]
    )
    until(chromium, "return window.opens", lambda opens: opens >= 3)
    chromium.execute_script(LEAVE)
