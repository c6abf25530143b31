"""A real browser: headless Chromium, driven by Selenium.

Strategy: one browser for the session, in a new profile, kept from talking to anybody but the tests; a page is any
document of the origin under test, so that EventSource runs as it would in an application. Selenium blocks: tests on
trio call it from a worker thread.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "/snap/bin/chromium")
DRIVERS = ("chromedriver", "chromium.chromedriver", "/snap/bin/chromium.chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--no-proxy-server",
    "--ignore-certificate-errors",
)


def find_program(*names: str) -> str:
    """The first of these programs that is installed; AssertionError, with the way out, when none is."""
    for name in names:
        if found := shutil.which(name):
            return found
    raise AssertionError(f"none of {', '.join(names)} is installed: `make lab` installs them")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """The browser; certificates of the tests' own authority are accepted."""
    options = webdriver.ChromeOptions()
    options.binary_location = find_program(*BROWSERS)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(find_program(*DRIVERS)))
    driver.set_page_load_timeout(20)
    driver.set_script_timeout(20)
    try:
        yield driver
    finally:
        driver.quit()
