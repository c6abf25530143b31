"""The operators' listener, driven directly; the process behind it is a stand-in that tells what it was asked."""

from __future__ import annotations

import pytest
import trio
from prometheus_client.openmetrics import parser as openmetrics
from trio.testing import MockClock

from sidecar.amqp import Properties
from sidecar.broker.port import BrokerAway, BrokerRefused
from sidecar.http.admin import PUBLISH_WITHIN, AdminApplication
from sidecar.observe.metrics import DELIVERY_BUCKETS
from sidecar.observe.reasons import CloseReason, DropReason
from tests.http.asgi import Process, publish, request


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def admin(process: Process) -> AdminApplication:
    return AdminApplication(process, may_publish=True)


async def test_livez_fails_only_when_the_process_cannot_recover(process: Process, admin: AdminApplication) -> None:
    process.problem = "the broker is away"
    assert (await request(admin, "GET", "/livez")).status == 200
    process.is_alive = False
    assert (await request(admin, "GET", "/livez")).status == 503


async def test_readyz_says_why_not(process: Process, admin: AdminApplication) -> None:
    assert (await request(admin, "GET", "/readyz")).status == 200
    process.problem = "the broker is away: connection refused"
    response = await request(admin, "GET", "/readyz")
    assert (response.status, response.text) == (503, "not ready: the broker is away: connection refused\n")


async def test_metrics_are_negotiated(process: Process, admin: AdminApplication) -> None:
    process.metrics.route("/a").sent += 3
    response = await request(admin, "GET", "/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'sidecar_events_sent_total{route="/a"} 3.0\n' in response.text
    response = await request(admin, "GET", "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert "sidecar_events_sent" in {
        family.name for family in openmetrics.text_string_to_metric_families(response.text)
    }


async def test_routes_tells_each_route_and_its_counts(process: Process, admin: AdminApplication) -> None:
    counts = process.metrics.route("/events/orders/{order}")
    counts.subscribers, counts.received, counts.sent, counts.backlog_bytes = 3, 5, 15, 1024
    counts.dropped(DropReason.SLOW, 2)
    counts.closed(CloseReason.CLIENT_LEFT)
    response = await request(admin, "GET", "/routes")
    assert response.headers["content-type"] == "application/json"
    [route] = response.json()["routes"]
    assert route["closed"].pop("client_left") == 1
    assert set(route.pop("closed").values()) == {0}
    assert set(route.pop("resets").values()) == {0}
    assert route.pop("dropped")["slow"] == 2
    assert route == {
        "path": "/events/orders/{order}",
        "source": {"exchange": "orders"},
        "binding_keys": ["order.{order}.*"],
        "parameters": [],
        "replay": None,
        "access": [],
        "subscribers": 3,
        "subscriptions": 2,
        "received": 5,
        "sent": 15,
        "replayed": 0,
        "delivery": [0] * (len(DELIVERY_BUCKETS) + 1),
        "backlog_bytes": 1024,
    }


async def test_the_index_lists_what_there_is(process: Process, admin: AdminApplication) -> None:
    index = (await request(admin, "GET", "/", headers={"Accept": "text/plain"})).text
    for path in ("/livez", "/readyz", "/metrics", "/routes", "/drain", "/publish/{exchange}/{routing_key}"):
        assert path in index
    quiet = AdminApplication(process, may_publish=False)
    assert "/publish" not in (await request(quiet, "GET", "/", headers={"Accept": "text/plain"})).text


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/metrics", "/routes"])
async def test_head_is_get_without_the_body(admin: AdminApplication, path: str) -> None:
    get, head = await request(admin, "GET", path), await request(admin, "HEAD", path)
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert get.headers["content-length"] == str(len(get.body))


@pytest.mark.parametrize("target", ["/", "/livez", "/metrics", "/nowhere", "/publish/orders", "/publish/orders/a"])
async def test_nothing_is_cached_or_sniffed(admin: AdminApplication, target: str) -> None:
    headers = (await request(admin, "GET", target)).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("target", ["/nowhere", "/livez/", "/metricsx", "/publish"])
async def test_other_paths_are_404(admin: AdminApplication, target: str) -> None:
    response = await request(admin, "GET", target)
    assert (response.status, "GET / lists" in response.text) == (404, True)


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("POST", "/livez", "GET, HEAD"),
        ("DELETE", "/", "GET, HEAD"),
        ("OPTIONS", "/routes", "GET, HEAD"),
        ("GET", "/publish/orders/a", "POST"),
        ("HEAD", "/drain", "GET, POST"),
        ("PUT", "/drain", "GET, POST"),
    ],
)
async def test_other_methods_are_405_and_hear_which_are_allowed(
    process: Process, admin: AdminApplication, method: str, target: str, allow: str
) -> None:
    response = await request(admin, method, target)
    assert (response.status, response.headers["allow"]) == (405, allow)
    assert (process.drains, process.published) == (0, [])


