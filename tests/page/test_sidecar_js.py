"""sidecar.js in Chromium over HTTP/1.1: seven tabs, one connection; ends, silence, resets, and its parser."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.wait import WebDriverWait

from sidecar.sse import Parser
from tests.lab.process import Service, running
from tests.page.conftest import ROUTES, publish

TABS = 7  # one more than a browser opens connections to an origin
WAYS = ("worker", "tabs")

SHARE = """
const [path, options, done] = arguments;
import("/static/sidecar.js").then(({ share }) => {
    window.heard = []; window.states = []; window.resets = [];
    window.stream = share(path, { ...options, onReset: (reason) => window.resets.push(reason) });
    for (const type of ["placed", "sidecar.heartbeat"])
        window.stream.addEventListener(type, (event) => window.heard.push(event.data));
    for (const type of ["open", "error"])
        window.stream.addEventListener(type, (event) => window.states.push(event.data || "open"));
    done(window.stream.way);
});
"""


class Tabs:
    """Tabs of one browser at one origin."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        self.address = address
        self.first = browser.current_window_handle
        self.handles: list[str] = []

    def open(self) -> str:
        """One more, at a page of the origin that does nothing; the driver looks at it."""
        self.browser.switch_to.new_window("tab")
        self.handles.append(self.browser.current_window_handle)
        self.browser.get(f"{self.address}/livez")
        return self.handles[-1]

    def share(self, path: str, **options: Any) -> str:
        """Call `share` in the tab looked at; returns the way it has found."""
        return str(self.browser.execute_async_script(SHARE, path, options))

    def look(self, handle: str) -> None:
        """Look at another tab."""
        self.browser.switch_to.window(handle)

    def close(self, handle: str) -> None:
        """Close a tab; the driver looks at the first one left."""
        self.look(handle)
        self.browser.close()
        self.handles.remove(handle)
        self.look(self.handles[0] if self.handles else self.first)

    def until(self, script: str, condition: Callable[[Any], bool]) -> Any:
        """What a script returns in the tab looked at, once this holds of it."""
        seen: list[Any] = []

        def holds(browser: webdriver.Chrome) -> bool:
            seen.append(browser.execute_script(script))
            return condition(seen[-1])

        WebDriverWait(self.browser, 10, 0.05).until(holds, message=script)
        return seen[-1]

    def until_open(self) -> None:
        """Wait for the stream of the tab looked at."""
        self.until("return window.stream.readyState", lambda state: state == 1)

    def until_heard(self, expected: list[str]) -> None:
        """Wait until the tab looked at has heard exactly this."""
        self.until("return window.heard", lambda heard: len(heard) >= len(expected))
        assert self.browser.execute_script("return window.heard") == expected


@pytest.fixture
def tabs(chromium: webdriver.Chrome, watched: Service) -> Iterator[Tabs]:
    """No tab yet; all that were opened are closed at the end."""
    tabs = Tabs(chromium, f"http://127.0.0.1:{watched.sidecar.admin_port}")
    yield tabs
    for handle in tuple(tabs.handles):
        tabs.close(handle)
    for route in ROUTES:
        watched.sidecar.wait_metric("sidecar_subscribers", 0, route=route["path"])


@pytest.mark.parametrize("way", WAYS)
def test_seven_tabs_share_one_connection(tabs: Tabs, watched: Service, way: str) -> None:
    for _ in range(TABS):
        tabs.open()
        assert tabs.share("/listen/events/orders/1", way=way) == way
        tabs.until_open()
    assert watched.sidecar.metric("sidecar_subscribers", route="/events/orders/{order}") == 1
    for number in range(3):
        publish(watched, "order.1.placed", str(number))
    for handle in tabs.handles:
        tabs.look(handle)
        tabs.until_heard(["0", "1", "2"])


def test_without_sharing_the_seventh_waits_for_one_to_go(tabs: Tabs, watched: Service) -> None:
    for _ in range(TABS):
        tabs.open()
        tabs.browser.execute_async_script("import('/static/sidecar.js').then(arguments[0])")  # while there is room
    *six, seventh = tabs.handles
    for handle in six:
        tabs.look(handle)
        tabs.share("/listen/events/orders/1", way="alone")
        tabs.until_open()
    tabs.look(seventh)
    tabs.share("/listen/events/orders/1", way="alone")
    assert watched.sidecar.metric("sidecar_subscribers", route="/events/orders/{order}") == TABS - 1
    assert tabs.browser.execute_script("return window.stream.readyState") == 0
    tabs.close(six[0])
    tabs.look(seventh)
    tabs.until_open()


def test_a_worker_is_the_first_choice_and_other_streams_are_other_connections(tabs: Tabs, watched: Service) -> None:
    for order in "1", "2":
        tabs.open()
        assert tabs.share(f"/listen/events/orders/{order}") == "worker"
        tabs.until_open()
    assert watched.sidecar.metric("sidecar_subscribers", route="/events/orders/{order}") == 2
    publish(watched, "order.2.placed", "second")
    tabs.until_heard(["second"])
    tabs.look(tabs.handles[0])
    assert tabs.browser.execute_script("return window.heard") == []


def test_without_a_worker_the_tabs_do_it_themselves(tabs: Tabs) -> None:
    tabs.open()
    tabs.share("/listen/events/orders/1", module="/static/nothing.js")
    tabs.until("return window.stream.way", lambda way: way == "tabs")
    tabs.until_open()


