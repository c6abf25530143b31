"""The run: who does what when, and what the noise was.

Strategy: work by work, the servers take turns, each in a fresh process that has been warmed up by a little traffic; in
every round the order is turned by one. Whom the others are held against, mostly the floor, runs first and last in each
work's turn: the distance between its runs is what the machine's noise was worth there. Figures are medians over the
rounds.
"""

from __future__ import annotations

import contextlib
import http.client
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench.client import Publisher, Shape, ask, streams
from bench.process import BenchError, Program, free_port, machine_cpu, own_cpu
from bench.servers import FLOOR, PROXY, Place, Server
from bench.works import Figures, Work, reference

WARM_UP = 300
WARM_UP_SECONDS = 0.3
READY_SECONDS = 20.0


@dataclass(frozen=True)
class Run:
    """One server's run of one work: figures, or why there are none."""

    work: str
    server: str
    figures: Figures
    error: str | None = None


@dataclass
class Runner:
    """Runs works over servers; `said` hears each result as it comes."""

    directory: Path
    rabbit_port: int
    origin_port: int
    beside: Sequence[Program]  # what the servers work with; their CPU is the benchmark's own
    said: Callable[[Run], None]
    runs: list[Run] = field(default_factory=list)

    def run(
        self, works: Sequence[Work], servers: Sequence[Server], rounds: int, floors: Sequence[Work] = ()
    ) -> list[Run]:
        """All of it, `floors` by the floor alone; returns every single run."""
        for turn in range(rounds):
            for work in [*floors, *works]:
                takers = [FLOOR] if work in floors else [server for server in servers if work.takes(server)]
                if getattr(work, "side_by_side", False):
                    self._side_by_side(work, takers)
                else:
                    self._in_turn(work, _order(takers, turn, reference(work)))
        return self.runs

    def _in_turn(self, work: Work, servers: Sequence[Server]) -> None:
        for server in servers:
            self._note(self._try(work, server))

    def _side_by_side(self, work: Work, servers: Sequence[Server]) -> None:
        """All at once; they are started and warmed up one by one, since they hear the same exchange."""
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(max(len(servers), 1)) as pool:
            started = [
                (server, *standing) for server in servers if (standing := self._enter(stack, work, server)) is not None
            ]
            for run in pool.map(lambda one: _measured(work, *one), started):
                self._note(run)

    def _enter(self, stack: contextlib.ExitStack, work: Work, server: Server) -> tuple[Place, Program] | None:
        try:
            return stack.enter_context(self._server(server, work.protocol))
        except BenchError as error:
            self._note(Run(work.name, server.name, {}, str(error)))
            return None

    def _note(self, run: Run) -> None:
        self.runs.append(run)
        self.said(run)

    def _try(self, work: Work, server: Server) -> Run:
        try:
            with self._server(server, work.protocol) as (place, program):
                return self._measured_alone(work, server, place, program)
        except BenchError as error:
            return Run(work.name, server.name, {}, str(error))

    def _measured_alone(self, work: Work, server: Server, place: Place, program: Program) -> Run:
        """A run, and how much CPU all that is no part of it took meanwhile, in cores."""
        began, machine, ours = time.monotonic(), machine_cpu(), self._ours(program)
        run = _measured(work, server, place, program)
        others = machine_cpu() - machine - (self._ours(program) - ours)
        if run.figures:
            run.figures["others_cores"] = max(others, 0.0) / (time.monotonic() - began)
        return run

    def _ours(self, program: Program) -> float:
        return own_cpu() + sum(one.cpu() for one in (program, *self.beside))

    @contextlib.contextmanager
    def _server(self, server: Server, protocol: str) -> Iterator[tuple[Place, Program]]:
        port, side_port = free_port(), free_port()
        directory = self.directory / f"{server.name}-{port}"
        directory.mkdir()
        place = Place(directory, protocol, port, side_port, self.rabbit_port, self.origin_port)
        start = server.start(place)
        with Program(start.command, env=start.env, cwd=directory, log=directory / "log") as program:
            program.wait_listening(port, READY_SECONDS)
            if start.ready:
                _wait_ready(program, side_port, start.ready)
            try:
                _warm_up(server, place)
            except BenchError as error:
                raise BenchError(f"in the warm-up: {error}; its log: {program.tail()}") from None
            yield place, program


def _measured(work: Work, server: Server, place: Place, program: Program) -> Run:
    try:
        return Run(work.name, server.name, work.measure(server, place, program))
    except (BenchError, AssertionError) as error:
        return Run(work.name, server.name, {}, str(error))


def _order(servers: Sequence[Server], turn: int, first: str) -> list[Server]:
    """The named one first and last, the others turned by one each round."""
    others = [server for server in servers if server.name != first]
    cut = turn % max(len(others), 1)
    ends = [server for server in servers if server.name == first]
    return [*ends, *others[cut:], *others[:cut], *ends]


def _wait_ready(program: Program, port: int, path: str) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and program.process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise BenchError(f"{path} did not answer 200: {program.tail()}")


def _warm_up(server: Server, place: Place) -> None:
    """A little traffic: every code path and just-in-time compiler has run once, and it does work."""
    if place.protocol == PROXY:
        _ask_a_little(place)
    else:
        _publish_a_little(server, place)


def _ask_a_little(place: Place) -> None:
    asked = ask(place.port, 20, WARM_UP_SECONDS)
    if not asked["answers"] or asked["wrong"] or asked["broken"] or asked["unanswered"]:
        raise BenchError(f"requests without their answer: {asked}")


def _publish_a_little(server: Server, place: Place) -> None:
    shape = Shape(2, 10) if place.protocol.startswith("h2") else Shape(20)
    with streams(place, shape, count=WARM_UP) as (load, _), Publisher(server, place, WARM_UP, 3000) as publisher:
        publisher.wait(10)
        result = load.result(5)
    if result["missing"] or result["lost"]:
        missed = result["missing"] + result["lost"]
        raise BenchError(f"{missed} of {WARM_UP * 20} events missing")


def medians(runs: Sequence[Run]) -> dict[tuple[str, str], Figures]:
    """The figures of each (work, server): medians over its runs that have any."""
    grouped: dict[tuple[str, str], list[Figures]] = {}
    for run in runs:
        if run.figures:
            grouped.setdefault((run.work, run.server), []).append(run.figures)
    return {
        key: {name: statistics.median(figures[name] for figures in found) for name in found[0]}
        for key, found in grouped.items()
    }


def noise(runs: Sequence[Run], works: Sequence[Work], key: str) -> dict[str, float]:
    """For each work whose reference ran more than once: (largest - smallest) / median of one of its figures."""
    grouped: dict[str, list[float]] = {}
    references = {work.name: reference(work) for work in works}
    for run in runs:
        if run.server == references.get(run.work, FLOOR.name) and key in run.figures:
            grouped.setdefault(run.work, []).append(run.figures[key])
    return {
        work: (max(found) - min(found)) / statistics.median(found)
        for work, found in grouped.items()
        if len(found) > 1 and statistics.median(found) > 0
    }
