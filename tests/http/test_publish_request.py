"""A request read as a message: every way it can be wrong has its status and its way out."""

from __future__ import annotations

import contextlib
from urllib.parse import quote

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from sidecar.http.admin import AdminApplication
from sidecar.http.answer import Refusal
from sidecar.http.publish import BODY_LIMIT, BODY_WITHIN, read_publication, refuse_strangers
from tests.http.asgi import Process, publish, request


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def admin(process: Process) -> AdminApplication:
    return AdminApplication(process, may_publish=True)


name = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(exchange=name, routing_key=name, header=name.filter(bool), value=name, body=st.binary(max_size=100))
async def test_any_text_arrives_as_it_was_meant(
    exchange: str, routing_key: str, header: str, value: str, body: bytes
) -> None:
    process = Process()
    target = f"/publish/{quote(exchange, safe='')}/{quote(routing_key, safe='')}"
    query = f"header.{quote(header, safe='')}={quote(value, safe='')}"
    response = await publish(AdminApplication(process, may_publish=True), f"{target}?{query}", body=[body])
    assert response.status == 204
    [(to, key, sent, properties)] = process.published
    assert (to, key, sent, properties.headers) == (exchange, routing_key, body, {header: value})


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        ("/publish/orders", 404, "/publish/{exchange}/{routing_key}"),
        ("/publish/orders/a/b", 404, "%2F"),
        ("/publish/%FF/a", 400, "UTF-8"),
        ("/publish/orders/%C3", 400, "UTF-8"),
        ("/publish/orders/" + 256 * "a", 400, "the routing key is longer than 255 bytes"),
        ("/publish/" + 128 * "%C3%A9" + "/a", 400, "the exchange is longer than 255 bytes"),
        ("/publish/orders/a?tpye=paid", 400, "'tpye'; did you mean type?"),
        ("/publish/orders/a?zzz=1", 400, "there are type, message_id, header.NAME"),
        ("/publish/orders/a?header.=1", 400, "unknown parameter 'header.'"),
        ("/publish/orders/a?type=a&type=b", 400, "stands twice"),
        ("/publish/orders/a?type=%FF", 400, "the query is not UTF-8"),
        ("/publish/orders/a?type=é", 400, "the query is not UTF-8"),
        ("/publish/orders/a?type=" + 256 * "a", 400, "type is longer than 255 bytes"),
        ("/publish/orders/a?header." + 256 * "a" + "=1", 400, "a header's name is longer"),
        ("/publish/orders/a?" + "&".join(f"header.{n}=" for n in range(101)), 400, "more than 100 parameters"),
    ],
)
async def test_what_is_not_understood_is_refused(
    process: Process, admin: AdminApplication, target: str, status: int, words: str
) -> None:
    response = await publish(admin, target)
    assert (response.status, words in response.text) == (status, True), response.text
    assert process.published == []


async def test_a_content_type_too_long_for_amqp_is_refused(process: Process, admin: AdminApplication) -> None:
    response = await publish(admin, headers={"Content-Type": "text/" + 255 * "x"})
    assert (response.status, process.published) == (400, [])


async def test_the_largest_body_passes_and_one_byte_more_does_not(process: Process, admin: AdminApplication) -> None:
    half = bytes(BODY_LIMIT // 2)
    assert (await publish(admin, body=[half, half])).status == 204
    assert len(process.published[0][2]) == BODY_LIMIT
    response = await publish(admin, body=[half, half, b"x"])
    assert (response.status, str(BODY_LIMIT) in response.text) == (413, True)


async def test_a_body_announced_as_too_large_is_not_even_read(admin: AdminApplication) -> None:
    scope = {
        "raw_path": b"/publish/orders/a",
        "query_string": b"",
        "headers": [(b"content-length", str(BODY_LIMIT + 1).encode())],
    }
    with pytest.raises(Refusal) as refused:
        await read_publication(scope, trio.sleep_forever)
    assert refused.value.answer.status == 413


async def test_a_client_that_leaves_halfway_publishes_nothing(process: Process, admin: AdminApplication) -> None:
    response = await request(admin, "POST", "/publish/orders/a", body=None)
    assert (response.status, process.published) == (400, [])


async def test_a_body_that_does_not_come_is_not_waited_for_for_ever(autojump_clock: MockClock) -> None:
    scope = {"raw_path": b"/publish/orders/a", "query_string": b"", "headers": []}
    with pytest.raises(Refusal) as refused:
        await read_publication(scope, trio.sleep_forever)
    assert refused.value.answer.status == 408
    assert trio.current_time() == pytest.approx(BODY_WITHIN)


STRANGERS = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Host": "127.0.0.1:9400"},
    {"Origin": "https://evil.example", "Host": "127.0.0.1:9400"},
    {"Origin": "http://127.0.0.1:3000", "Host": "127.0.0.1:9400"},
    {"Origin": "http://rebound.evil.example:9400", "Host": "rebound.evil.example:9400"},
    {"Origin": "null", "Host": "127.0.0.1:9400"},
    {"Origin": "http://[", "Host": "127.0.0.1:9400"},
    {"Origin": "http://", "Host": ""},
]

FRIENDS: list[dict[str, str]] = [
    {},
    {"Host": "sidecar.production.svc:9400"},
    {"Sec-Fetch-Site": "none", "Host": "127.0.0.1:9400"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:9400", "Host": "127.0.0.1:9400"},
    {"Origin": "http://LocalHost:9400", "Host": "localhost:9400"},
    {"Origin": "http://[::1]:9400", "Host": "[::1]:9400"},
    {"Origin": "http://devbox:9400", "Host": "devbox:9400"},
    {"Origin": "http://demo.localhost", "Host": "demo.localhost"},
]


@pytest.mark.parametrize("headers", STRANGERS)
async def test_a_page_from_elsewhere_can_neither_publish_nor_drain(
    process: Process, admin: AdminApplication, headers: dict[str, str]
) -> None:
    assert (await publish(admin, headers=headers)).status == 403
    for method in ("GET", "POST"):
        assert (await request(admin, method, "/drain", headers=headers)).status == 403
    assert (process.published, process.drains) == ([], 0)


@pytest.mark.parametrize("headers", FRIENDS)
async def test_programs_and_our_own_page_can(
    process: Process, admin: AdminApplication, headers: dict[str, str]
) -> None:
    process.streams_ended.set()
    assert (await publish(admin, headers=headers)).status == 204
    assert (await request(admin, "POST", "/drain", headers=headers)).status == 200


@given(st.text(), st.text())
def test_no_origin_and_no_host_confuse_the_guard(origin: str, host: str) -> None:
    scope = {"headers": [(b"origin", origin.encode()), (b"host", host.encode())]}
    with contextlib.suppress(Refusal):  # and nothing else
        refuse_strangers(scope)
