"""What stands around the pods: who reaches them, what leads to them, what watches them."""

from __future__ import annotations

import json
import re
from typing import Any

import promql_parser
import pytest

from sidecar.observe.metrics import Metrics
from tests.helm.chart import CHART, LEAST, Document, Rendered, merged, render, run, values_file

ADMIN = "sidecar-admin"
# The contract's names: what the chart may read, and what the program may expose.
CONTRACT = {
    *("sidecar_subscribers", "sidecar_backlog_bytes", "sidecar_broker_connected", "sidecar_delivery_seconds"),
    *("sidecar_messages_received_total", "sidecar_events_sent_total", "sidecar_events_dropped_total"),
    *("sidecar_streams_closed_total", "sidecar_replayed_events_total", "sidecar_resets_total"),
    *("sidecar_broker_reconnects_total", "sidecar_config_reloads_total", "sidecar_upstream_requests_total"),
}


@pytest.fixture(scope="module")
def everything() -> Rendered:
    return render(values_file("everything"))


def chosen(selector: Document, labels: Document) -> bool:
    return selector.items() <= labels.items()


# the ways in


def test_the_service_leads_to_the_listeners_and_never_to_admin(everything: Rendered) -> None:
    service = everything.one("Service", "event-streams")["spec"]
    assert [(port["port"], port["targetPort"]) for port in service["ports"]] == [(80, "events"), (443, "events-tls")]
    labels = everything.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert chosen(service["selector"], labels)


def test_the_tests_pod_is_behind_no_service(everything: Rendered) -> None:
    labels = everything.one("Pod")["metadata"]["labels"]
    selectors = [service["spec"]["selector"] for service in everything.all("Service")]
    selectors += [everything.one("Deployment")["spec"]["selector"]["matchLabels"]]
    assert [chosen(selector, labels) for selector in selectors] == [False, False, False]


def test_a_route_of_the_gateway_has_no_time_limit(everything: Rendered) -> None:
    route = everything.one("HTTPRoute")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert set(route["spec"]) <= {"parentRefs", "hostnames", "rules"}
    (rule,) = route["spec"]["rules"]
    assert rule == {
        "matches": [{"path": {"type": "PathPrefix", "value": path}} for path in ("/events", "/more")],
        "timeouts": {"request": "0s"},
        "backendRefs": [{"name": "event-streams", "port": 80}],
    }


def test_an_ingress_leads_to_the_same_port(everything: Rendered) -> None:
    (rule,) = everything.one("Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"] == {"service": {"name": "event-streams", "port": {"name": "events"}}}
    assert path["path"] == "/events"


