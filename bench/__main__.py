"""`python -m bench`: the command line."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench.broker import rabbitmq
from bench.build import BuildError, build
from bench.check import check_clients
from bench.client import origin
from bench.process import BenchError
from bench.report import Report, tables, write
from bench.runner import Run, Runner
from bench.servers import FLOOR, NEEDS, SERVERS, Server
from bench.works import Work, reference, works


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="sidecar beside its peers: CPU, delay, loss and memory, each with its ratio to a bare send() loop.",
        epilog="example: python -m bench --quick --only sidecar --only go --work h1-1000",
    )
    names, rows = [server.name for server in SERVERS], [work.name for work in works(quick=True)]
    parser.add_argument("--quick", action="store_true", help="short windows: a look, not a measurement")
    parser.add_argument("--only", action="append", choices=names, metavar="SERVER", help=f"of: {', '.join(names)}")
    parser.add_argument("--work", action="append", choices=rows, metavar="WORK", help=f"of: {', '.join(rows)}")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="how often each server takes its turn")
    parser.add_argument("--build", action="store_true", help="only build and install everything and check the client")
    return parser.parse_args()


def _chosen(arguments: argparse.Namespace, missing: dict[str, str]) -> tuple[list[Work], list[Server]]:
    """The works and servers asked for; what a work is held against is there always, what cannot be had is not."""
    rows = [work for work in works(arguments.quick) if not arguments.work or work.name in arguments.work]
    wanted = {*map(reference, rows), *(arguments.only or [server.name for server in SERVERS])}
    return rows, [one for one in SERVERS if one.name in wanted and NEEDS.get(one.name) not in missing]


def _floors(rows: list[Work], quick: bool) -> list[Work]:
    """The works whose floor is held against what was chosen, but which were not chosen themselves."""
    chosen = {work.name for work in rows}
    return [work for work in works(quick) if work.name in {row.floor for row in rows} - chosen and work.takes(FLOOR)]


def _say(console: Console, run: Run) -> None:
    figures = "  ".join(f"{key} {value:.4g}" for key, value in list(run.figures.items())[:7])
    line = f"{run.work:11} {run.server:11} {figures or run.error}"
    console.print(line, highlight=False, markup=False, soft_wrap=True, style="dim")


def main() -> int:
    """Build, run, report. 0; 1 when a part failed to build or a server could not do its work."""
    arguments, console = _arguments(), Console()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every program started here is ended
    if not console.is_terminal:
        console = Console(width=120)
    try:
        with console.status("building and installing the parts (the first time takes a minute)"):
            missing = build()
            check_clients()
        if arguments.build:
            return 0
        rows, servers = _chosen(arguments, missing)
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as name,
            rabbitmq(Path(name)) as (port, node),
            origin(Path(name)) as (origin_port, application),
        ):
            beside = (node, application)
            runner = Runner(Path(name), port, origin_port, beside, lambda run: _say(console, run))
            runs = runner.run(rows, servers, arguments.rounds, _floors(rows, arguments.quick))
    except (BuildError, BenchError) as error:
        console.print(f"bench: {error}", style="red", highlight=False)
        return 1
    partial = bool(arguments.quick or arguments.only or arguments.work)
    report = Report(rows, servers, runs, missing, {"quick": arguments.quick, "rounds": arguments.rounds})
    console.print(tables(report))
    console.print(f"Written: {', '.join(map(str, write(report, partial)))}", highlight=False, soft_wrap=True)
    return 1 if any(run.error for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
