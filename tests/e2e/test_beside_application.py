"""An ordinary Flask application with a cookie login behind the sidecar, used in a real browser.

It is the example of the documentation, as it stands there, with RabbitMQ between the two; only the time after which a
stream must ask again is shorter. In `deciding_shop` it has one view more, whose answer subscribes its reader by itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.e2e.test_browser import until
from tests.lab.certificates import Certificates
from tests.lab.ports import free_port
from tests.lab.process import Service, running
from tests.lab.rabbitmq import RabbitNode

SHOP = Path(__file__).parents[2] / "docs" / "examples" / "flask_shop"
DECIDING = Path(__file__).with_name("deciding_shop.py")
AGAIN = {"max_age": "700ms", "retry": "50ms-100ms"}
OFFER = {"exchange": "orders", "declare": {"type": "topic"}, "event": "{type}", "replay": {"memory": 100}, **AGAIN}
ORDERS = "return [...document.querySelectorAll('#orders li')].map(line => line.textContent)"
STATE = "return source.readyState"
OPEN, CLOSED = 1, 2
COUNT_ENDS = "window.ends = 0; source.addEventListener('error', () => window.ends++)"
OVER_AND_OVER = "return window.ends"
LOG_OUT_ELSEWHERE = "fetch('/logout', {method: 'POST'}).then(() => arguments[0]())"


@pytest.fixture(scope="module")
def shop(
    rabbitmq: RabbitNode, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The shop as a process of its own, and a sidecar before it."""
    port, url = free_port(), rabbitmq.url(rabbitmq.vhost())
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AMQP_URL", url)
        environment.setenv("SHOP_URL", f"http://127.0.0.1:{port}")
        config = yaml.safe_load((SHOP / "sidecar.yaml").read_text())
        del config["listen"]
        config["routes"][0] |= AGAIN
        config["upstream"]["subscribe"] = [OFFER]
        tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
        with flask(port), running(tmp_path_factory.mktemp("shop"), config, tls=tls) as service:
            service.sidecar.until(lambda: answers(service), "the shop answers through the sidecar")
            yield service


class flask:  # noqa: N801 - used as a word
    """`flask run`, for a block."""

    def __init__(self, port: int) -> None:
        command = [sys.executable, "-m", "flask", "--app", str(DECIDING), "run", "--port", str(port)]
        self._process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(SHOP)}
        )

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)


def url(service: Service, scheme: str) -> str:
    """The sidecar's address."""
    assert service.https is not None
    return "{}://{}:{}".format(scheme, *(service.https if scheme == "https" else service.http))


def answers(service: Service) -> bool:
    """Whether the shop's page comes through."""
    return httpx.get(url(service, "http"), trust_env=False).status_code == 200


class Customer:
    """Somebody who uses the shop without a browser."""

    def __init__(self, service: Service, user: str, password: str) -> None:
        self._client = httpx.Client(base_url=url(service, "http"), trust_env=False)
        assert self._client.post("/login", data={"user": user, "password": password}).status_code == 303

    def buy(self, item: str) -> None:
        """Place an order."""
        assert self._client.post("/orders", data={"item": item}).status_code == 204


