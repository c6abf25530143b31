"""How commands speak: tables to a person on a terminal, one JSON object a line to a machine in a pipe.

Strategy: rich decides about colours (it knows ``NO_COLOR`` and dumb terminals), we decide by `isatty` who reads. Texts
from a configuration never pass rich's markup, and what is not printable is replaced.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sidecar.config import Mistake

Row = Mapping[str, object]


def show_rows(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Many alike: a table of the `columns` on a terminal, else every row with all it has as a line of JSON."""
    if not sys.stdout.isatty():
        print_json(rows)
        return
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(cell(row[column]) for column in columns))
    _console(sys.stdout).print(table)


def show_one(row: Row) -> None:
    """One thing: its keys below each other on a terminal, else a line of JSON."""
    if not sys.stdout.isatty():
        print_json([row])
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in row.items():
        table.add_row(key, cell(value))
    _console(sys.stdout).print(table)


def print_json(rows: Iterable[Row]) -> None:
    """Each row as one line of JSON on standard output."""
    for row in rows:
        print(json.dumps(row, default=str))


def _console(stream: TextIO) -> Console:
    # rich would leave bold and dim under NO_COLOR; whoever sets it wants a plain text.
    return Console(file=stream, highlight=False, color_system=None if os.environ.get("NO_COLOR") else "auto")


def cell(value: object) -> Text:
    """A value in a table: lists and mappings one item a line, nothing as a dash."""
    if isinstance(value, Mapping):
        value = [f"{key}: {item}" for key, item in value.items()]
    if isinstance(value, list | tuple):
        value = "\n".join(map(_printable, value))
        return Text(value or "–", overflow="fold")
    return Text("–" if value is None else _printable(value), overflow="fold")


def _printable(value: object) -> str:
    return "".join(character if character.isprintable() else "�" for character in str(value))


def show_mistakes(mistakes: Iterable[Mistake], *, to_stdout: bool = False) -> None:
    """Each mistake on one line; on a terminal its parts are told apart by style."""
    stream: TextIO = sys.stdout if to_stdout else sys.stderr
    console = _console(stream)
    for mistake in mistakes:
        if stream.isatty():
            console.print(_styled(mistake), soft_wrap=True)
        else:
            print(mistake, file=stream)


def _styled(mistake: Mistake) -> Text:
    text = Text(str(mistake))
    place = f"{mistake.file}:{mistake.line}:{mistake.column}:"
    text.stylize("bold", 0, len(place))
    if mistake.way_out:
        text.stylize("green", len(text) - len(mistake.way_out) - 2)
    return text
