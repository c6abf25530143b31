"""The chart as Helm renders it: documents to look into, or the words it refuses with.

Strategy: the real binary each time, values by standard input, and plain dictionaries out. Nothing is cached: a
rendering takes a tenth of a second.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.lab.helm import SOURCES, helm

CHART = Path(__file__).resolve().parents[2] / "helm"
VALUES = sorted((CHART / "ci").glob("*-values.yaml"))
VERSIONS = tuple(source.version for source in SOURCES)
NEWEST = VERSIONS[0]
RENDER_WITHIN = 30.0

Document = dict[str, Any]

# The least that the chart takes: a route, and where the broker's URL comes from.
LEAST: Document = {
    "secretEnv": {"AMQP_URL": {"name": "rabbitmq", "key": "url"}},
    "config": {"routes": [{"path": "/events", "exchange": "news"}]},
}


@dataclass(frozen=True)
class Rendered:
    """All documents of a release."""

    documents: list[Document]

    def all(self, kind: str) -> list[Document]:
        """Those of one kind."""
        return [document for document in self.documents if document["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> Document:
        """The only one of its kind (and name)."""
        found = [document for document in self.all(kind) if name in (None, document["metadata"]["name"])]
        assert len(found) == 1, f"{len(found)} of {kind} {name or ''}: {sorted(d['kind'] for d in self.documents)}"
        return found[0]

    @property
    def pod(self) -> Document:
        """The pod's spec in the Deployment."""
        spec: Document = self.one("Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def sidecar(self) -> Document:
        """The sidecar's container, wherever it stands in the pod."""
        containers: list[Document] = [*self.pod.get("initContainers", []), *self.pod["containers"]]
        return next(container for container in containers if container["name"] == "sidecar")

    @property
    def config(self) -> Document:
        """The sidecar's configuration, as the pod reads it."""
        maps = [document for document in self.all("ConfigMap") if "config.yaml" in document["data"]]
        config: Document = yaml.safe_load(maps[0]["data"]["config.yaml"])
        return config


def merged(*values: Mapping[str, Any]) -> Document:
    """Values over values, as Helm merges them: maps key by key, all else replaced."""
    whole: Document = {}
    for each in values:
        for name, value in each.items():
            both = isinstance(value, Mapping) and isinstance(whole.get(name), Mapping)
            whole[name] = merged(whole[name], value) if both else value
    return whole


def run(*arguments: str | Path, values: Mapping[str, Any] | None = None, version: str = NEWEST) -> tuple[int, str, str]:
    """One Helm command; returns the exit code and what it printed on both channels."""
    text = json.dumps(values) if values is not None else None  # JSON is YAML without doubtful strings
    more = ["-f", "-"] if values is not None else []
    done = subprocess.run(
        [helm(version), *arguments, *more],
        input=text,
        capture_output=True,
        text=True,
        timeout=RENDER_WITHIN,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def render(
    values: Mapping[str, Any], *, chart: Path = CHART, kubernetes: str = "1.33", version: str = NEWEST
) -> Rendered:
    """The chart with these values, as release ``events`` in the namespace ``streams``."""
    place = ("--namespace", "streams", "--kube-version", kubernetes)
    code, printed, complaint = run("template", "events", chart, *place, values=values, version=version)
    assert code == 0, complaint
    return Rendered([document for document in yaml.safe_load_all(printed) if document])


def refusal(values: Mapping[str, Any], *, kubernetes: str = "1.33", version: str = NEWEST) -> str:
    """What Helm says to values that it must refuse."""
    code, printed, complaint = run(
        "template", "events", CHART, "--kube-version", kubernetes, values=values, version=version
    )
    assert code != 0, f"it was rendered:\n{printed}"
    return complaint


def values_file(name: str) -> Document:
    """One of the tested values files: ``alone``, ``application``, ``plain``, ``everything``."""
    values: Document = yaml.safe_load((CHART / "ci" / f"{name}-values.yaml").read_text())
    return values
