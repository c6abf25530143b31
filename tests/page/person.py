"""Somebody who looks at the debug page: clicks, types, reads; waits for what should appear, and never for a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

PATIENCE = 30.0  # seconds


class Person:
    """A person in front of one browser; ``address`` is the admin listener's."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self.browser = browser
        self.address = address

    def open(self, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Open the page, in a window of this size and with the system's colours being these; wait for its numbers."""
        self.resize(width, height)
        self.prefer(scheme)
        self.browser.get(f"{self.address}/")
        self.until(lambda: self.text("#broker") == "Broker connected", "the overview")

    def leave(self) -> None:
        """Go elsewhere, so that the page's streams end."""
        self.browser.get("about:blank")
        self.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def resize(self, width: int, height: int = 900) -> None:
        """Another window."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        """The system's colours: light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    # reading

    def find(self, selector: str) -> WebElement:
        """The first element of a CSS selector."""
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """What stands there, without the thin spaces inside of numbers."""
        return self.find(selector).text.replace("\u202f", "")

    def texts(self, selector: str) -> list[str]:
        """What stands in each of these, at one moment."""
        script = "return [...document.querySelectorAll(arguments[0])].map(each => each.innerText)"
        found: list[str] = self.browser.execute_script(script, selector)
        return found

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns."""
        return self.browser.execute_script(script, *arguments)

    def row(self, path: str) -> list[str]:
        """A route's cells: streams, in/s, out/s, delay, backlog."""
        cells = "return [...document.querySelectorAll('#routes tr')].find(row => row.querySelector('button').innerText"
        texts: list[str] = self.run(f"{cells} === arguments[0]).innerText.split('\\t')", path)
        return [text.strip().replace("\u202f", "") for text in texts[1:]]

    def complaints(self) -> list[str]:
        """What the browser has logged since the page was opened: errors, and violations of the page's policy."""
        log: list[dict[str, str]] = self.browser.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in log if entry["level"] != "DEBUG"]

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until this holds; returns what it gave."""
        wait = WebDriverWait(self.browser, PATIENCE, 0.05, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(lambda _: condition(), message=what)

    # doing

    def click(self, selector: str) -> None:
        """Click it."""
        self.find(selector).click()

    def type(self, selector: str, text: str) -> None:
        """Replace what stands in a field."""
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def press(self, *keys: str) -> None:
        """Press keys where the focus is."""
        ActionChains(self.browser).send_keys(*keys).perform()

    def choose(self, selector: str, value: str) -> None:
        """Choose in a list."""
        Select(self.find(selector)).select_by_value(value)

    def pick(self, path: str, **parameters: str) -> None:
        """Click a route in the table and fill in its parameters."""
        self.run(
            "[...document.querySelectorAll('button.route')].find(each => each.innerText === arguments[0]).click()", path
        )
        for name, value in parameters.items():
            self.type(f"#listen-parameters input[name='{name.replace('__', '.')}']", value)

    def listen(self, path: str, **parameters: str) -> None:
        """Listen to a route until it is connected."""
        self.pick(path, **parameters)
        self.click("#listen-connect")
        self.until(lambda: self.text("#listen-status") == "Connected", "the stream")

    def data(self) -> list[str]:
        """The data of the events in the list, the newest first."""
        return self.texts("#listen-events .preview")
