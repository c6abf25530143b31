"""A page of Markdown as its code blocks, each with what the comment above it says to the tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

_PARTS = re.compile(
    r"^<!-- test: (?P<said>.*?)\s*-->\n+|^(?P<indent> *)```(?P<language>[\w{}-]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_DIRECTIVE = re.compile(
    r"(?P<background>background)?(?:, )?(?:until \"(?P<until>[^\"]+)\")?(?:, )?(?P<numbers>numbers may differ)?"
    r"(?:, )?(?:instead: (?P<instead>.+))?"
    r"|not run: (?P<not_run>.+)|quoted from (?P<quoted>\S+)"
)
_HIDDEN = re.compile(r"(?P<word>sh|bring|end)\s(?P<rest>.+)", re.DOTALL)
_FILE = re.compile(r"(?:#|//|<!--) ([\w./-]+\.\w+)(?: -->)?\n")


@dataclass(frozen=True)
class Block:
    """One fenced block, or the hidden commands of a comment."""

    page: Path
    line: int
    language: str
    text: str
    background: bool = False
    until: str | None = None
    numbers_differ: bool = False
    not_run: str | None = None
    quoted: str | None = None
    instead: str | None = None

    @property
    def file(self) -> str | None:
        """The name of the file that it is, where its first line says so."""
        found = _FILE.match(self.text)
        return found[1] if found else None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All blocks of a page in their order. Raises ValueError for a comment that nobody understands."""
    return list(_blocks(page, page.read_text()))


def _blocks(page: Path, text: str) -> Iterator[Block]:
    said, line = "", 0
    for part in _PARTS.finditer(text):
        line = text.count("\n", 0, part.start()) + 1
        if part["said"] is None:
            yield Block(page, line, part["language"], _dedented(part["text"], len(part["indent"])), **_read(said, line))
            said = ""
        elif (hidden := _HIDDEN.fullmatch(part["said"])) is not None:
            yield Block(page, line, hidden["word"], hidden["rest"] + "\n")
        else:
            said = part["said"]


def _dedented(text: str, indent: int) -> str:
    return "".join(line[min(indent, len(line) - len(line.lstrip(" "))) :] for line in text.splitlines(keepends=True))


def _read(said: str, line: int) -> dict[str, Any]:
    found = _DIRECTIVE.fullmatch(said)
    if found is None:
        raise ValueError(f"line {line}: nobody understands 'test: {said}'")
    return {
        "background": found["background"] is not None,
        "until": found["until"],
        "numbers_differ": found["numbers"] is not None,
        "not_run": found["not_run"],
        "quoted": found["quoted"],
        "instead": found["instead"],
    }