def test_with_tls_alone_what_is_in_front_takes_the_tls_port() -> None:
    listen = [{"bind": "[::]:8443", "tls": {"certificate": "/tls/tls.crt", "key": "/tls/tls.key"}}]
    around = {"config": {"listen": listen}, "httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}
    rendered = render(merged(LEAST, around))
    assert rendered.one("HTTPRoute")["spec"]["rules"][0]["backendRefs"][0]["port"] == 443
    assert [port["port"] for port in rendered.one("Service")["spec"]["ports"]] == [443]


# the walls


def ports_of(rule: Document) -> list[int]:
    return [port["port"] for port in rule["ports"]]


def test_nobody_but_the_kubelet_reaches_admin_by_default() -> None:
    policy = render(LEAST).one("NetworkPolicy")["spec"]
    assert [ports_of(rule) for rule in policy["ingress"]] == [[8080]]
    assert policy["policyTypes"] == ["Ingress"]


def test_walls_open_for_whom_they_are_told_to(everything: Rendered) -> None:
    policy = everything.one("NetworkPolicy")["spec"]
    streams, admin = policy["ingress"]
    assert (ports_of(streams), ports_of(admin)) == ([8080, 8443], [9500])
    assert admin["from"] == values_file("everything")["networkPolicy"]["adminFrom"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    tests_pod = everything.one("Pod")["metadata"]["labels"]
    assert [
        peer for peer in streams["from"] if chosen(peer.get("podSelector", {}).get("matchLabels", {"": 1}), tests_pod)
    ]


def test_the_applications_own_port_stays_open() -> None:
    (rule,) = render(values_file("application")).one("NetworkPolicy")["spec"]["ingress"]
    assert ports_of(rule) == [8080, 3000]


# how many


def test_streams_and_cpu_decide_how_many_pods(everything: Rendered) -> None:
    spec = everything.one("HorizontalPodAutoscaler")["spec"]
    cpu, streams = spec["metrics"]
    assert cpu["containerResource"]["container"] == "sidecar"
    assert streams["pods"]["metric"] == {"name": "sidecar_subscribers"}
    assert streams["pods"]["target"]["averageValue"] == "2000000"
    assert spec["scaleTargetRef"]["name"] == everything.one("Deployment")["metadata"]["name"]
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300


def test_a_node_can_always_be_drained(everything: Rendered) -> None:
    budget = everything.one("PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == ("25%", "AlwaysAllow")
    assert "minAvailable" not in budget


# who watches


def test_prometheus_finds_the_admin_listener(everything: Rendered) -> None:
    monitor = everything.one("ServiceMonitor")
    service = everything.one("Service", "event-streams-metrics")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert chosen(monitor["spec"]["selector"]["matchLabels"], service["metadata"]["labels"])
    assert not chosen(
        monitor["spec"]["selector"]["matchLabels"], everything.one("Service", "event-streams")["metadata"]["labels"]
    )
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (ADMIN, "/metrics")
    assert [port["name"] for port in service["spec"]["ports"]] == [ADMIN]
    assert service["spec"]["clusterIP"] == "None"


def metrics_in(expression: str) -> set[str]:
    """The metrics that a PromQL expression reads; raises where Prometheus would not parse it."""
    promql_parser.parse(expression)
    return {re.sub("_bucket$", "", name) for name in re.findall(r"\bsidecar_\w+", expression)}


def test_the_program_exposes_nothing_under_another_name() -> None:
    suffix = {"counter": "_total"}
    exposed = {family.name + suffix.get(family.type, "") for family in Metrics().collect()}
    assert exposed
    assert exposed <= CONTRACT | {"sidecar_worker_restarts_total"}  # beyond the contract: `workers` is


def test_alerts_read_metrics_that_there_are(everything: Rendered) -> None:
    (group,) = everything.one("PrometheusRule")["spec"]["groups"]
    rules = {rule["alert"]: rule for rule in group["rules"]}
    assert {"SidecarBrokerAway", "SidecarGone", "SidecarConfigRejected", "ManyStreams"} <= set(rules)
    for name, rule in rules.items():
        assert metrics_in(rule["expr"]) <= CONTRACT, name
        assert "SAMPLES" not in rule["expr"]
    own = [rule for name, rule in rules.items() if name != "ManyStreams"]
    assert all('namespace="streams",job="event-streams-metrics"' in rule["expr"] for rule in own)
    assert all({"summary", "description"} == set(rule["annotations"]) for rule in own)


def test_alerts_can_read_the_samples_of_another_job() -> None:
    rule = {"enabled": True, "selector": 'job="shop"'}
    (group,) = render(merged(LEAST, {"prometheusRule": rule})).one("PrometheusRule")["spec"]["groups"]
    assert group["rules"][0]["expr"] == 'absent(sidecar_broker_connected{job="shop"})'


def test_alerts_quote_prometheus_own_placeholders(everything: Rendered) -> None:
    (group,) = everything.one("PrometheusRule")["spec"]["groups"]
    away = next(rule for rule in group["rules"] if rule["alert"] == "SidecarBrokerAway")
    assert away["annotations"]["summary"].startswith("{{ $labels.pod }} ")


def panels(dashboard: Any) -> list[tuple[str, str]]:
    return [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel["targets"]]


def test_the_dashboard_shows_every_metric_of_the_contract(everything: Rendered) -> None:
    found = everything.one("ConfigMap", "event-streams-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    shown: set[str] = set()
    for title, expression in panels(json.loads(found["data"]["sidecar.json"])):
        metrics = metrics_in(expression.replace("$__rate_interval", "5m"))
        assert metrics, title
        shown |= metrics
    assert shown == CONTRACT


def test_notes_tell_where_the_streams_are() -> None:
    place = ("install", "events", CHART, "--dry-run=client", "--namespace", "streams")
    code, printed, complaint = run(*place, values=values_file("alone"))
    assert code == 0, complaint
    notes = printed.partition("NOTES:")[2]
    assert "/events/orders/{order}" in notes
    assert "kubectl -n streams port-forward service/events-sidecar 8080:80" in notes
    assert "networkPolicy is off" not in notes