@pytest.mark.parametrize("way", WAYS)
def test_when_the_first_tab_goes_the_others_miss_nothing(tabs: Tabs, watched: Service, way: str) -> None:
    first, second = (tabs.open() for _ in range(2))
    for handle in first, second:
        tabs.look(handle)
        tabs.share("/listen/events/orders", way=way)
        tabs.until_open()
    publish(watched, "order.1.placed", "both")
    tabs.until_heard(["both"])
    tabs.close(first)
    publish(watched, "order.1.placed", "after")  # replayed where the second has to connect anew
    tabs.look(second)
    tabs.until_heard(["both", "after"])
    assert tabs.browser.execute_script("return window.resets") == []


def test_streams_that_end_are_resumed_without_a_gap_or_a_repeat(tabs: Tabs, watched: Service) -> None:
    tabs.open()
    tabs.share("/listen/brief/resumed")
    tabs.until_open()
    expected: list[str] = []
    while len(tabs.browser.execute_script("return window.states")) < 5:  # open, error, open, error, open
        expected.append(str(len(expected)))
        publish(watched, "resumed", expected[-1])
    tabs.until_heard(expected)
    assert watched.sidecar.metric("sidecar_streams_closed_total", route="/brief/{name}", reason="expired") >= 2


def test_a_reset_calls_back(tabs: Tabs) -> None:
    tabs.open()
    tabs.share("/listen/events/orders", lastEventId="nobody-knows-this")
    assert tabs.until("return window.resets", bool) == ["unknown_id"]


def test_a_page_that_was_put_away_leaves_and_is_told_so_when_it_is_back(tabs: Tabs, watched: Service) -> None:
    tabs.open()
    tabs.share("/listen/events/orders/1")
    tabs.until_open()
    event = "window.dispatchEvent(new PageTransitionEvent(arguments[0], { persisted: true }))"
    tabs.browser.execute_script(event, "pagehide")
    watched.sidecar.wait_metric("sidecar_subscribers", 0, route="/events/orders/{order}")
    tabs.browser.execute_script(event, "pageshow")
    watched.sidecar.wait_metric("sidecar_subscribers", 1, route="/events/orders/{order}")
    assert tabs.browser.execute_script("return window.resets") == ["asleep"]


def test_a_refusal_is_told_and_final_but_another_try_is_possible(tabs: Tabs, token: str) -> None:
    tabs.open()
    tabs.share("/listen/guarded")
    tabs.until("return window.stream.readyState", lambda state: state == 2)
    assert tabs.browser.execute_script("return window.states[0]").startswith("401")
    tabs.share("/listen/guarded", headers={"Authorization": f"Bearer {token}"})
    tabs.until_open()


def test_silence_is_noticed_and_heartbeats_break_it(chromium: webdriver.Chrome, folder: Path) -> None:
    with running(folder, {"broker": {"url": "memory://"}, "routes": ROUTES}) as service:
        tabs = Tabs(chromium, f"http://127.0.0.1:{service.sidecar.admin_port}")
        tabs.open()
        tabs.share("/listen/beating/one", quiet=0.8)
        tabs.until_open()
        service.sidecar.signal(signal.SIGSTOP)  # a dead peer: nothing is closed, nothing comes
        try:
            tabs.until("return window.states", lambda states: "nothing was heard for 0.8 s" in states)
        finally:
            service.sidecar.signal(signal.SIGCONT)
        tabs.until_open()
        states = len(tabs.browser.execute_script("return window.states"))
        service.sidecar.until(lambda: service.sidecar.metric("sidecar_subscribers") == 1, "the dead one is gone")
        beats = "return performance.now()"
        since = tabs.browser.execute_script(beats)
        tabs.until(beats, lambda now: now - since > 1200)  # longer than it bears silence: heartbeats came
        assert len(tabs.browser.execute_script("return window.states")) == states
        assert tabs.browser.execute_script("return window.heard") == []  # and are nothing that a page hears
        tabs.close(tabs.handles[0])


def cut(text: str, places: list[int]) -> list[str]:
    """A text in parts."""
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def test_its_parser_is_the_product_s(tabs: Tabs) -> None:
    tabs.open()
    random_ = random.Random(7)
    pieces = ["data:", "data: ", "event: e", "id: 1", "id: \0", "id", "retry: 5", "retry: x", ":", "ä€😀", "x", " "]
    ends = ["\n", "\r", "\r\n", "\n\n", "\r\n\r\n", ""]
    texts = ["".join(random_.choice(pieces) + random_.choice(ends) for _ in range(20)) + "\n\n" for _ in range(400)]
    parts = [cut(text, sorted(random_.choices(range(len(text)), k=3))) for text in texts]
    script = """
    const [parts, done] = arguments;
    import("/static/sidecar.js").then(({ Parser }) => done(parts.map((each) => {
        const parser = new Parser("before");
        const events = each.flatMap((part) => parser.feed(part));
        return [events.map(({ type, data, id }) => [type, data, id]), parser.lastEventId, parser.retry];
    })));
    """
    for text, found in zip(texts, tabs.browser.execute_async_script(script, parts), strict=True):
        parser = Parser("before")
        events = [[event.type, event.data, event.id] for event in parser.feed(text.encode())]
        assert found == [events, parser.last_event_id, parser.retry], json.dumps(text)
