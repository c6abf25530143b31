"""What a run is worth to a reader: the table, the JSON with every single run, and the files they go to.

Strategy: the JSON holds everything (each run, medians, ratios, noise, the machine, versions), and the table and the
picture are made from the same medians, so that no figure stands in one of them only.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bench.build import HERE, tool
from bench.goals import Verdict, verdicts
from bench.picture import draw
from bench.runner import Run, medians, noise
from bench.servers import Server
from bench.works import Figures, Work, reference

DISTURBED_CORES = 0.15
CPU = ("cpu_us_per_event", "cpu_us_per_request")
RESULTS = HERE / "results"


@dataclass(frozen=True)
class Report:
    """A finished run."""

    works: Sequence[Work]
    servers: Sequence[Server]
    runs: Sequence[Run]
    left_out: dict[str, str]
    settings: dict[str, Any]

    @property
    def figures(self) -> dict[tuple[str, str], Figures]:
        """Medians by (work, server)."""
        return medians(self.runs)

    def ratio(self, work: Work, server: str, key: str) -> float | None:
        """A figure over the reference's of the same work (or the work it names); None where there is none for it."""
        figures = self.figures
        other = figures.get((work.floor, reference(work)), {}).get(key)
        own = figures.get((work.name, server), {}).get(key)
        return own / other if own is not None and other else None


def tables(report: Report) -> RenderableType:
    """A table for each work, a line for each server, the ratio to the reference beside the figure; then the goals."""
    parts = [part for work in report.works for part in (Text(work.title, "bold"), _table(report, work))]
    return Group(_title(report), "", *parts, *_goals(report), _footnotes(report))


def _table(report: Report, work: Work) -> Table:
    shown = Table("server", box=box.SIMPLE_HEAD)
    for column in work.columns:
        shown.add_column(column.head, justify="right")
        if column.ratio:
            shown.add_column(f"× {reference(work)}", justify="right", style="dim")
    for server in report.servers:
        if (found := report.figures.get((work.name, server.name))) is not None:
            shown.add_row(server.name, *_cells(report, work, server.name, found))
        elif _error(report, work, server.name):
            shown.add_row(server.name, "[red]failed[/]")
    return shown


def _cells(report: Report, work: Work, server: str, figures: Figures) -> list[str]:
    cells = []
    for column in work.columns:
        value, ratio = figures.get(column.key), report.ratio(work, server, column.key)
        cells.append("–" if value is None else f"{value:,.{column.digits}f}")
        if column.ratio:
            cells.append("–" if ratio is None else f"{ratio:.2f}")
    return cells


def _goals(report: Report) -> list[RenderableType]:
    if not (found := verdicts(report.figures)):
        return []
    shown = Table("goal", box=box.SIMPLE_HEAD)
    shown.add_column("reached", justify="right")
    for verdict in found:
        style, word = _judged(verdict)
        shown.add_row(verdict.goal, f"[{style}]{verdict.reached:,.2f} {word}[/]")
    return [Text("what it must reach", "bold"), shown]


def _judged(verdict: Verdict) -> tuple[str, str]:
    """The colour and the word; a wish that is missed is not a goal that is."""
    if verdict.met:
        return "green", "yes"
    return ("yellow", "no, a wish") if verdict.wish else ("red", "NO")


def _error(report: Report, work: Work, server: str) -> str | None:
    return next((run.error for run in report.runs if (run.work, run.server) == (work.name, server) and run.error), None)


def _title(report: Report) -> str:
    return f"{os.cpu_count()} cores of {_cpu_model()}, {report.settings['rounds']} round(s)"


def _footnotes(report: Report) -> str:
    spread = {work: part for key in CPU for work, part in noise(report.runs, report.works, key).items()}
    lines = [f"{work}: ±{part * 50:.0f} %" for work, part in spread.items()]
    out = [f"left out: {name} ({reason.splitlines()[0]})" for name, reason in report.left_out.items()]
    out += _disturbed(report)
    failed = [
        f"failed: {run.server} in {run.work}: {escape(_last_line(run.error))}" for run in report.runs if run.error
    ]
    steady = f"Noise (the floor or nginx against itself, CPU): {', '.join(lines) or 'not measured'}"
    return "\n".join([steady, *out, *failed])


def _disturbed(report: Report) -> list[str]:
    """The runs during which other programs of the machine took CPU worth a word."""
    found = [run for run in report.runs if run.figures.get("others_cores", 0.0) > DISTURBED_CORES]
    named = ", ".join(sorted({f"{run.server} in {run.work}" for run in found}))
    return (
        [f"disturbed by other programs of this machine: {len(found)} of {len(report.runs)} runs: {named}"]
        if found
        else []
    )


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no word"])[-1][-160:]


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(*command: str) -> str | None:
    if not (program := tool(command[0])):
        return None
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout or done.stderr).strip().splitlines()[0]


def _versions() -> dict[str, str | None]:
    pinned = (HERE / "peers/uvicorn/requirements.txt").read_text().split()
    return {
        "python": platform.python_version(),
        "node": _version("node", "--version"),
        "go": _version("go", "version"),
        "nginx": _version("nginx", "-v"),
        "cc": _version("cc", "--version"),
        "uvicorn's": ", ".join(line for line in pinned if "==" in line),
        "node's": json.dumps(json.loads((HERE / "peers/node/package.json").read_text())["dependencies"]),
    }


def as_json(report: Report) -> dict[str, Any]:
    """Everything, as it goes into the file."""
    rows = [_row(report, work, server.name) for work in report.works for server in report.servers]
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "kernel": platform.release(),
            "load": os.getloadavg(),
        },
        "versions": _versions(),
        "settings": report.settings,
        "left_out": report.left_out,
        "noise": {key: noise(report.runs, report.works, key) for key in (*CPU, "delay_ms_median", "delay_ms_p99")},
        "goals": [vars(verdict) for verdict in verdicts(report.figures)],
        "rows": [row for row in rows if row],
        "runs": [vars(run) for run in report.runs],
    }


def _row(report: Report, work: Work, server: str) -> dict[str, Any] | None:
    found = report.figures.get((work.name, server))
    if found is None:
        return None
    ratios = {key: ratio for key in found if (ratio := report.ratio(work, server, key)) is not None}
    return {"work": work.name, "title": work.title, "server": server, "figures": found, f"to_{reference(work)}": ratios}


def write(report: Report, partial: bool) -> list[Path]:
    """Write the JSON and the picture; a part of the works goes to files of its own, which git does not keep."""
    RESULTS.mkdir(exist_ok=True)
    name = "partial" if partial else "bench"
    whole = as_json(report)
    figures, picture = RESULTS / f"{name}.json", RESULTS / f"{name}.svg"
    figures.write_text(json.dumps(whole, indent=1) + "\n")
    picture.write_text(draw(whole))
    return [figures, picture]
