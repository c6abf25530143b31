"""The works: what the servers are made to do, and which figures come out of each.

Strategy: a work is data plus one method, `measure`, which gets a fresh, warm server and returns numbers; the runner
decides the order. CPU is the server's alone, from just before the first message (or the first connection) until the
last byte has been seen or the bound was reached. A server that falls behind is cut off at the bound: what has not come
by then is `missing`, what was skipped in a stream's numbers is `lost`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from bench.broker import evaluate
from bench.build import HERE
from bench.client import Publisher, Shape, ask, streams
from bench.process import BenchError, Program, free_port
from bench.servers import FLOOR, NGINX, PROXY, REPLAYED, Place, Server

LATE_SECONDS = 2.0

Figures = dict[str, float]


@dataclass(frozen=True)
class Column:
    """One figure of a work: its key in the JSON, its head in the table, whether its ratio to the floor is shown."""

    key: str
    head: str
    digits: int = 2
    ratio: bool = False


class Work(Protocol):
    """What the runner and the report need of a work."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def protocol(self) -> str: ...
    @property
    def floor(self) -> str:
        """The work whose floor this one's figures are held against."""

    @property
    def columns(self) -> tuple[Column, ...]: ...
    def takes(self, server: Server) -> bool: ...
    def measure(self, server: Server, place: Place, program: Program) -> Figures: ...


def reference(work: Work) -> str:
    """The server that the others' figures are held against: the floor, unless the work says which (`against`)."""
    return getattr(work, "against", FLOOR.name)


CPU_EVENT = Column("cpu_us_per_event", "CPU µs/event", 2, ratio=True)
MEDIAN = Column("delay_ms_median", "median ms", 2, ratio=True)
P99 = Column("delay_ms_p99", "p99 ms", 2, ratio=True)
LOST = Column("not_delivered", "lost or late", 0)


def _delivered(load: dict[str, Any], cpu: float, began_ns: int) -> Figures:
    """The figures every work with events has."""
    if load["torn"] or load["duplicated"] or load["out_of_order"]:
        wrong = {key: load[key] for key in ("torn", "duplicated", "out_of_order")}
        raise AssertionError(f"events arrived that are not what was published: {wrong}")
    events = max(load["events"], 1)
    seconds = max(load["last_ns"] - began_ns, 1) / 1e9
    return {
        "events": load["events"],
        "events_per_second": load["events"] / seconds,
        "cpu_seconds": cpu,
        "cpu_us_per_event": cpu / events * 1e6,
        "delay_ms_median": load["delay_ms"]["median"],
        "delay_ms_p99": load["delay_ms"]["p99"],
        "delay_ms_max": load["delay_ms"]["max"],
        "lost": load["lost"],
        "missing": load["missing"],
        "not_delivered": load["lost"] + load["missing"],
        "closed": load["closed"],
        "client_busy": load["client_cpu"] / seconds,
    }


@dataclass(frozen=True)
class FanOut:
    """Every stream gets every message of an even beat."""

    name: str
    title: str
    protocol: str
    shape: Shape
    rate: float
    seconds: float
    floor: str
    columns: tuple[Column, ...] = (CPU_EVENT, MEDIAN, P99, LOST)

    def takes(self, server: Server) -> bool:
        """Whoever speaks the protocol."""
        return self.protocol in server.protocols and server.name != "floor-join"

    def measure(self, server: Server, place: Place, program: Program) -> Figures:
        """One run."""
        count = int(self.rate * self.seconds)
        with streams(place, self.shape, count=count) as (load, _):
            before = program.cpu()
            with Publisher(server, place, count, self.rate) as publisher:
                published = publisher.wait(self.seconds + LATE_SECONDS)
                result = load.result(LATE_SECONDS)
            used = program.cpu() - before
        figures = _delivered(result, used, result["first_ns"])
        return {**figures, "published_late_ms": published["latest_ms"] if published else -1.0}


@dataclass(frozen=True)
class Flood:
    """As fast as it will go: all messages published at once; the rate is from the first arrival to the last."""

    name: str
    title: str
    protocol: str
    shape: Shape
    count: int
    seconds: float  # at most
    floor: str
    columns: tuple[Column, ...] = (
        Column("events_per_second", "events/s", 0, ratio=True),
        CPU_EVENT,
        Column("not_delivered", "lost or late", 0),
    )

    def takes(self, server: Server) -> bool:
        """Whoever speaks the protocol."""
        return self.protocol in server.protocols

    def measure(self, server: Server, place: Place, program: Program) -> Figures:
        """One run."""
        with streams(place, self.shape, count=self.count) as (load, _):
            before, end = program.cpu(), time.monotonic() + self.seconds
            with Publisher(server, place, self.count, 0) as publisher:
                result = load.result(end - time.monotonic())
                used = program.cpu() - before
                published = publisher.wait(0.1)
        figures = _delivered(result, used, result["first_ns"])
        waited = published["seconds"] if published else -1.0
        return {**figures, "messages": self.count, "published_seconds": waited}


