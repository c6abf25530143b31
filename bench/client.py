"""The compiled programs at both ends, driven and read as JSON: publisher and load client, origin and asking client.

Strategy: the load client says when its streams stand and, at its end, what each of them has seen; closing its standard
input ends it, so a crash here leaves nobody behind. Every wait has a bound.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench.build import BUILD
from bench.process import BenchError, Program, free_port
from bench.servers import Place, Server

OPEN_SECONDS = 30.0
ANSWER_SECONDS = 15.0
KEY = "orders.4711.paid"


@dataclass(frozen=True)
class Shape:
    """How many streams, and in what: `connections` × `streams` each (HTTP/1.1 has one)."""

    connections: int
    streams: int = 1
    burst: int = 200  # connections being opened at once at most

    @property
    def total(self) -> int:
        """All streams."""
        return self.connections * self.streams


class Load:
    """A running load client; a context manager."""

    def __init__(self, place: Place, shape: Shape, *, count: int = 0, path: str = "/events") -> None:
        h2 = ["--h2", "--streams", str(shape.streams)] if place.protocol.startswith("h2") else []
        tls = ["--tls"] if place.tls else []
        command = [BUILD / "load", "--port", place.port, "--path", path, "--connections", shape.connections]
        numbers = ["--count", count, "--timeout", 600, "--burst", shape.burst * shape.streams]
        self._shape = shape
        self._process = subprocess.Popen(
            [*map(str, command), *map(str, numbers), *h2, *tls],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # so that reading its first line does not swallow the second
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def opened(self) -> dict[str, Any]:
        """Wait until all streams are open; how long that took. Raises `BenchError` when not all of them are."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], OPEN_SECONDS)
        found = json.loads(self._process.stdout.readline() or b"{}") if ready else {}
        if found.get("opened") != self._shape.total:
            self._process.kill()
            errors = self._process.communicate()[1]
            raise BenchError(
                f"{found.get('opened', 0)} of {self._shape.total} streams opened: {errors.decode()[-400:].strip()}"
            )
        return dict(found)

    def result(self, patience: float) -> dict[str, Any]:
        """What came, once every stream has everything or `patience` seconds later."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        try:
            output = self._process.communicate(timeout=10)[0]  # closes its input: it reports and ends
            return dict(json.loads(output.splitlines()[-1]))
        except (subprocess.TimeoutExpired, IndexError, json.JSONDecodeError):
            raise BenchError("the load client did not report") from None


class Publisher:
    """A running publisher of `count` messages at `rate` a second (0: as fast as they are taken)."""

    def __init__(self, server: Server, place: Place, count: int, rate: float, key: str = KEY) -> None:
        http = server.fed_by == "http"
        where = ("http", place.side_port, "/publish") if http else ("amqp", place.rabbit_port, key)
        self._process = subprocess.Popen(
            [str(part) for part in (BUILD / "publish", *where, count, rate)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait(self, patience: float) -> dict[str, Any] | None:
        """Its figures; None when it is still held up after `patience` seconds. Raises `BenchError` if it failed."""
        try:
            output, errors = self._process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            return None
        if self._process.returncode:
            raise BenchError(errors.strip() or "the publisher failed")
        return dict(json.loads(output))


@contextlib.contextmanager
def streams(
    place: Place, shape: Shape, *, count: int = 0, path: str = "/events"
) -> Iterator[tuple[Load, dict[str, Any]]]:
    """Open streams; yields the load client and what opening was like."""
    with Load(place, shape, count=count, path=path) as load:
        opened = load.opened()
        time.sleep(0.2)  # a server may answer a moment before it listens to its broker for the new stream
        yield load, opened


@contextlib.contextmanager
def origin(directory: Path) -> Iterator[tuple[int, Program]]:
    """The application behind the proxies; yields its port and the running program."""
    port = free_port()
    with Program([BUILD / "origin", str(port)], cwd=directory, log=directory / "origin.log") as program:
        program.wait_listening(port)
        yield port, program


def ask(port: int, connections: int, seconds: float) -> dict[str, Any]:
    """Ask for so long on so many connections; what the answers were like. Raises `BenchError`."""
    numbers = {"port": port, "connections": connections, "seconds": seconds}
    command = [str(BUILD / "ask"), *(str(part) for name, value in numbers.items() for part in (f"--{name}", value))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds + ANSWER_SECONDS, check=False
        )
        return {**json.loads(done.stdout), "said": done.stderr.strip()}
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        raise BenchError("the asking client did not report") from None
