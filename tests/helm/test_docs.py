"""docs/how-to/kubernetes.md, followed to the letter as far as that goes without a cluster.

Strategy: its YAML is taken out of the page and used; its links and the values it names must exist.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.helm.chart import CHART, Document, merged, render, run

DOCS = CHART.parent / "docs" / "how-to" / "kubernetes.md"
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(part: str) -> list[str]:
    """The YAML blocks below a heading that begins so, up to the next one of its rank."""
    _, found, rest = DOCS.read_text().partition(f"\n## {part}")
    assert found, part
    return [block["text"] for block in BLOCK.finditer(rest.split("\n## ")[0]) if block["language"] == "yaml"]


def values(part: str, number: int = 0) -> Document:
    found: Document = yaml.safe_load(blocks(part)[number])
    return found


def test_on_its_own() -> None:
    rendered = render(values("As an application of its own"))
    assert rendered.sidecar["image"] == "registry.example.com/sse-sidecar:0.1.0"
    assert rendered.one("Service")["metadata"]["name"] == "events-sidecar"
    assert [port["port"] for port in rendered.one("Service")["spec"]["ports"]] == [80]


@pytest.mark.parametrize(
    ("part", "number", "kind"),
    [
        ("As an application of its own", 1, "Deployment"),
        ("Who reaches the admin listener", 0, "ServiceMonitor"),
        ("Is it working?", 0, "Pod"),
    ],
)
def test_what_is_added_to_it(part: str, number: int, kind: str) -> None:
    assert render(merged(values("As an application of its own"), values(part, number))).one(kind)


def test_beside_a_chart(tmp_path: Path) -> None:
    dependency, its_values, lines = blocks("Beside an application that has a chart")
    shutil.copytree(CHART, tmp_path / "sidecar" / "helm")
    shop = shutil.copytree(CHART / "examples" / "beside", tmp_path / "shop")
    metadata = {"apiVersion": "v2", "name": "shop", "version": "1.0.0"} | yaml.safe_load(dependency)
    (shop / "Chart.yaml").write_text(yaml.safe_dump(metadata))
    (shop / "values.yaml").write_text(its_values)
    head = (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: shop}\nspec:\n  selector: {matchLabels: {app: shop}}\n"
    )
    pod = "  template:\n    metadata: {labels: {app: shop}}\n" + lines + "          image: shop:1\n"
    (shop / "templates" / "shop.yaml").write_text(head + pod)
    code, printed, complaint = run("dependency", "update", shop)
    assert code == 0, printed + complaint
    rendered = render({}, chart=shop)
    assert [container["name"] for container in rendered.pod["initContainers"]] == ["sidecar"]
    assert rendered.pod["terminationGracePeriodSeconds"] == 30
    assert "events" in [port["name"] for port in rendered.sidecar["ports"]]


def test_every_value_that_the_page_names_is_one() -> None:
    named = set(re.findall(r"`([a-z]\w+(?:\.\w+)+)(?::[^`]*)?`", DOCS.read_text()))
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    checked = [name for name in named if name.split(".")[0] in known]
    for name in checked:
        at = known
        for key in name.split("."):
            assert key in at, name
            at = at[key]
    assert len(checked) >= 5


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", DOCS.read_text())
    assert links
    assert [link for link in links if not (DOCS.parent / link).exists()] == []
