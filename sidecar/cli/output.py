"""How commands speak: tables to a person on a terminal, one JSON object a line to a machine in a pipe.

Strategy: rich decides about colours (it knows ``NO_COLOR`` and dumb terminals), we decide by `isatty` who reads. Texts
from a configuration never pass rich's markup, and what is not printable is replaced.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TextIO

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sidecar.config import Mistake

Row = Mapping[str, object]

FIRST: Final = 30
"""The width of a table's first column at most, in a terminal's columns."""

INDENT: Final = 4
"""Columns before a mistake's text."""

_ERRNO: Final = re.compile(r"^\[Errno -?\d+\] ")
_TLS: Final = {"WRONG_VERSION_NUMBER": "what answers there speaks no TLS (http:// instead of https://?)"}


def show_rows(rows: Sequence[Row], lines: Sequence[Row]) -> None:
    """Many alike: `lines` as a table on a terminal, else `rows`, which have everything, as a line of JSON each."""
    if not sys.stdout.isatty():
        print_json(rows)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(lines[0] if lines else ()):
        # What a row is called by has a width of its own; the others are folded, the widest first.
        longest = max(len(cell(line[name])) for line in lines)
        table.add_column(name, width=None if number else min(FIRST, longest), overflow="fold")
    for line in lines:
        table.add_row(*map(cell, line.values()))
    _console(sys.stdout).print(table)


def show_remark(text: str) -> None:
    """A sentence below a table, for people only."""
    if sys.stdout.isatty():
        _console(sys.stdout).print(Text(text, style="dim"))


def show_one(row: Row) -> None:
    """One thing: those of its keys that say something below each other on a terminal, else all as a line of JSON."""
    if not sys.stdout.isatty():
        print_json([row])
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in row.items():
        if value or value == 0:
            table.add_row(key, cell(value))
    _console(sys.stdout).print(table)


def print_json(rows: Iterable[Row]) -> None:
    """Each row as one line of JSON on standard output."""
    for row in rows:
        print(json.dumps(row, default=str))


def tell(text: str) -> None:
    """One sentence on standard error, folded between words where that is a terminal."""
    if sys.stderr.isatty():
        _console(sys.stderr).print(Text(_printable(text)))
    else:
        print(text, file=sys.stderr)


def reason(error: BaseException) -> str:
    """What a network error says in words: its own, or where it has none those of what caused it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return _TLS.get(cause.reason, f"TLS: {getattr(cause, 'verify_message', '') or cause.reason}")
        if text := _ERRNO.sub("", str(cause)):
            return text
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


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


def show_mistakes(mistakes: Sequence[Mistake], *, to_stdout: bool = False) -> None:
    """Each mistake on one line; on a terminal each on its place, its text below, and at last how many there are."""
    stream: TextIO = sys.stdout if to_stdout else sys.stderr
    if not stream.isatty():
        for mistake in mistakes:
            print(mistake, file=stream)
        return
    console = _console(stream)
    for mistake in mistakes:
        # A terminal makes the place a link only where it stands on one line.
        console.print(
            Text.assemble((_printable(_place(mistake)), "bold"), " ", _printable(mistake.path)), soft_wrap=True
        )
        console.print(Padding(_told(mistake), (0, 0, 0, INDENT)))
    console.print(Text("1 mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes", style="red"))


def _place(mistake: Mistake) -> str:
    return f"{mistake.file}:{mistake.line}:{mistake.column}:"


def _told(mistake: Mistake) -> Text:
    way_out = f"({mistake.way_out})" if mistake.way_out else ""
    return Text(" ").join([Text(_printable(mistake.fact)), Text(_printable(way_out), style="green")])
