"""Beside the containers of another chart: the example, built as its owner would build it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.helm.chart import CHART, VERSIONS, Document, merged, render, run


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with this chart as its dependency, in a copy, because `helm dependency` writes into it."""
    copy = shutil.copytree(CHART, tmp_path_factory.mktemp("beside") / "helm")
    example: Path = copy / "examples" / "beside"
    code, printed, complaint = run("dependency", "update", example)
    assert code == 0, printed + complaint
    return example


def pod_of(chart: Path, values: Document, **options: Any) -> Document:
    pod: Document = render(values, chart=chart, **options).one("Deployment")["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("version", VERSIONS)
def test_three_lines_make_a_native_sidecar(shop: Path, version: str) -> None:
    rendered = render({}, chart=shop, version=version)
    pod = rendered.pod
    (sidecar,) = pod["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("sidecar", "Always")
    assert sidecar["lifecycle"]["preStop"]["httpGet"]["path"] == "/drain"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/livez"
    assert pod["terminationGracePeriodSeconds"] == 30
    assert [container["name"] for container in pod["containers"]] == ["shop"]


def test_only_the_configmap_comes_with_it(shop: Path) -> None:
    rendered = render({}, chart=shop)
    assert sorted(document["kind"] for document in rendered.documents) == ["ConfigMap", "Deployment", "Service"]
    (volume,) = rendered.pod["volumes"]
    assert volume["configMap"]["name"] == rendered.one("ConfigMap")["metadata"]["name"]
    assert rendered.config["routes"][0]["path"] == "/events/orders/{order}"
    assert rendered.config["broker"] == {"url": "${AMQP_URL}"}


def test_the_parents_service_finds_the_sidecars_port(shop: Path) -> None:
    rendered = render({}, chart=shop)
    (port,) = rendered.one("Service")["spec"]["ports"]
    assert port["targetPort"] in [port["name"] for port in rendered.sidecar["ports"]]


@pytest.mark.parametrize("kubernetes", ["1.29", "1.33", "1.37"])
def test_kubernetes_takes_the_pod(shop: Path, kubernetes: str) -> None:
    for document in render({}, chart=shop, kubernetes=kubernetes).documents:
        kubernetes_validate.validate(document, kubernetes, strict=True)


def test_values_of_the_parent_reach_the_container(shop: Path) -> None:
    values = {"sidecar": {"config": {"drain": {"within": "90s"}}, "secretFiles": {"keys": "shop-keys"}}}
    pod = pod_of(shop, values)
    assert pod["terminationGracePeriodSeconds"] == 100
    assert [volume["name"] for volume in pod["volumes"]] == ["sidecar-config", "sidecar-secret-keys"]


def test_prometheus_finds_it_in_the_parents_pods(shop: Path) -> None:
    watched = {"sidecar": {"serviceMonitor": {"enabled": True}, "podSelector": {"app": "shop"}}}
    rendered = render(watched, chart=shop)
    service = rendered.one("Service", "events-sidecar-metrics")["spec"]
    labels = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()


def test_before_native_sidecars_the_container_moves(shop: Path) -> None:
    template = shop / "templates" / "shop.yaml"
    older = shop.parent / "older"
    shutil.copytree(shop, older, dirs_exist_ok=True)
    text = template.read_text()
    moved = text.replace("      containers:\n", "").replace("initContainers:", "containers:")
    (older / "templates" / "shop.yaml").write_text(moved)
    pod = pod_of(older, {"sidecar": {"nativeSidecar": False}}, kubernetes="1.28")
    assert [container["name"] for container in pod["containers"]] == ["sidecar", "shop"]
    assert "restartPolicy" not in pod["containers"][0]


def test_its_mistakes_stop_the_parents_install(shop: Path) -> None:
    values = merged({"sidecar": {"config": {"routes": []}, "standalone": True, "podSelector": {}}})
    code, _, complaint = run("template", "events", shop, values=values)
    assert code != 0
    assert "config.routes is empty" in complaint


def test_an_alias_gives_a_second_one_its_own_values(shop: Path, tmp_path: Path) -> None:
    second = shutil.copytree(shop.parent.parent, tmp_path / "helm") / "examples" / "beside"
    chart = yaml.safe_load((second / "Chart.yaml").read_text())
    chart["dependencies"][0]["alias"] = "events"
    (second / "Chart.yaml").write_text(yaml.safe_dump(chart))
    for name in ("values.yaml", "templates/shop.yaml"):
        path = second / name
        path.write_text(
            path.read_text().replace(".Subcharts.sidecar", ".Subcharts.events").replace("\nsidecar:", "\nevents:")
        )
    (second / "Chart.lock").unlink()
    code, printed, complaint = run("dependency", "update", second)
    assert code == 0, printed + complaint
    assert render({"events": {"image": {"tag": "9"}}}, chart=second).sidecar["image"] == "sse-sidecar:9"
