"""The picture for the docs: bars of CPU, delay and rate, one panel for each work, readable on light and dark pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

PANELS = (
    ("h1-1000", "cpu_us_per_event", "CPU µs per event"),
    ("h1-1000", "delay_ms_p99", "99th percentile delay, ms"),
    ("h1-100", "cpu_us_per_event", "CPU µs per event"),
    ("h2", "cpu_us_per_event", "CPU µs per event"),
    ("h1-flood", "events_per_second", "events delivered a second"),
    ("h2-flood", "events_per_second", "events delivered a second"),
    ("proxy", "cpu_us_per_request", "CPU µs per request"),
    ("proxy", "requests_per_second", "requests a second"),
)
PANEL_WIDTH, BAR, GAP, LABEL, VALUE, PAD = 420, 16, 6, 90, 70, 16
# The colours come from the reader's scheme; the file stands alone as an <img>, where this media query works.
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .head { font-weight: 600 } .sub { fill: #57606a }
  .peer { fill: #8c959f } .floor { fill: #d0d7de } .sidecar { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .sub { fill: #9198a1 }
    .peer { fill: #6e7681 } .floor { fill: #3d444d } .sidecar { fill: #4493f8 }
  }
"""


def draw(whole: Mapping[str, Any]) -> str:
    """An SVG of the panels that the run has figures for."""
    panels = [_panel(whole["rows"], *panel) for panel in PANELS]
    drawn = [panel for panel in panels if panel]
    body, y = [], PAD
    for row in (drawn[i : i + 2] for i in range(0, len(drawn), 2)):
        for column, (lines, _) in enumerate(row):
            body.append(f'<g transform="translate({PAD + column * PANEL_WIDTH},{y})">{"".join(lines)}</g>')
        y += max(height for _, height in row) + PAD
    width = 2 * PANEL_WIDTH + PAD
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" height="{y}" role="img">'
    return f"{head}<title>sidecar beside its peers</title><style>{STYLE}</style>{''.join(body)}</svg>\n"


def _panel(rows: Sequence[Mapping[str, Any]], work: str, key: str, what: str) -> tuple[list[str], int] | None:
    found = [row for row in rows if row["work"] == work and key in row["figures"]]
    if not found:
        return None
    top = max(row["figures"][key] for row in found) or 1.0
    lines = [_text(0, 12, found[0]["title"], "head"), _text(0, 28, what, "sub")]
    for place, row in enumerate(found):
        lines += _bar(38 + place * (BAR + GAP), row["server"], row["figures"][key], top)
    return lines, 38 + len(found) * (BAR + GAP)


def _bar(y: int, server: str, value: float, top: float) -> list[str]:
    length = max(1.0, value / top * (PANEL_WIDTH - LABEL - VALUE - PAD))
    kind = server if server in ("sidecar", "floor") else "peer"
    bar = f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2"/>'
    return [_text(0, y + 12, server), bar, _text(LABEL + length + 6, y + 12, _number(value), "sub")]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y}" class="{kind}">{escape(text)}</text>'
