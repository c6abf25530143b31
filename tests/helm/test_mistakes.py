"""Values that cannot work are refused before anything is installed, all at once, each with the way out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.helm.chart import CHART, LEAST, VERSIONS, Document, merged, refusal, render, run

ROUTE = {"path": "/events", "exchange": "news"}
BESIDE = {"standalone": False}
SHOP = {"application": {"containers": [{"name": "shop", "image": "shop:1"}]}}


def config(**keys: Any) -> Document:
    return {"config": keys}


def signed(secret: str) -> Document:
    return {"jwt": {"keys": {"secret": secret}, "algorithms": ["HS256"]}}


# what the schema sees


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("values", "place", "name"),
    [
        pytest.param({"replica": 3}, "", "replica", id="at-the-top"),
        pytest.param({"image": {"repo": "x"}}, "image", "repo", id="in-a-group"),
        pytest.param({"probes": {"liveness": {"delay": 1}}}, "probes", "delay", id="in-a-probe"),
        pytest.param(
            {"secretEnv": {"A": {"name": "a", "key": "b", "value": "c"}}}, "secretEnv", "value", id="in-a-map"
        ),
        pytest.param({"ingress": {"hosts": [{"host": "a", "port": 1}]}}, "ingress", "port", id="in-a-list"),
        pytest.param(config(upstreams={}), "config", "upstreams", id="in-the-configuration"),
        pytest.param(config(routes=[ROUTE | {"exchnge": "x"}]), "config", "exchnge", id="in-a-route"),
    ],
)
def test_an_unknown_key_is_refused(values: Document, place: str, name: str, version: str) -> None:
    complaint = refusal(merged(LEAST, values), version=version)
    assert place in complaint
    assert name in complaint


def test_global_values_of_a_parent_chart_are_let_through() -> None:
    assert render(merged(LEAST, {"global": {"registry": "x"}})).pod


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_the_schema_finds_is_told_at_once(version: str) -> None:
    wrong = {
        "replicas": "two",
        "image": {"pullPolicy": "Sometimes", "digest": "sha1:abc"},
        "service": {"port": 0},
        "config": {"routes": [{"path": "/events", "exchange": "news", "heartbeat": "often"}], "drain": {"in": "5s"}},
    }
    complaint = refusal(merged(LEAST, wrong), version=version).replace(".", "/")
    for place in ("replicas", "image/pullPolicy", "image/digest", "service/port", "heartbeat", "config/drain"):
        assert place in complaint, place


def test_the_configurations_schema_is_the_programs() -> None:
    complaint = refusal(merged(LEAST, config(routes=[ROUTE | {"backlog": {"when_full": "explode"}}])))
    assert "/config/routes/0/backlog/when_full" in complaint
    assert "drop_oldest" in complaint


def test_the_schema_refuses_unknown_keys_wherever_keys_are_known() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    for name, definition in schema["definitions"].items():
        if "properties" in definition:
            assert definition["additionalProperties"] is False, name


# what takes two values to see

MISTAKES: dict[str, tuple[Document, str, str]] = {
    "no-routes": (config(routes=[]), "config.routes is empty", "config.example.yaml"),
    "admin-on-loopback": (config(admin={"bind": "127.0.0.1:9400"}), "127.0.0.1:9400", "0.0.0.0"),
    "admin-on-loopback-6": (config(admin={"bind": "[::1]:9400"}), "[::1]:9400", "[::]"),
    "admin-on-a-socket": (config(admin={"bind": "unix:/run/admin"}), "has no port", "0.0.0.0:9400"),
    "only-unix-sockets": (config(listen=[{"bind": "unix:/run/a"}]), "config.listen has no listener", "port"),
    "no-such-variable": (config(broker={"url": "${RABBIT}"}), "${RABBIT}", "secretEnv.RABBIT"),
    "no-such-file": (config(broker={"url": "${file:/run/secrets/mq/url}"}), "/run/secrets/mq", "secretFiles.mq"),
    "password-in-clear": (config(broker={"url": "amqp://me:word@mq/"}), "in clear", "secretEnv.AMQP_URL"),
    "password-in-a-list": (config(broker={"url": ["${AMQP_URL}", "amqps://me:word@mq/"]}), "in clear", "Secret"),
    "key-in-clear": (config(routes=[ROUTE | {"access": signed("s3cret")}]), "/events stands in clear", "secretFiles"),
    "key-in-clear-for-all": (config(defaults={"access": signed("s3cret")}), "defaults stands in clear", "secretFiles"),
    "drain-unknown": (config(drain={"within": "${AMQP_URL}"}), "config.drain.within", "terminationGracePeriodSeconds"),
    "grace-too-short": ({"terminationGracePeriodSeconds": 20}, "20 s", "it is 30"),
    "pods-with-brokers-of-their-own": (config(broker={"url": "memory://"}), "memory://", "replicas: 1"),
    "no-target": ({"autoscaling": {"enabled": True, "cpu": None}}, "without a target", "autoscaling.subscribers"),
    "fewest-above-most": ({"autoscaling": {"minReplicas": 11}}, "minReplicas", "maxReplicas"),
    "no-gateway": ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs", "Gateway"),
    "no-host": ({"ingress": {"enabled": True}}, "ingress.hosts", "host"),
    "test-without-exchange": ({"test": {"path": "/events"}}, "test.exchange", "publishes"),
    "ingress-beside": (
        BESIDE | {"ingress": {"enabled": True, "hosts": [{"host": "a"}]}},
        "ingress.enabled",
        "other chart",
    ),
    "containers-beside": (BESIDE | SHOP, "application.containers does nothing", "other chart"),
    "monitor-of-nothing": (BESIDE | {"serviceMonitor": {"enabled": True}}, "podSelector", "labels"),
    "selector-of-itself": ({"podSelector": {"app": "shop"}}, "podSelector does nothing", "its own pods"),
}


@pytest.mark.parametrize(("values", "fact", "way_out"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_told_with_its_way_out(values: Document, fact: str, way_out: str) -> None:
    complaint = refusal(merged(LEAST, values))
    (line,) = [line for line in complaint.splitlines() if line.startswith("- ")]
    assert fact in line
    assert way_out in line


def test_mistakes_between_values_are_told_at_once() -> None:
    wrong = merged(*(MISTAKES[name][0] for name in ("no-routes", "admin-on-loopback", "grace-too-short", "no-gateway")))
    complaint = refusal(wrong)
    assert complaint.count("\n- ") == 5, complaint  # and AMQP_URL, which nothing gives


def test_the_chart_says_what_it_needs() -> None:
    complaint = refusal({})
    assert "config.routes" in complaint
    assert "secretEnv.AMQP_URL" in complaint


def test_a_native_sidecar_needs_a_cluster_that_knows_it() -> None:
    complaint = refusal(merged(LEAST, SHOP), kubernetes="1.28")
    assert "nativeSidecar needs Kubernetes 1.29 and this is v1.28" in complaint
    assert render(LEAST, kubernetes="1.28").pod


@pytest.mark.parametrize(
    "values",
    [
        config(broker={"url": "${RABBIT:-amqp://guest@mq/}"}),
        config(routes=[ROUTE | {"event": "$${PRICE}"}]),
        config(broker={"url": "memory://"}) | {"replicas": 1},
        config(broker={"url": "amqp://guest:${AMQP_URL}@mq/"}),
        config(broker={"url": "${file:/run/secrets/mq/url}"}) | {"secretFiles": {"mq": "rabbitmq"}},
        config(routes=[ROUTE | {"access": signed("${file:/run/secrets/keys/k}")}]) | {"secretFiles": {"keys": "k"}},
        config(broker={"url": "${RABBIT}"}) | {"env": [{"name": "RABBIT", "value": "amqp://mq/"}]},
    ],
    ids=["default", "dollar", "one-pod", "password-by-reference", "mounted", "mounted-key", "plain-variable"],
)
def test_what_leads_somewhere_is_no_mistake(values: Document) -> None:
    assert render(merged(LEAST, values)).pod


def test_a_cluster_that_is_too_old_is_refused() -> None:
    code, _, complaint = run("template", "events", CHART, "--kube-version", "1.26", values=LEAST)
    assert code != 0
    assert "kubeVersion" in complaint