async def test_a_published_message_is_the_body_and_what_the_request_says(
    process: Process, admin: AdminApplication
) -> None:
    response = await publish(
        admin,
        "/publish/orders/order.1.paid?type=paid&message_id=m-1&header.tenant=a%20b&header.x.y=&header.n=%C3%A9",
        headers={"Content-Type": "application/json"},
        body=[b'{"a":', b"1}"],
    )
    assert (response.status, response.body) == (204, b"")
    assert "content-type" not in response.headers
    properties = Properties(
        content_type="application/json",
        type="paid",
        message_id="m-1",
        headers={"tenant": "a b", "x.y": "", "n": "é"},
    )
    assert process.published == [("orders", "order.1.paid", b'{"a":1}', properties)]


async def test_an_empty_body_without_a_word_about_it_is_a_message_too(
    process: Process, admin: AdminApplication
) -> None:
    assert (await publish(admin)).status == 204
    assert process.published == [("orders", "order.1.paid", b"", Properties())]


async def test_publishing_is_off_unless_it_was_turned_on(process: Process) -> None:
    response = await publish(AdminApplication(process, may_publish=False))
    assert response.status == 403
    assert "admin.publish: true" in response.text
    assert process.published == []


async def test_a_broker_that_refuses_is_409_and_one_that_is_away_503(process: Process, admin: AdminApplication) -> None:
    process.error = BrokerRefused("no exchange 'orders' in vhost '/'")
    refused = await publish(admin)
    assert (refused.status, refused.text) == (409, "the broker refused: no exchange 'orders' in vhost '/'\n")
    process.error = BrokerAway("connection refused")
    away = await publish(admin)
    assert (away.status, away.text) == (503, "the broker is away: connection refused\n")
    assert int(away.headers["retry-after"]) > 0


async def test_a_broker_that_never_confirms_is_503(
    process: Process, admin: AdminApplication, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(process, "publish", silent)
    began = trio.current_time()
    response = await publish(admin)
    assert (response.status, trio.current_time() - began) == (503, pytest.approx(PUBLISH_WITHIN))


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_drain_answers_when_the_last_stream_has_ended(
    process: Process, admin: AdminApplication, method: str
) -> None:
    answered = trio.Event()

    async def drain() -> None:
        response = await request(admin, method, "/drain")
        assert (response.status, response.text) == (200, "drained\n")
        answered.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await trio.testing.wait_all_tasks_blocked()
        assert process.drains == 1
        assert not answered.is_set()
        process.streams_ended.set()
    assert answered.is_set()


async def test_the_lifespan_is_acknowledged(admin: AdminApplication) -> None:
    incoming = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        return incoming.pop(0)

    async def send(message: dict[str, str]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message["type"])

    await admin({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_websocket_is_refused(admin: AdminApplication) -> None:
    sent: list[str] = []

    async def send(message: dict[str, str]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message["type"])

    await admin({"type": "websocket", "raw_path": b"/", "headers": []}, trio.sleep_forever, send)
    assert sent == ["websocket.close"]