@dataclass(frozen=True)
class HandedOver(Flood):
    """A flood to a single stream: what the broker hands over at most, whoever takes it."""

    def takes(self, server: Server) -> bool:
        """Whoever consumes from RabbitMQ."""
        return super().takes(server) and server.fed_by == "amqp"


@dataclass(frozen=True)
class Nobody:
    """Messages are consumed and matched, and no stream wants them."""

    name: str
    title: str
    count: int
    floor: str
    protocol: str = "h1"
    columns: tuple[Column, ...] = (Column("cpu_us_per_message", "CPU µs/message", 2, ratio=True),)

    def takes(self, server: Server) -> bool:
        """Whoever consumes from RabbitMQ, or takes what is published without a reader."""
        return self.protocol in server.protocols and server.name != "floor-join"

    def measure(self, server: Server, place: Place, program: Program) -> Figures:
        """One run; a server that consumes only for open streams gets one that nothing reaches."""
        if server.nobody_path is None:
            return self._consume(server, place, program)
        with streams(place, Shape(1), path=server.nobody_path) as (load, _):
            figures = self._consume(server, place, program)
            events = load.result(0)["events"]
        if events:
            raise AssertionError(f"{events} events reached a stream that wants none")
        return figures

    def _consume(self, server: Server, place: Place, program: Program) -> Figures:
        before = program.cpu()
        with Publisher(server, place, self.count, 0) as publisher:
            publisher.wait(30)
        program.wait_settled()
        used = program.cpu() - before
        return {"cpu_seconds": used, "cpu_us_per_message": used / self.count * 1e6}


@dataclass(frozen=True)
class Opening:
    """A thousand clients at once, a few times: CPU for each stream opened, and how long until the last is open."""

    name: str
    title: str
    protocol: str
    shape: Shape
    times: int
    floor: str
    columns: tuple[Column, ...] = (
        Column("cpu_ms_per_stream", "CPU ms/stream", 3, ratio=True),
        Column("open_seconds", "all open after s", 2),
    )

    def takes(self, server: Server) -> bool:
        """Whoever speaks the protocol."""
        return self.protocol in server.protocols and server.name != "floor-join"

    def measure(self, server: Server, place: Place, program: Program) -> Figures:
        """The median of all times."""
        rounds = [self._once(place, program) for _ in range(self.times)]
        return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}

    def _once(self, place: Place, program: Program) -> Figures:
        program.wait_settled(0.2)
        before = program.cpu()
        with streams(place, self.shape) as (_, opened):
            used = program.cpu() - before
        return {"cpu_ms_per_stream": used / self.shape.total * 1e3, "open_seconds": opened["seconds"]}


