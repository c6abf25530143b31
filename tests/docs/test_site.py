"""The site: built strictly, complete, and without anything from elsewhere; scripts in it that a browser can read."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from selenium import webdriver

from tests.docs.page import ROOT, blocks

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make docs` builds."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-b", "html"]
    done = subprocess.run([*command, str(DOCS), str(folder)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


def test_every_page_is_in_it(site: Path) -> None:
    for page in PAGES:
        assert (site / page.relative_to(DOCS)).with_suffix(".html").exists(), page


def test_reading_it_asks_nobody_else(site: Path) -> None:
    for page in site.rglob("*.html"):
        found = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"(?:https?:)?//([^\"]*)", page.read_text()
        )
        assert found == [], page


def test_make_docs_builds_the_same_way() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "--fail-on-warning --keep-going -b html docs build/site" in makefile
    assert "docs/generate.py --check" in makefile
    assert "docs" in tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]


def test_drawings_have_a_title_and_know_the_dark() -> None:
    drawings = list(DOCS.rglob("*.svg"))
    assert drawings
    for drawing in drawings:
        text = drawing.read_text()
        assert "<title" in text
        assert "prefers-color-scheme: dark" in text


def test_scripts_of_the_pages_are_javascript(chromium: webdriver.Chrome) -> None:
    scripts = [block for page in [*PAGES, ROOT / "README.md"] for block in blocks(page) if block.language == "js"]
    assert len(scripts) >= 5
    for script in scripts:
        text = re.sub(r"^import .*$", "", script.text, flags=re.MULTILINE)
        wrong = chromium.execute_script("try { new Function(arguments[0]) } catch (error) { return `${error}` }", text)
        assert wrong is None, f"{script}: {wrong}"
