"""The figures in the README and the picture in the documentation are those of one run, which is kept."""

from __future__ import annotations

import json

import pytest

from bench.picture import draw
from bench.quote import PICTURE, README, ROWS, RUN, quoted, ten_lines

WHOLE = json.loads(RUN.read_text())


def test_the_table_is_what_the_run_says() -> None:
    assert README.read_text() == quoted(README.read_text(), WHOLE)


def test_the_picture_is_of_the_same_run() -> None:
    assert PICTURE.read_text() == draw(WHOLE)


def test_it_is_ten_lines_and_nobody_was_left_out() -> None:
    lines = ten_lines(WHOLE).splitlines()
    assert len(lines) == 2 + len(ROWS) == 10
    assert not WHOLE["left_out"]
    assert all("–" not in line.split("|")[2] for line in lines[2:])


def test_a_text_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="unpack"):
        quoted("nothing here", WHOLE)
