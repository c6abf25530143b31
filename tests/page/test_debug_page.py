"""The debug page as a person uses it: every part of it clicked, in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from tests.lab.ports import free_port
from tests.lab.process import Service
from tests.page.conftest import ROUTES, publish, started
from tests.page.person import Person


def test_numbers_are_live(person: Person, watched: Service) -> None:
    assert person.row("/events/orders")[0] == "0"
    person.listen("/events/orders")
    person.until(lambda: person.row("/events/orders")[0] == "1", "one stream")
    assert person.text("#tile-streams .figure") == "1"
    publish(watched, "order.1.placed", "{}")
    person.until(lambda: float(person.row("/events/orders")[2]) > 0, "events out")
    person.until(lambda: "at most" in str(person.find("#tile-events svg").get_attribute("aria-label")), "a plot")
    assert person.run("return document.querySelector('#tile-events .line').getAttribute('d').length") > 20
    person.click("#listen-connect")
    person.until(lambda: "the last id was" in person.texts(".mark")[0], "the end of it")
    person.until(lambda: person.row("/events/orders")[0] == "0", "no stream")


def test_an_event_shows_all_it_has(person: Person, watched: Service) -> None:
    person.listen("/events/orders/{order}", order="7")
    assert person.text("#listen-path") == "/events/orders/7"
    publish(watched, "order.8.paid", "another order's")
    publish(watched, "order.7.paid", '{"order": 7, "lines": [{"sku": "a"}], "time": "2000-01-01T00:00:00Z"}', "paid")
    person.until(person.data, "the event")
    [summary] = person.texts("#listen-events summary")
    assert "paid" in summary
    assert person.texts(".event .delay") != [""]  # its own time is known, if long ago
    person.click("#listen-events summary")
    person.until(lambda: person.texts(".whole .raw"), "the raw bytes")
    [raw] = person.texts(".whole .raw")
    assert raw.splitlines()[0] == "event: paid\\n"
    assert raw.splitlines()[-1] == "\\n"
    assert {"order: 7", 'sku: "a"'} <= set("\n".join(person.texts(".tree")).splitlines())
    person.click(".tree summary")  # folded
    assert "order: 7" not in "\n".join(person.texts(".tree"))


def test_disconnect_and_come_back_replays(person: Person, watched: Service) -> None:
    person.listen("/events/orders")
    publish(watched, "order.1.placed", "before")
    person.until(lambda: person.data() == ["before"], "the first event")
    person.choose("#listen-away-for", "2")
    person.click("#listen-away")
    person.until(lambda: "on purpose" in person.text("#listen-status"), "being away")
    watched.sidecar.wait_metric("sidecar_subscribers", 0, route="/events/orders")
    for number in range(12):
        publish(watched, "order.1.placed", f"meanwhile {number}")
    person.until(lambda: person.data()[0] == "meanwhile 11", "the replay")
    assert person.data() == [*(f"meanwhile {number}" for number in reversed(range(12))), "before"]
    marks = person.texts("#listen-events .mark")
    assert any("Coming back with Last-Event-ID" in mark for mark in marks)
    person.until(lambda: any("12 events in the first second" in each for each in person.texts(".mark")), "the count")


def test_a_last_event_id_can_be_given_and_a_reset_is_seen_in_both_places(person: Person) -> None:
    person.pick("/events/orders")
    person.click("#listen-more summary")
    person.type("#listen-last-id", "nobody-knows-this")
    person.click("#listen-connect")
    person.until(lambda: person.texts('.event[data-type="sidecar.reset"]'), "the reset in the stream")
    person.until(lambda: any("unknown_id" in line for line in person.texts("#resets li")), "the reset in the overview")
    person.click("#listen-connect")
    person.until(lambda: any("client_left" in line for line in person.texts("#closed li")), "the end in the overview")
    line = person.texts("#closed li")[0]
    assert "/events/orders" in line
    assert "127.0.0.1" in line


def test_a_stream_stays_what_it_was_until_another_route_is_chosen(person: Person, watched: Service) -> None:
    person.listen("/events/orders/{order}", order="7")
    person.type("#listen-parameters input[name='order']", "8")
    person.choose("#listen-away-for", "2")
    person.click("#listen-away")
    person.until(lambda: "Coming back" in person.texts(".mark")[0], "the way back")
    person.until(lambda: person.text("#listen-status") == "Connected", "the stream")
    publish(watched, "order.8.placed", "what was typed meanwhile")
    publish(watched, "order.7.placed", "still the seventh")
    person.until(lambda: person.data() == ["still the seventh"], "the event")
    person.pick("/events/orders/{order}")
    assert person.text("#listen-status") == "Connected"
    person.pick("/events/of", query__kind="a")
    person.until(lambda: person.text("#listen-status") == "Not listening", "the end")
    person.click("#listen-connect")
    person.until(lambda: person.texts(".mark")[0].endswith("Listening to /events/of?kind=a"), "the other stream")


def test_pause_filter_clear(person: Person, watched: Service) -> None:
    person.listen("/events/orders")
    person.type("#listen-filter", "WANTED")
    for body in ("wanted 1", "other", "wanted 2"):
        publish(watched, "order.1.placed", body)
    person.until(lambda: person.data() == ["wanted 2", "wanted 1"], "what the filter lets through")
    person.until(lambda: person.text("#listen-count") == "3", "all are counted")
    person.click("#listen-pause")
    publish(watched, "order.1.placed", "wanted 3")
    person.until(lambda: "1 matching event has" in person.text("#listen-sampled"), "the pause")
    assert person.data() == ["wanted 2", "wanted 1"]
    person.click("#listen-pause")
    publish(watched, "order.1.placed", "wanted 4")
    person.until(lambda: person.data()[0] == "wanted 4", "going on")
    person.type("#listen-filter", "wanted 4")
    shown = "return [...document.querySelectorAll('.event:not([hidden]) .preview')].map(each => each.innerText)"
    person.until(lambda: person.run(shown) == ["wanted 4"], "the filter holds for what is in the list")
    person.press(Keys.ESCAPE)
    person.until(lambda: person.run(shown) == ["wanted 4", "wanted 2", "wanted 1"], "all of it again")
    person.click("#listen-clear")
    assert person.data() == []


def test_tokens_in_the_header_and_in_the_query(person: Person, watched: Service, token: str) -> None:
    person.pick("/guarded")
    person.click("#listen-connect")
    person.until(lambda: "Refused with 401" in person.text("#listen-status"), "the refusal")
    assert "401" in "".join(person.complaints())  # the browser's own line about it
    person.type("#listen-token", token)
    person.click("#listen-connect")
    person.until(lambda: person.text("#listen-status") == "Connected", "the stream")
    assert '-H "Authorization: Bearer $TOKEN"' in person.text("#line-curl")
    person.click("#listen-connect")
    person.choose("#listen-token-in", "query")
    person.type("#listen-token-name", "ticket")
    person.click("#listen-connect")
    person.until(lambda: person.text("#listen-status") == "Connected", "the stream")
    assert '/guarded?ticket=$TOKEN"' in person.text("#line-curl")
    assert token not in person.text("#workbench")
    assert token not in watched.sidecar.log.text


def test_a_parameter_of_the_query(person: Person, watched: Service) -> None:
    person.listen("/events/of", query__kind="a b&c")
    assert person.text("#listen-path") == "/events/of?kind=a%20b%26c"
    publish(watched, "of.a%20b%26c", "heard")
    person.until(lambda: person.data() == ["heard"], "the event")


def test_publish(person: Person) -> None:
    person.listen("/events/orders/{order}", order="5")
    person.click("#tab-publish")
    assert person.find("#publish-exchange").get_attribute("value") == "orders"
    assert person.find("#publish-key").get_attribute("value") == "order.5.test"
    person.type("#publish-type", "paid")
    person.type("#publish-headers", "tenant=blue\nkind=a=b")
    person.type("#publish-body", "it's {here}")
    person.click("#publish-send")
    person.until(lambda: person.text("#publish-result").startswith("Confirmed by the broker"), "the confirmation")
    line = person.text("#line-publish")
    assert r"--data-binary 'it'\''s {here}'" in line
    assert "type=paid&header.tenant=blue&header.kind=a%3Db" in line
    person.type("#publish-exchange", "nowhere")
    person.click("#publish-send")
    person.until(lambda: person.text("#publish-result").startswith("409: the broker refused"), "the refusal")
    assert "409" in "".join(person.complaints())
    person.click("#tab-listen")
    assert person.data() == ["it's {here}"]


def test_explain(person: Person) -> None:
    person.pick("/events/orders/{order}", order="9")
    person.click("#tab-explain")
    assert person.find("#explain-path").get_attribute("value") == "/events/orders/9"
    person.press(Keys.TAB, Keys.ENTER)
    person.until(lambda: "order.9.*" in person.text("#explain-result"), "the explanation")
    assert "binding headers" not in person.text("#explain-result"), "what says nothing is left out"
    person.type("#explain-path", "/nothing/here")
    person.click("#explain-form button")
    person.until(lambda: person.text("#explain-result") == "no route takes this path", "that there is none")
    assert "404" in "".join(person.complaints())


def copied(person: Person, name: str) -> str:
    """Click a line's copy button; returns what is in the clipboard then."""
    button = f"[data-copy=line-{name}]"
    person.click(button)
    person.until(lambda: person.text(button) == "Copied", "the button's word")
    return str(person.run("return navigator.clipboard.readText()"))


