"""The page's files as they are sent, the explanation, and who may not look."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from sidecar.http.admin import AdminApplication
from sidecar.http.page import MEDIA_TYPES, POLICY
from tests.http.asgi import Process, request

NAMES = sorted(entry.name for entry in files("sidecar").joinpath("static").iterdir() if entry.is_file())


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def admin(process: Process) -> AdminApplication:
    return AdminApplication(process, may_publish=True)


@pytest.mark.parametrize("accept", ["", "*/*", "text/html,application/xhtml+xml,*/*;q=0.8"])
async def test_the_page_is_strict(admin: AdminApplication, accept: str) -> None:
    response = await request(admin, "GET", "/", headers={"Accept": accept})
    assert (response.status, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert response.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["cache-control"] == "no-store"


async def test_the_page_names_no_place_but_this_one_and_nothing_inline(admin: AdminApplication) -> None:
    page = (await request(admin, "GET", "/")).text
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert name.startswith("/")
        assert not name.startswith("/static/") or name.removeprefix("/static/") in NAMES
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script>|javascript:", page)


@pytest.mark.parametrize("name", NAMES)
async def test_every_file_is_there_and_asked_for_again_costs_nothing(admin: AdminApplication, name: str) -> None:
    first = await request(admin, "GET", f"/static/{name}")
    assert (first.status, first.body) == (200, files("sidecar").joinpath("static", name).read_bytes())
    assert first.headers["content-type"] in MEDIA_TYPES.values()
    assert first.headers["cache-control"] == "no-cache"
    assert first.headers["x-content-type-options"] == "nosniff"
    for known in first.headers["etag"], f'"other", W/{first.headers["etag"]}':
        again = await request(admin, "GET", f"/static/{name}", headers={"If-None-Match": known})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert "content-length" not in again.headers
    other = await request(admin, "GET", f"/static/{name}", headers={"If-None-Match": '"other"'})
    assert other.status == 200
    head = await request(admin, "HEAD", f"/static/{name}")
    assert (head.status, head.body, head.headers) == (200, b"", first.headers)


@pytest.mark.parametrize(
    "name", ["", "nothing.js", "../service.py", "..%2fservice.py", "%2e%2e/x.js", "debug.js/", "."]
)
async def test_nothing_else_is_there(admin: AdminApplication, name: str) -> None:
    assert (await request(admin, "GET", f"/static/{name}")).status == 404


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".js")])
def test_no_script_turns_text_into_markup_or_code(name: str) -> None:
    text = files("sidecar").joinpath("static", name).read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    assert not re.search(r"https?://(?!localhost|www\.w3\.org/2000/svg)", text)


async def test_explain(process: Process, admin: AdminApplication) -> None:
    process.explained["/events/orders/a%20b?x=1&y=2"] = {"route": "/events/orders/{order}", "readers": "anybody"}
    response = await request(admin, "GET", "/explain?path=%2Fevents%2Forders%2Fa%2520b%3Fx%3D1%26y%3D2")
    assert (response.status, response.json()["route"]) == (200, "/events/orders/{order}")
    assert (await request(admin, "GET", "/explain?path=/elsewhere")).status == 404
    for target in "/explain", "/explain?path=events", "/explain?other=/events":
        refused = await request(admin, "GET", target)
        assert (refused.status, "/explain?path=" in refused.text) == (400, True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:9400"}, 200),
        ({"Host": "[::1]:9400"}, 200),
        ({"Host": "localhost:9400", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Host": "localhost:9400", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Host": "sidecar.evil.example:9400"}, 403),
        ({"Host": "127.0.0.1:9400", "Origin": "https://evil.example"}, 403),
    ],
)
async def test_pages_of_others_may_not_watch(admin: AdminApplication, headers: dict[str, str], status: int) -> None:
    assert (await request(admin, "HEAD", "/overview/stream", headers=headers)).status == status
