"""The facts that a pod's life depends on: how it starts, is probed, is drained, and what it may do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config import load
from tests.helm.chart import LEAST, VALUES, Document, merged, render, values_file
from tests.lab.certificates import Certificates

ADMIN = "sidecar-admin"
BESIDE = {"application": {"containers": [{"name": "shop", "image": "shop:1"}]}}


def with_config(**config: Any) -> Document:
    return merged(LEAST, {"config": config})


# what the Deployment runs


def test_alone_the_sidecar_is_the_only_container() -> None:
    pod = render(LEAST).pod
    assert [container["name"] for container in pod["containers"]] == ["sidecar"]
    assert "initContainers" not in pod
    assert "restartPolicy" not in pod["containers"][0]
    assert pod["containers"][0]["args"] == ["run", "-c", "/etc/sidecar/config.yaml"]


def test_beside_an_application_it_is_a_native_sidecar() -> None:
    pod = render(values_file("application")).pod
    assert [(each["name"], each["restartPolicy"]) for each in pod["initContainers"]] == [("sidecar", "Always")]
    assert [container["name"] for container in pod["containers"]] == ["shop"]
    assert {"name": "cache", "emptyDir": {"sizeLimit": "100Mi"}} in pod["volumes"]


def test_before_native_sidecars_it_is_a_plain_container() -> None:
    pod = render(values_file("plain"), kubernetes="1.28").pod
    assert [container["name"] for container in pod["containers"]] == ["sidecar", "shop"]
    assert "initContainers" not in pod
    assert "restartPolicy" not in pod["containers"][0]


def test_an_image_is_named_by_tag_and_digest() -> None:
    image = render(values_file("everything")).sidecar["image"]
    name, _, digest = image.partition("@")
    assert (name, digest[:10]) == ("registry.example.com/sse-sidecar:0.1.0", "sha256:012")


# its configuration


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_the_program_reads_the_rendered_configuration(path: Path, tmp_path: Path, certificates: Certificates) -> None:
    config = render(yaml.safe_load(path.read_text())).config
    hmac = tmp_path / "hmac"
    hmac.write_text("k" * 64)
    mounted = {"keys/hmac": hmac, "tls/tls.crt": certificates.certificate, "tls/tls.key": certificates.key}
    text = yaml.safe_dump(config)
    for name, real in mounted.items():
        text = text.replace(f"/run/secrets/{name}", str(real))
    file = tmp_path / "config.yaml"
    file.write_text(text)
    loaded = load(file, {"AMQP_URL": "amqp://user:word@rabbit:5672/"})
    assert [route["path"] for route in config["routes"]] == [str(route.path) for route in loaded.routes]


def test_configuration_arrives_as_it_was_written() -> None:
    tricky = [
        "on",
        "1:30",
        "0777",
        "1e3",
        "null",
        "{order}",
        "it's",
        "a: b",
        "# no comment",
        "ü",
        " x ",
        "${A:-b}",
        "$$",
    ]
    route = {"path": "/events", "exchange": "news", "binding_key": tricky, "backlog": {"bytes": 123456789}}
    assert render(with_config(routes=[route])).config["routes"] == [route]


def test_the_configuration_is_a_directory_that_follows_its_configmap() -> None:
    rendered = render(LEAST)
    mount = next(mount for mount in rendered.sidecar["volumeMounts"] if mount["mountPath"] == "/etc/sidecar")
    volume = next(volume for volume in rendered.pod["volumes"] if volume["name"] == mount["name"])
    assert "subPath" not in mount
    assert volume["configMap"] == {"name": rendered.one("ConfigMap")["metadata"]["name"]}


def test_a_changed_route_restarts_no_pod() -> None:
    other = with_config(routes=[{"path": "/other", "exchange": "news"}])
    assert render(other).one("Deployment") == render(LEAST).one("Deployment")


def test_secrets_are_references_and_never_in_a_configmap() -> None:
    rendered = render(values_file("everything"))
    secret = {"name": "AMQP_URL", "valueFrom": {"secretKeyRef": {"name": "rabbitmq", "key": "url"}}}
    assert secret in rendered.sidecar["env"]
    volume = next(volume for volume in rendered.pod["volumes"] if volume["name"] == "sidecar-secret-tls")
    assert volume["secret"] == {"secretName": "event-streams-tls", "defaultMode": 0o444}
    assert rendered.all("Secret") == []
    assert rendered.config["broker"] == {"url": "${AMQP_URL}"}


def test_environment_keeps_helms_surprises_out() -> None:
    pod = render(values_file("everything")).pod
    assert pod["enableServiceLinks"] is False
    assert [entry["name"] for entry in render(values_file("everything")).sidecar["env"]] == ["AMQP_URL", "TZ"]


# probes and the end


@pytest.mark.parametrize(
    ("values", "startup", "readiness"),
    [
        pytest.param({}, "/readyz", "/livez", id="alone"),
        pytest.param(BESIDE, "/livez", "/livez", id="beside-an-application"),
        pytest.param({"readyWithoutBroker": False}, "/livez", "/readyz", id="unready-without-broker"),
    ],
)
def test_probes_ask_the_admin_listener(values: Document, startup: str, readiness: str) -> None:
    container = render(merged(LEAST, values)).sidecar
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert probes == {
        "startup": {"path": startup, "port": ADMIN},
        "liveness": {"path": "/livez", "port": ADMIN},
        "readiness": {"path": readiness, "port": ADMIN},
    }


def test_admin_is_bound_where_the_kubelet_reaches_it() -> None:
    rendered = render(values_file("everything"))
    ports = {port["name"]: port["containerPort"] for port in rendered.sidecar["ports"]}
    assert ports == {"events": 8080, "events-tls": 8443, ADMIN: 9500}
    assert render(LEAST).config["admin"]["bind"] == "0.0.0.0:9400"


@pytest.mark.parametrize("values", [{}, BESIDE], ids=["alone", "beside-an-application"])
def test_the_drain_begins_with_the_pods_end(values: Document) -> None:
    lifecycle = render(merged(LEAST, values)).sidecar["lifecycle"]
    assert lifecycle == {"preStop": {"httpGet": {"path": "/drain", "port": ADMIN}}}


@pytest.mark.parametrize(
    ("within", "grace"),
    [("20s", 30), ("250ms", 11), ("1500ms", 12), ("0.5s", 11), ("5m", 310), ("1h", 3610), ("1d", 86410)],
)
def test_grace_period_follows_the_drain(within: str, grace: int) -> None:
    assert render(with_config(drain={"within": within})).pod["terminationGracePeriodSeconds"] == grace


def test_grace_period_can_be_chosen() -> None:
    chosen = merged(LEAST, {"terminationGracePeriodSeconds": 90, "config": {"drain": {"within": "${WITHIN:-20s}"}}})
    assert render(chosen).pod["terminationGracePeriodSeconds"] == 90
    assert render(merged(LEAST, {"terminationMargin": 3})).pod["terminationGracePeriodSeconds"] == 23


# what it may do


def restricted(container: Document, pod: Document) -> bool:
    """The restricted Pod Security Standard, field by field."""
    both = {**pod.get("securityContext", {}), **container["securityContext"]}
    return (
        both["runAsNonRoot"] is True
        and both["seccompProfile"]["type"] == "RuntimeDefault"
        and both["allowPrivilegeEscalation"] is False
        and both["capabilities"] == {"drop": ["ALL"]}
        and both["runAsUser"] != 0
    )


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_pod_security_is_restricted_by_default(path: Path) -> None:
    rendered = render(yaml.safe_load(path.read_text()))
    assert restricted(rendered.sidecar, {})
    assert rendered.sidecar["securityContext"]["readOnlyRootFilesystem"] is True
    assert not [volume for volume in rendered.pod["volumes"] if "hostPath" in volume]
    for pod in rendered.all("Pod"):
        assert restricted(pod["spec"]["containers"][0], pod["spec"])


@pytest.mark.parametrize("create", [True, False])
def test_no_token_is_mounted(create: bool) -> None:
    rendered = render(merged(LEAST, {"serviceAccount": {"create": create}}))
    assert rendered.pod["automountServiceAccountToken"] is False
    assert rendered.pod["serviceAccountName"] == ("events-sidecar" if create else "default")
    assert [account["automountServiceAccountToken"] for account in rendered.all("ServiceAccount")] == [False] * create


def test_replicas_are_left_to_the_autoscaler() -> None:
    assert "replicas" not in render(values_file("everything")).one("Deployment")["spec"]
    assert render(LEAST).one("Deployment")["spec"]["replicas"] == 2


def test_memory_is_limited_and_cpu_is_not() -> None:
    assert set(render(LEAST).sidecar["resources"]["limits"]) == {"memory"}


def test_nothing_of_the_machine_is_needed_to_render(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("KUBE", "HELM"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert render(LEAST).pod