def test_lines_are_copied(person: Person, watched: Service) -> None:
    permissions = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    person.browser.execute_cdp_cmd("Browser.grantPermissions", {"permissions": permissions, "origin": person.address})
    person.pick("/events/orders/{order}", order="it's")
    public = f"http://127.0.0.1:{watched.http[1]}/events/orders/it's"
    for name, line in (
        ("curl", "curl -N '" + public.replace("'", r"'\''") + "'"),
        ("tail", "sidecar tail '" + public.replace("'", r"'\''") + "'"),
    ):
        assert copied(person, name) == line
    assert f"new EventSource({json.dumps(public)})" in copied(person, "javascript")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_every_window(person: Person, scheme: str) -> None:
    person.prefer(scheme)
    for width in (320, 390, 768, 1280):
        person.resize(width)
        for tab in ("publish", "explain", "listen"):
            person.click(f"#tab-{tab}")
            assert person.run("return document.documentElement.scrollWidth") <= width
    ground = person.run("return getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) > 384 or scheme == "dark"


def test_the_switch_of_colours_is_kept(person: Person) -> None:
    def ground() -> str:
        return str(person.run("return getComputedStyle(document.body).backgroundColor"))

    light = ground()
    person.click("#theme [value=dark]")
    person.until(lambda: ground() != light, "dark")
    person.open()
    assert ground() != light
    person.click("#theme [value=system]")
    person.until(lambda: ground() == light, "the system's again")


def test_a_keyboard_is_enough(person: Person, watched: Service) -> None:
    def focused() -> str:
        return str(person.run("return document.activeElement.id || document.activeElement.innerText"))

    person.press(Keys.TAB)
    assert focused().startswith("Skip to")
    for _ in range(12):
        person.press(Keys.TAB)
        if focused() == "/events/orders/{order}":
            break
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert (focused(), person.run(outline)) == ("/events/orders/{order}", "solid")
    person.press(Keys.ENTER)
    person.press("3", Keys.ENTER)  # the focus is in its parameter
    person.until(lambda: person.text("#listen-status") == "Connected", "the stream")
    publish(watched, "order.3.placed", "typed")
    person.until(lambda: person.data() == ["typed"], "the event")
    person.run("document.getElementById('tab-listen').focus()")
    person.press(Keys.ARROW_RIGHT)
    assert (focused(), person.find("#publish").is_displayed()) == ("tab-publish", True)
    person.press(Keys.END)
    assert (focused(), person.find("#explain").is_displayed()) == ("tab-explain", True)


def test_it_says_when_the_process_is_gone_and_shows_the_next_one(chromium: webdriver.Chrome, folder: Path) -> None:
    file, public, admin = folder / "sidecar.yaml", free_port(), free_port()
    config = {
        "broker": {"url": "memory://"},
        "listen": [{"bind": f"127.0.0.1:{public}"}],
        "admin": {"bind": f"127.0.0.1:{admin}"},
    }
    file.write_text(json.dumps({**config, "routes": ROUTES[:1]}))
    person = Person(chromium, f"http://127.0.0.1:{admin}")
    with started(file, admin):
        person.open()
        assert not person.find("#page-state").is_displayed()
        person.click("#tab-publish")
        assert "turns it on" in person.text("#publish-off")
        assert not person.find("#publish-send").is_enabled()
    person.until(lambda: person.find("#page-state").is_displayed(), "the loss")
    file.write_text(json.dumps({**config, "routes": ROUTES[:2]}))
    with started(file, admin):
        person.until(lambda: not person.find("#page-state").is_displayed(), "being back")
        person.until(lambda: len(person.texts("#routes tr")) == 2, "the new routes")
        person.leave()
