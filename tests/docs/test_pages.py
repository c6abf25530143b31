"""Every page, from its first block to its last; and the links between them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.config import ConfigError
from tests.docs.languages import LANGUAGES, follow
from tests.docs.page import ROOT, Block, blocks
from tests.docs.session import Session
from tests.lab.rabbitmq import RabbitNode

FOLLOWED_ELSEWHERE = {
    "docs/how-to/kubernetes.md": "tests/helm/test_docs.py",
}
"""Pages whose blocks have a test of their own."""

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
FOLLOWED = [page for page in PAGES if page not in FOLLOWED_ELSEWHERE]


@pytest.fixture
def session(tmp_path: Path, rabbitmq: RabbitNode) -> Iterator[Session]:
    """An empty directory and a broker without exchanges."""
    session = Session(tmp_path, rabbitmq.url(rabbitmq.vhost()))
    try:
        yield session
    finally:
        session.close()


@pytest.mark.parametrize("page", [page for page in FOLLOWED if blocks(ROOT / page)])
def test_a_page_can_be_followed(page: str, session: Session) -> None:
    for block in blocks(ROOT / page):
        try:
            follow(session, block)
        except Exception as error:
            error.add_note(f"at {block}")
            raise
    session.finish()


def test_pages_followed_elsewhere_are_named_there() -> None:
    for page, test in FOLLOWED_ELSEWHERE.items():
        assert Path(page).stem in (ROOT / test).read_text()


def test_every_language_has_a_meaning() -> None:
    used = {block.language for page in FOLLOWED for block in blocks(ROOT / page)}
    assert used <= LANGUAGES.keys()


def test_what_is_not_run_has_a_reason_and_is_rare() -> None:
    runnable = [
        block for page in FOLLOWED for block in blocks(ROOT / page) if block.language in ("sh", "console", "yaml")
    ]
    spared = [block for block in runnable if block.not_run is not None]
    assert all(len(str(block.not_run)) > 10 for block in spared), spared
    assert len(spared) <= len(runnable) / 5, list(map(str, spared))


def test_make_run_is_the_demo() -> None:
    """What is run in its place in the pages is what it runs itself."""
    replaced = {(block.text, block.instead) for page in FOLLOWED for block in blocks(ROOT / page) if block.instead}
    assert replaced == {("make run\n", "sidecar demo --port 8080")}
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^PORT \?= 8080$", makefile, re.MULTILINE)
    assert re.search(r"^run: .*\n\t.*sidecar demo --port \$\(PORT\)$", makefile, re.MULTILINE)


def links(page: str) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    return set(re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#{1,6} (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_runner_reads_what_a_comment_says(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        '<!-- test: background, until "x y" -->\n\n```sh\na\n```\n\n'
        "<!-- test: not run: because -->\n```yaml\n# a/b.yaml\nc: 1\n```\n\n- x\n  ```console\n  $ d\n    e\n  ```\n"
    )
    first, second, third = blocks(page)
    assert (first.language, first.text, first.background, first.until) == ("sh", "a\n", True, "x y")
    assert (second.not_run, second.file, second.background) == ("because", "a/b.yaml", False)
    assert third.text == "$ d\n  e\n"
    page.write_text("<!-- test: perhaps -->\n```sh\na\n```\n")
    with pytest.raises(ValueError, match="nobody understands"):
        blocks(page)


def test_the_runner_can_fail(session: Session, tmp_path: Path) -> None:
    def block(language: str, text: str) -> Block:
        return Block(ROOT / "README.md", 1, language, text)

    follow(session, block("console", "$ echo 'one 2 three'; echo four\none … three\n…\n"))
    for language, text in (
        ("console", "$ echo one\ntwo\n"),
        ("console", "$ false\n"),
        ("sh", "false\ntrue\n"),
        ("yaml", "heartbeat: soon\n"),
        ("yaml", "nonsense: 1\n"),
        ("python", "def\n"),
    ):
        with pytest.raises((AssertionError, ConfigError, SyntaxError)):
            follow(session, block(language, text))
