"""What the README and the documentation say of a run: ten lines and the picture, out of the JSON of that run.

Strategy: nobody types a figure. `python -m bench.quote` writes both out of `results/bench.json`, and a test compares.

usage: python -m bench.quote
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from bench.build import HERE
from bench.picture import draw
from bench.report import RESULTS

RUN: Final = RESULTS / "bench.json"
README: Final = HERE.parent / "README.md"
PICTURE: Final = HERE.parent / "docs/explanation/benchmark.svg"
BEGIN, END = "<!-- written by python -m bench.quote -->\n", "<!-- end of what it writes -->\n"

Figures = Mapping[str, float]

SERVERS: Final = (
    ("sidecar", "**sidecar**"),
    ("floor", "C `send` loop"),
    ("nchan", "nginx + nchan"),
    ("go", "Go"),
    ("node", "Node.js"),
    ("uvicorn", "sse-starlette"),
)


def _cpu(figures: Figures) -> str:
    return f"{figures['cpu_us_per_event']:.1f} µs, {_short(figures['delay_ms_p99'])} ms{_late(figures)}"


def _rate(figures: Figures) -> str:
    return f"{_short(figures['events_per_second'] / 1e6)} M{_late(figures)}"


def _late(figures: Figures) -> str:
    return " …" if figures["not_delivered"] else ""


def _figure(key: str, unit: str) -> Callable[[Figures], str]:
    return lambda figures: f"{_short(max(figures[key], 0.0))} {unit}"


def _short(number: float) -> str:
    """Two digits that say something."""
    return f"{number:.0f}" if number >= 10 else f"{number:.1f}" if number >= 1 else f"{number:.2f}"


ROWS: Final[tuple[tuple[str, str, Callable[[Figures], str]], ...]] = (
    ("1000 streams × 100/s", "h1-1000", _cpu),
    ("100 streams × 1000/s", "h1-100", _cpu),
    ("HTTP/2, 10 × 100 streams × 100/s", "h2", _cpu),
    ("as fast as it goes, 100 streams: events/s", "h1-flood", _rate),
    ("… over HTTP/2, 10 × 100 streams", "h2-flood", _rate),
    ("a message that nobody hears", "nobody", _figure("cpu_us_per_message", "µs")),
    ("opening a stream", "opening", _figure("cpu_ms_per_stream", "ms")),
    ("an idle stream", "memory-h1", _figure("kb_per_stream", "KB")),
)


def ten_lines(whole: Mapping[str, Any]) -> str:
    """The table of a run: two lines of head and eight works."""
    found = {(row["work"], row["server"]): row["figures"] for row in whole["rows"]}
    lines = [["", *(label for _, label in SERVERS)], ["---"] * (len(SERVERS) + 1)]
    for label, work, told in ROWS:
        lines.append([label, *(told(found[work, name]) if (work, name) in found else "–" for name, _ in SERVERS)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def quoted(text: str, whole: Mapping[str, Any]) -> str:
    """A text with the table between its marks made anew. Raises ValueError where they are missing."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + ten_lines(whole) + END + after


def main() -> None:
    """Write both."""
    whole = json.loads(RUN.read_text())
    README.write_text(quoted(README.read_text(), whole))
    PICTURE.write_text(draw(whole))


if __name__ == "__main__":
    main()
