"""Mistakes of a configuration: where, what, and what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake; line and column count from 1, `path` is the place in the document, like ``routes[0].event``."""

    file: str
    line: int
    column: int
    path: str
    fact: str
    way_out: str = ""

    @property
    def place(self) -> tuple[int, int]:
        """Line and column."""
        return self.line, self.column

    def __str__(self) -> str:
        """One line: ``file:line:column: path: fact (way out)``."""
        where = f"{self.file}:{self.line}:{self.column}: " + (f"{self.path}: " if self.path else "")
        text = where + self.fact + (f" ({self.way_out})" if self.way_out else "")
        # A key or value may hold anything; a report stays one line, and sends nothing to a terminal but text.
        return "".join(character if character.isprintable() else "�" for character in text)


class ConfigError(Exception):
    """A configuration cannot be used. `mistakes` has all of them, in the order of the file, each once."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        # What `defaults` says wrongly is wrong in each route that takes it over: it is told once, where it stands.
        by_place = sorted(mistakes, key=lambda each: (each.place, not each.path.startswith("defaults")))
        self.mistakes = list({(each.place, each.fact): each for each in reversed(by_place)}.values())[::-1]
        super().__init__("\n".join(map(str, self.mistakes)))
