"""The generated reference is what the code says now."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from types import ModuleType

import pytest

from sidecar.config.model import Config, Route
from tests.docs.page import ROOT


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_current(generate: ModuleType) -> None:
    assert generate.stale() == [], "run: python docs/generate.py"


def test_they_tell_every_key(generate: ModuleType) -> None:
    page = generate.configuration()
    for key in [*Config.written(), *Route.written(), "when_full", "expires", "leeway", "per_client"]:
        assert f"| `{key}` |" in page, key


def test_they_tell_metrics_reasons_commands_and_log_lines(generate: ModuleType) -> None:
    assert "| `sidecar_events_sent_total` | counter | `route` |" in generate.metrics()
    assert "| `broker_refused` |" in generate.metrics()
    assert "| `stream closed` | info | `route`, `reason`, `client`, `seconds`, `events` |" in generate.logs()
    assert "`--last-event-id`" in generate.commands()


def test_a_stale_page_is_named_and_the_status_is_1(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(generate.PAGES, "log.md", lambda: "otherwise")
    assert generate.main(["--check"]) == 1


def test_it_is_a_script() -> None:
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, timeout=30, check=False)
    assert done.returncode == 0
