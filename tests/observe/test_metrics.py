"""The exposition is read back by prometheus-client's own parsers; the counts are the ones that were put in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import REGISTRY

from sidecar.observe.metrics import DELIVERY_BUCKETS, Metrics
from sidecar.observe.reasons import CloseReason, DropReason, Reason, ResetReason

ORDERS = "/events/orders/{order}"

# The contract, section 5, as far as the features exist.
CONTRACT = {
    "sidecar_subscribers": {"route"},
    "sidecar_messages_received_total": {"route"},
    "sidecar_events_sent_total": {"route"},
    "sidecar_replayed_events_total": {"route"},
    "sidecar_events_dropped_total": {"route", "reason"},
    "sidecar_streams_closed_total": {"route", "reason"},
    "sidecar_resets_total": {"route", "reason"},
    "sidecar_delivery_seconds_bucket": {"route", "le"},
    "sidecar_delivery_seconds_sum": {"route"},
    "sidecar_delivery_seconds_count": {"route"},
    "sidecar_backlog_bytes": set(),
    "sidecar_broker_connected": set(),
    "sidecar_broker_reconnects_total": set(),
    "sidecar_config_reloads_total": {"result"},
    "sidecar_worker_restarts_total": set(),
}


def samples(metrics: Metrics) -> Iterator[tuple[str, dict[str, str], float]]:
    text, _ = metrics.render()
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def value(metrics: Metrics, name: str, **labels: str) -> float:
    [found] = [number for other, those, number in samples(metrics) if other == name and those == labels]
    return found


def test_the_names_and_labels_are_those_of_the_contract() -> None:
    metrics = Metrics()
    metrics.route(ORDERS)
    ours = {name: set(labels) for name, labels, _ in samples(metrics) if name.startswith("sidecar_")}
    assert ours == CONTRACT


def test_what_is_added_to_a_route_is_what_prometheus_reads() -> None:
    metrics = Metrics()
    route = metrics.route(ORDERS)
    route.subscribers += 2
    route.received += 7
    route.sent += 14
    route.dropped(DropReason.SLOW, 3)
    route.closed(CloseReason.CLIENT_LEFT)
    route.closed(CloseReason.CLIENT_LEFT)
    route.reset(ResetReason.BROKER_RECONNECTED)
    assert value(metrics, "sidecar_subscribers", route=ORDERS) == 2
    assert value(metrics, "sidecar_messages_received_total", route=ORDERS) == 7
    assert value(metrics, "sidecar_events_sent_total", route=ORDERS) == 14
    assert value(metrics, "sidecar_events_dropped_total", route=ORDERS, reason="slow") == 3
    assert value(metrics, "sidecar_streams_closed_total", route=ORDERS, reason="client_left") == 2
    assert value(metrics, "sidecar_resets_total", route=ORDERS, reason="broker_reconnected") == 1


def told() -> dict[str, Any]:
    """What another worker has counted, as it comes over a socket."""
    worker = Metrics(broker_connected=lambda: True)
    route = worker.route(ORDERS)
    route.subscribers, route.received, route.sent, route.backlog_bytes = 3, 5, 15, 100
    route.dropped(DropReason.SLOW, 2)
    route.closed(CloseReason.EXPIRED)
    route.observe_delivery(0.3, 5)
    worker.route("/only/there").sent = 1
    worker.upstream_request(502)
    worker.broker_reconnects = 1
    counts: dict[str, Any] = json.loads(json.dumps(worker.counts()))
    return counts


def test_the_counts_of_several_workers_are_one_sum() -> None:
    metrics = Metrics(broker_connected=lambda: True)
    metrics.route(ORDERS).sent = 7
    metrics.route(ORDERS).observe_delivery(0.3)
    metrics.upstream_request(200)
    metrics.config_reloads["ok"] = 4
    metrics.others = lambda: [told(), told()]
    assert value(metrics, "sidecar_events_sent_total", route=ORDERS) == 37
    assert value(metrics, "sidecar_subscribers", route=ORDERS) == 6
    assert value(metrics, "sidecar_backlog_bytes") == 200
    assert value(metrics, "sidecar_events_dropped_total", route=ORDERS, reason="slow") == 4
    assert value(metrics, "sidecar_streams_closed_total", route=ORDERS, reason="expired") == 2
    assert value(metrics, "sidecar_delivery_seconds_bucket", route=ORDERS, le="0.5") == 11
    assert value(metrics, "sidecar_delivery_seconds_sum", route=ORDERS) == pytest.approx(3.3)
    assert value(metrics, "sidecar_events_sent_total", route="/only/there") == 2
    assert value(metrics, "sidecar_upstream_requests_total", code="502") == 2
    assert value(metrics, "sidecar_upstream_requests_total", code="200") == 1
    assert value(metrics, "sidecar_broker_reconnects_total") == 2
    assert value(metrics, "sidecar_config_reloads_total", result="ok") == 4
    assert metrics.route(ORDERS).sent == 7


def test_messages_flow_where_they_flow_in_every_worker() -> None:
    metrics = Metrics(broker_connected=lambda: True)
    metrics.others = lambda: [told()]
    assert value(metrics, "sidecar_broker_connected") == 1
    metrics.others = lambda: [told(), {**told(), "broker_connected": False}]
    assert value(metrics, "sidecar_broker_connected") == 0


def test_of_a_worker_that_has_ended_only_what_never_goes_down_is_kept() -> None:
    metrics = Metrics()
    metrics.add(told(), gauges=False)
    assert value(metrics, "sidecar_events_sent_total", route=ORDERS) == 15
    assert value(metrics, "sidecar_subscribers", route=ORDERS) == 0
    assert value(metrics, "sidecar_backlog_bytes") == 0


def test_every_reason_has_its_series_before_it_has_happened() -> None:
    metrics = Metrics()
    metrics.route(ORDERS)
    closed = {labels["reason"]: number for name, labels, number in samples(metrics) if "streams_closed" in name}
    assert closed == dict.fromkeys(
        ("client_left", "slow", "expired", "drained", "route_gone", "limit", "broker_refused"), 0.0
    )


def test_routes_are_apart_and_keep_their_counts() -> None:
    metrics = Metrics()
    metrics.route("/a").sent += 1
    metrics.route("/b").sent += 10
    metrics.route("/a").sent += 1
    assert value(metrics, "sidecar_events_sent_total", route="/a") == 2
    assert value(metrics, "sidecar_events_sent_total", route="/b") == 10
    assert [route.path for route in metrics.routes] == ["/a", "/b"]


def test_the_backlog_is_that_of_all_routes() -> None:
    metrics = Metrics()
    metrics.route("/a").backlog_bytes += 100
    metrics.route("/b").backlog_bytes += 50
    metrics.route("/a").backlog_bytes -= 20
    assert value(metrics, "sidecar_backlog_bytes") == 130


def test_gauges_are_measured_at_the_scrape() -> None:
    metrics = Metrics()
    route = metrics.route(ORDERS)

    def measure() -> None:
        route.backlog_bytes = 4096

    metrics.measure = measure
    assert value(metrics, "sidecar_backlog_bytes") == 4096


def test_the_broker_is_asked_at_the_scrape() -> None:
    up = False
    metrics = Metrics(broker_connected=lambda: up)
    assert value(metrics, "sidecar_broker_connected") == 0
    up = True
    metrics.broker_reconnects += 1
    assert value(metrics, "sidecar_broker_connected") == 1
    assert value(metrics, "sidecar_broker_reconnects_total") == 1


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(1, 1000)), max_size=30))
def test_the_histogram_counts_as_prometheus_defines_it(observed: list[tuple[float, int]]) -> None:
    metrics = Metrics()
    route = metrics.route(ORDERS)
    for seconds, count in observed:
        route.observe_delivery(seconds, count)
    buckets = {
        float(labels["le"]): number for name, labels, number in samples(metrics) if name.endswith("seconds_bucket")
    }
    assert sorted(buckets) == [*DELIVERY_BUCKETS, float("inf")]
    for bound, number in buckets.items():
        assert number == sum(count for seconds, count in observed if seconds <= bound)
    assert value(metrics, "sidecar_delivery_seconds_count", route=ORDERS) == sum(count for _, count in observed)
    total = sum(seconds * count for seconds, count in observed)
    assert value(metrics, "sidecar_delivery_seconds_sum", route=ORDERS) == pytest.approx(total)


def test_buckets_reach_from_a_tenth_of_a_millisecond_to_ten_seconds() -> None:
    assert DELIVERY_BUCKETS[0] == 0.0001
    assert DELIVERY_BUCKETS[-1] == 10
    assert list(DELIVERY_BUCKETS) == sorted(set(DELIVERY_BUCKETS))


def test_prometheus_gets_openmetrics_when_it_asks_for_it() -> None:
    metrics = Metrics()
    metrics.route(ORDERS).sent += 5
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    text, content_type = metrics.render(accept)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics.text_string_to_metric_families(text.decode())}
    [sample] = families["sidecar_events_sent"].samples
    assert (sample.labels, sample.value) == ({"route": ORDERS}, 5)


def test_anybody_else_gets_text() -> None:
    for accept in ("", "*/*", "text/html"):
        _, content_type = Metrics().render(accept)
        assert content_type == "text/plain; version=0.0.4; charset=utf-8"


def test_the_process_is_measured_too() -> None:
    assert value(Metrics(), "process_resident_memory_bytes") > 1e6
    assert any(name == "python_info" for name, _, _ in samples(Metrics()))


def test_the_global_registry_stays_out_of_it() -> None:
    before = len(list(REGISTRY.collect()))
    one, other = Metrics(), Metrics()
    one.route("/a").sent += 1
    assert "/a" not in {labels.get("route") for _, labels, _ in samples(other)}
    assert len(list(REGISTRY.collect())) == before


@pytest.mark.parametrize("reasons", [CloseReason, ResetReason, DropReason])
def test_a_reason_is_its_word_and_carries_one_line_of_meaning(reasons: type[Reason]) -> None:
    for reason in reasons:
        assert f"{reason}" == reason == reason.value
        assert reason.meaning.endswith(".")
        assert "\n" not in reason.meaning


def test_a_route_shows_itself_in_a_debugger() -> None:
    route = Metrics().route(ORDERS)
    route.sent += 2
    assert repr(route) == "<RouteMetrics /events/orders/{order} subscribers=0 received=0 sent=2>"