@dataclass(frozen=True)
class Memory:
    """What an open stream that hears nothing keeps in memory: proportional set size, without the kernel's part.

    A first half of as many streams is open already when the count begins: it has filled what the warm-up left free.
    """

    name: str
    title: str
    protocol: str
    shape: Shape
    floor: str
    columns: tuple[Column, ...] = (Column("kb_per_stream", "KB/stream", 1),)

    def takes(self, server: Server) -> bool:
        """Whoever speaks the protocol."""
        return self.protocol in server.protocols and server.name != "floor-join"

    def measure(self, server: Server, place: Place, program: Program) -> Figures:
        """One run."""
        half = Shape(self.shape.connections // 2, self.shape.streams)
        with streams(place, half):
            program.wait_settled(0.3)
            before = program.memory()
            with streams(place, self.shape):
                program.wait_settled(0.3)
                used = program.memory() - before
        return {"kb_per_stream": used / self.shape.total / 1024, "mb_before": before / 1024**2}


@dataclass(frozen=True)
class Heartbeats:
    """Many idle streams and a heartbeat each 15 s; all servers side by side, since each of them sleeps.

    The comments prove the heartbeats; the one that opens a stream is among them where a server sends it.
    """

    name: str
    title: str
    protocol: str
    shape: Shape
    seconds: float
    floor: str
    side_by_side: bool = field(default=True)
    columns: tuple[Column, ...] = (
        Column("core_percent", "% of a core", 2, ratio=True),
        Column("comments", "comments", 0),
    )

    def takes(self, server: Server) -> bool:
        """Whoever speaks the protocol."""
        return self.protocol in server.protocols and server.name != "floor-join"

    def measure(self, server: Server, place: Place, program: Program) -> Figures:
        """One run: `seconds` of doing nothing else."""
        with streams(place, self.shape) as (load, _):
            time.sleep(3)  # what opening left behind
            before, began = program.cpu(), time.monotonic()
            time.sleep(self.seconds)
            used, took = program.cpu() - before, time.monotonic() - began
            result = load.result(0)
        return {"core_percent": used / took * 100, "comments": result["comments"], "closed": result["closed"]}


@dataclass(frozen=True)
class Matching:
    """What the hub does with a message, in a process of its own: `bench.micro`."""

    name: str
    title: str
    floor: str
    protocol: str = "h1"
    columns: tuple[Column, ...] = (
        Column("few_us", "10 keys µs", 2),
        Column("many_us", "100 000 keys µs", 2),
        Column("few_fresh_us", "10, new routing keys", 2),
        Column("many_fresh_us", "100 000, new", 2),
        Column("cost_ratio", "worse ratio", 2),
        Column("few_match_us", "match alone: 10, new", 2),
        Column("many_match_us", "100 000, new", 2),
    )

    def takes(self, server: Server) -> bool:
        """The sidecar alone."""
        return server.name == "sidecar"

    def measure(self, server: Server, place: Place, program: Program) -> Figures:
        """One run."""
        command = [sys.executable, "-m", "bench.micro"]
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise BenchError(done.stderr)
        return dict(json.loads(done.stdout))


READERS = "{rabbit_stream_queue, consume, 3}"
COUNT_READERS = f"erlang:trace_pattern({READERS}, true, [call_count]), ok."
READERS_SINCE = f"element(2, erlang:trace_info({READERS}, call_count))."


@dataclass(frozen=True)
class Comeback:
    """Clients that are all back at once, some events behind, at a process that has none of these in memory.

    Beside them as many fresh ones. Their place is an id that another process has given out.
    """

    name: str
    title: str
    shape: Shape
    behind: int
    seconds: float  # at most
    floor: str
    protocol: str = "h1"
    columns: tuple[Column, ...] = (
        Column("cpu_ms_per_fresh_stream", "CPU ms/fresh stream", 3),
        Column("cpu_ms_per_stream", "CPU ms/stream back", 3),
        Column("cpu_us_per_event", "CPU µs/event", 2),
        Column("caught_up_seconds", "all caught up after s", 2),
        Column("readers", "readers of the broker", 0),
        LOST,
    )

    def takes(self, server: Server) -> bool:
        """The sidecar alone: the others' clients have missed what they have missed."""
        return server.name == "sidecar"

    def measure(self, server: Server, place: Place, program: Program) -> Figures:
        """One run."""
        path = f"/replay?last_event_id={_place_from_another(server, place)}"
        with Publisher(server, place, self.behind, 1000, REPLAYED) as publisher:
            publisher.wait(30)
        evaluate(place.directory.parent, COUNT_READERS)
        before = program.cpu()
        with streams(place, self.shape, path="/replay"):
            fresh = program.cpu() - before
        program.wait_settled(0.2)
        before, began = program.cpu(), time.monotonic_ns()
        with streams(place, self.shape, count=self.behind, path=path) as (load, _):
            result = load.result(self.seconds)
            used = program.cpu() - before
        return {
            **_delivered(result, used, began),
            "cpu_ms_per_fresh_stream": fresh / self.shape.total * 1e3,
            "cpu_ms_per_stream": used / self.shape.total * 1e3,
            "caught_up_seconds": (result["last_ns"] - began) / 1e9,
            "readers": float(evaluate(place.directory.parent, READERS_SINCE)),
        }


def _place_from_another(server: Server, place: Place) -> str:
    """The present of the stream, as a process says it that ends thereafter."""
    directory = place.directory / "another"
    directory.mkdir()
    another = replace(place, directory=directory, port=free_port(), side_port=free_port())
    with Program(server.start(another).command, cwd=directory, log=directory / "log") as program:
        program.wait_listening(another.port)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", another.port, timeout=10)) as connection:
                connection.request("GET", "/replay", headers={"Accept": "text/event-stream"})
                for line in connection.getresponse():
                    if line.startswith(b"id: "):
                        return line[4:].decode().strip()
        raise BenchError(f"the stream names no place: {program.tail()}")


@dataclass(frozen=True)
class Proxied:
    """Small requests that no route takes, each sent when the one before it was answered, on kept connections.

    The origin behind is asked in the same way, for the rate at which the two ends would be what is measured.
    """

    name: str
    title: str
    connections: int
    seconds: float
    floor: str
    protocol: str = PROXY
    against: str = NGINX.name
    columns: tuple[Column, ...] = (
        Column("cpu_us_per_request", "CPU µs/request", 1, ratio=True),
        Column("requests_per_second", "requests/s", 0, ratio=True),
        MEDIAN,
        P99,
    )

    def takes(self, server: Server) -> bool:
        """Whoever passes requests on, and the origin."""
        return self.protocol in server.protocols

    def measure(self, server: Server, place: Place, program: Program) -> Figures:
        """One run; every answer must be the right one."""
        before = program.cpu()
        asked = ask(place.port, self.connections, self.seconds)
        used = program.cpu() - before
        if wrong := {key: asked[key] for key in ("wrong", "broken", "unanswered") if asked[key]}:
            raise AssertionError(f"requests without their answer: {wrong} {asked['said']}")
        return {
            "requests": asked["answers"],
            "requests_per_second": asked["answers"] / asked["seconds"],
            "cpu_seconds": used,
            "cpu_us_per_request": used / asked["answers"] * 1e6,
            "delay_ms_median": asked["delay_ms"]["median"],
            "delay_ms_p99": asked["delay_ms"]["p99"],
            "delay_ms_max": asked["delay_ms"]["max"],
            "client_busy": asked["client_cpu"] / asked["seconds"],
        }


def works(quick: bool) -> list[Work]:
    """All works, in the order of the table; `quick` shortens them for a look at one change."""
    seconds = 1.5 if quick else 4.0
    wide, narrow, single, h2 = Shape(1000), Shape(100), Shape(1), Shape(10, 100)
    flood_seconds = 4.0 if quick else 8.0
    h1_flood, h2_flood = (10_000, 2_000) if quick else (40_000, 8_000)
    return [
        FanOut("h1-1000", "HTTP/1.1, 1000 streams × 100/s", "h1", wide, 100, seconds, "h1-1000"),
        FanOut("h1-100", "HTTP/1.1, 100 streams × 1000/s", "h1", narrow, 1000, seconds, "h1-100"),
        FanOut("h2", "HTTP/2, 10 × 100 streams × 100/s", "h2", h2, 100, seconds, "h1-1000"),
        FanOut("h1-tls", "HTTP/1.1 over TLS, 1000 streams × 100/s", "h1s", wide, 100, seconds, "h1-1000"),
        FanOut("h2-tls", "HTTP/2 over TLS, 10 × 100 streams × 100/s", "h2s", h2, 100, seconds, "h1-1000"),
        Flood(
            "h1-flood", "as fast as it goes, 100 HTTP/1.1 streams", "h1", narrow, h1_flood, flood_seconds, "h1-flood"
        ),
        HandedOver("handed-over", "the same, one stream", "h1", single, h1_flood, flood_seconds, "handed-over"),
        Flood("h2-flood", "as fast as it goes, 10 × 100 HTTP/2 streams", "h2", h2, h2_flood, flood_seconds, "h1-flood"),
        Nobody("nobody", "messages nobody listens to", 10_000 if quick else 40_000, "nobody"),
        Matching("match", "a message that one of 10 or 100 000 binding keys meets, in process", "match"),
        Opening("opening", "opening 1000 HTTP/1.1 streams at once", "h1", Shape(1000, burst=1000), 3, "opening"),
        Proxied("proxy", "small requests to the application behind, 16 connections", 16, seconds, "proxy"),
        Comeback("comeback", "1000 HTTP/1.1 streams back at once, 500 events behind", wide, 500, 20.0, "comeback"),
        Memory("memory-h1", "idle HTTP/1.1 streams", "h1", wide, "memory-h1"),
        Memory("memory-h2", "idle HTTP/2 streams, 10 × 100", "h2", h2, "memory-h1"),
        Heartbeats(
            "heartbeats", "5000 idle streams, heartbeat 15 s", "h1", Shape(5000), 15 if quick else 30, "heartbeats"
        ),
    ]
