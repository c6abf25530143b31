"""``/listen/…`` on the admin listener: the real routes, and for nobody but this listener's own page and programs."""

from __future__ import annotations

from itertools import islice

import httpx
import pytest

from tests.lab.process import PATIENCE, Service
from tests.page.conftest import publish

STREAM = "/listen/events/orders/4"


@pytest.fixture
def address(watched: Service) -> str:
    return f"http://127.0.0.1:{watched.sidecar.admin_port}"


def test_a_program_reads_there_what_the_public_listener_sends(watched: Service, address: str) -> None:
    with httpx.stream("GET", f"{address}{STREAM}", timeout=PATIENCE) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert not [name for name in response.headers if name.startswith("access-control-")]
        lines = response.iter_lines()
        next(line for line in lines if line.startswith(":"))
        publish(watched, "order.4.paid", "four", "paid")
        assert list(islice(lines, 4))[1:] == ["event: paid", "data: four", ""]
    assert watched.sidecar.metric("sidecar_events_sent_total", route="/events/orders/{order}") > 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Host": "sidecar.evil.example:9400"},
    ],
)
def test_pages_of_others_are_refused(address: str, headers: dict[str, str]) -> None:
    response = httpx.get(f"{address}{STREAM}", headers=headers, timeout=PATIENCE)
    assert (response.status_code, response.headers["content-type"]) == (403, "text/plain; charset=utf-8")


def test_what_is_no_stream_is_the_same_as_outside(address: str) -> None:
    assert httpx.get(f"{address}/listen/nowhere", timeout=PATIENCE).status_code == 404
    assert httpx.get(f"{address}/listen", timeout=PATIENCE).status_code == 404
    assert httpx.post(f"{address}{STREAM}", timeout=PATIENCE).headers["allow"] == "GET, HEAD"
    assert httpx.get(f"{address}/listen/events/orders/a.b", timeout=PATIENCE).status_code == 400
    assert httpx.get(f"{address}/listen/guarded", timeout=PATIENCE).status_code == 401
    assert httpx.head(f"{address}{STREAM}", timeout=PATIENCE).status_code == 200


@pytest.mark.parametrize("path", [STREAM, "/static/debug.js", "/overview/stream", "/explain?path=/events/orders", "/"])
def test_nothing_of_it_is_public(watched: Service, path: str) -> None:
    assert httpx.get(f"http://127.0.0.1:{watched.http[1]}{path}", timeout=PATIENCE).status_code == 404
