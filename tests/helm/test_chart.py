"""The chart as a whole: it lints, renders alike in two Helms, and the API of several Kubernetes would take it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

import sidecar
from tests.helm.chart import CHART, LEAST, VALUES, VERSIONS, Document, render, run, values_file
from tests.lab.helm import HelmMissingError, Source

# Kinds of the cluster's own API; the others belong to CRDs, which test_around.py looks into.
CUSTOM = {"HTTPRoute", "ServiceMonitor", "PrometheusRule"}
KUBERNETES = ("1.27", "1.29", "1.33", "1.37")


def name_of(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", VALUES, ids=name_of)
def test_lint_has_nothing_to_say(path: Path, version: str) -> None:
    code, printed, complaint = run("lint", "--strict", CHART, "-f", path, version=version)
    assert code == 0, printed + complaint
    assert "WARNING" not in printed
    assert "fail" not in complaint


@pytest.mark.parametrize("path", VALUES, ids=name_of)
def test_two_helms_render_the_same(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    renderings = [render(values, version=version).documents for version in VERSIONS]
    assert len(VERSIONS) == 2
    assert sorted(map(str, renderings[0])) == sorted(map(str, renderings[1]))


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("path", VALUES, ids=name_of)
def test_kubernetes_takes_every_document(path: Path, kubernetes: str) -> None:
    values = yaml.safe_load(path.read_text())
    if kubernetes == "1.27":
        values["nativeSidecar"] = False
    for document in render(values, kubernetes=kubernetes).documents:
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, kubernetes, strict=True)


def test_the_validator_would_have_found_an_unknown_field() -> None:
    document = render(LEAST).one("Deployment")
    document["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(document, "1.33", strict=True)


def test_everything_that_can_be_made_is_made() -> None:
    kinds = {document["kind"] for document in render(values_file("everything")).documents}
    assert kinds == CUSTOM | {
        *("ConfigMap", "Deployment", "Service", "ServiceAccount", "Ingress", "Pod"),
        *("PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"),
    }


def test_the_everyday_release_is_small() -> None:
    kinds = sorted(document["kind"] for document in render(LEAST).documents)
    assert kinds == ["ConfigMap", "Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount"]


def test_names_stay_within_what_kubernetes_takes() -> None:
    everything = values_file("everything") | {"fullnameOverride": "", "nameOverride": "n" * 70}
    for document in render(everything).documents:
        assert len(document["metadata"]["name"]) <= 63
        assert all(len(str(value)) <= 63 for value in document["metadata"]["labels"].values())


def test_chart_and_program_have_one_version() -> None:
    chart: Document = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (sidecar.__version__, sidecar.__version__)


def test_schema_and_readme_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, CHART / "generate.py", "--check"], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_holds_what_the_templates_read_and_nothing_of_ours(tmp_path: Path) -> None:
    code, _, complaint = run("package", CHART, "--destination", tmp_path)
    assert code == 0, complaint
    listing = subprocess.run(["tar", "tzf", *tmp_path.glob("*.tgz")], capture_output=True, text=True, check=True).stdout
    assert "sidecar/files/alerts.yaml" in listing
    assert not [name for name in listing.split() if name.endswith(".py") or "/ci/" in name or "/examples/" in name]


def test_a_missing_helm_is_an_error_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Source("v0.0.0", "nothing", "")
    monkeypatch.setattr("tests.lab.helm.SOURCES", (missing,))
    with pytest.raises(HelmMissingError, match="make lab"):
        run("version", version="v0.0.0")