class Shopper:
    """Somebody who uses it in the browser."""

    def __init__(self, browser: webdriver.Chrome, address: str) -> None:
        self._browser = browser
        self._address = address
        browser.get(f"{address}/")
        browser.delete_all_cookies()

    def log_in(self, user: str, password: str) -> None:
        """By the form, up to the open stream."""
        self._browser.get(f"{self._address}/")
        self._browser.find_element(By.NAME, "user").send_keys(user)
        self._browser.find_element(By.NAME, "password").send_keys(password)
        self._browser.find_element(By.ID, "enter").click()
        self.until(STATE, lambda state: state == OPEN)

    def buy(self, item: str) -> None:
        """By the form."""
        field = self._browser.find_element(By.NAME, "item")
        field.clear()
        field.send_keys(item)
        self._browser.find_element(By.ID, "buy").click()

    def until(self, script: str, condition: Callable[[Any], bool]) -> Any:
        """What a script gives, once a condition holds of it."""
        return until(self._browser, f"try {{ {script} }} catch (error) {{ return null }}", condition)

    def sees(self, *orders: str) -> None:
        """Wait for exactly these orders on the page."""
        self.until(ORDERS, lambda seen: seen == list(orders))

    def do(self, script: str) -> None:
        """Run a script."""
        self._browser.execute_script(script)

    def wait_for(self, script: str) -> None:
        """Run a script that calls back."""
        self._browser.execute_async_script(script)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_log_in_hear_one_s_own_log_out_hear_nothing(chromium: webdriver.Chrome, shop: Service, scheme: str) -> None:
    eve, ada_elsewhere = Customer(shop, "eve", "mallory"), Customer(shop, "ada", "lovelace")
    ada = Shopper(chromium, url(shop, scheme))
    ada.log_in("ada", "lovelace")
    eve.buy("a lock pick")
    ada.buy("a loom")
    ada.sees("a loom")
    ada_elsewhere.buy("punched cards")
    ada.sees("a loom", "punched cards")

    ada.do(COUNT_ENDS)
    ada.until(OVER_AND_OVER, lambda ends: ends >= 2)  # it has ended, and come back with the same right
    ada_elsewhere.buy("an engine")
    ada.sees("a loom", "punched cards", "an engine")

    ada.wait_for(LOG_OUT_ELSEWHERE)
    ada.until(STATE, lambda state: state == CLOSED)  # the application said 401: it does not come back
    shop.sidecar.wait_metric("sidecar_subscribers", 0)
    ada_elsewhere.buy("not for that browser")
    assert ada.until(STATE, lambda state: True) == CLOSED
    ada.sees("a loom", "punched cards", "an engine")

    ada.log_in("eve", "mallory")  # another user in the same browser
    ada_elsewhere.buy("still not for eve")
    eve.buy("a ladder")
    ada.sees("a ladder")


def test_without_a_login_there_is_no_stream(chromium: webdriver.Chrome, shop: Service) -> None:
    nobody = Shopper(chromium, url(shop, "https"))
    nobody.do("window.source = new EventSource('/events/orders')")
    nobody.until(STATE, lambda state: state == CLOSED)
    answer = httpx.get(f"{url(shop, 'http')}/events/orders", trust_env=False)
    assert (answer.status_code, answer.text) == (401, "log in first\n")


HEAR_BY_ITS_WORD = """
source.close()
window.mine = new EventSource("/mine")
window.heard = []
mine.addEventListener("placed", event => heard.push(JSON.parse(event.data).item))
"""
HEARD = "return heard"
STATE_OF_MINE = "return mine.readyState"


def test_what_the_application_subscribes_its_reader_to(chromium: webdriver.Chrome, shop: Service) -> None:
    """Without a route: the answer to a request of the application's own says what its reader hears."""
    eve, ada_elsewhere = Customer(shop, "eve", "mallory"), Customer(shop, "ada", "lovelace")
    ada = Shopper(chromium, url(shop, "https"))
    ada.log_in("ada", "lovelace")
    ada.do(HEAR_BY_ITS_WORD)
    ada.until(STATE_OF_MINE, lambda state: state == OPEN)
    eve.buy("a crowbar")
    ada_elsewhere.buy("a thread")
    ada.until(HEARD, lambda heard: heard == ["a thread"])
    ada.do(COUNT_ENDS.replace("source", "mine"))
    ada.until(OVER_AND_OVER, lambda ends: ends >= 2)  # asked again, and told the same
    ada_elsewhere.buy("a shuttle")
    ada.until(HEARD, lambda heard: heard == ["a thread", "a shuttle"])
    ada.wait_for(LOG_OUT_ELSEWHERE)
    ada.until(STATE_OF_MINE, lambda state: state == CLOSED)
    answer = httpx.get(f"{url(shop, 'http')}/mine", headers={"accept": "text/event-stream"}, trust_env=False)
    assert (answer.status_code, answer.text) == (401, "log in first\n")
    assert shop.sidecar.metric("sidecar_upstream_requests_total", code="401") >= 1
