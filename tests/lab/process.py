"""`sidecar` as a process: what an operator starts, reads, measures and stops.

Strategy: plain `subprocess` and a thread that reads the log, so that one process can serve a whole module of tests.
The clients are trio's; what waits here is short and is called from a worker thread where a test runs on trio.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.lab.ports import free_port

COMMAND = (sys.executable, "-m", "sidecar")
PATIENCE = 60.0
PAGE = os.sysconf("SC_PAGE_SIZE")
TICK = os.sysconf("SC_CLK_TCK")

LogLine = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What the admin listener said."""

    status: int
    headers: Mapping[str, str]
    body: str

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Log:
    """Everything a process has written; JSON lines as mappings, others as ``{"text": …}``."""

    lines: list[LogLine] = field(default_factory=list)
    ended: bool = False
    _condition: threading.Condition = field(default_factory=threading.Condition)

    def read(self, pipe: Iterator[str]) -> None:
        """The reader thread."""
        for text in pipe:
            self._append(parse_line(text.rstrip("\n")))
        with self._condition:
            self.ended = True
            self._condition.notify_all()

    def _append(self, line: LogLine) -> None:
        with self._condition:
            self.lines.append(line)
            self._condition.notify_all()

    def wait(self, wanted: Callable[[LogLine], object], timeout: float = PATIENCE) -> LogLine:
        """The first line of which this holds; AssertionError with the last lines when none came in time."""
        with self._condition:
            self._condition.wait_for(lambda: self.ended or any(map(wanted, self.lines)), timeout)
            for line in self.lines:
                if wanted(line):
                    return line
        raise AssertionError(f"no such line within {timeout} s; the last were:\n{self}")

    @property
    def text(self) -> str:
        """All of it, for a search."""
        return "\n".join(json.dumps(line) for line in self.lines)

    def __str__(self) -> str:
        return "\n".join(json.dumps(line) for line in self.lines[-30:])


def parse_line(text: str) -> LogLine:
    """One line of a log: JSON where it is, else its text."""
    with contextlib.suppress(json.JSONDecodeError):
        if isinstance(line := json.loads(text), dict):
            return line
    return {"text": text}


class Sidecar:
    """A running `sidecar`; `start` makes one for a configuration."""

    def __init__(self, arguments: list[str], admin_port: int, *, env: Mapping[str, str] | None = None) -> None:
        self.admin_port = admin_port
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            start_new_session=True,
        )
        self.log = Log()
        self._reader = threading.Thread(target=self.log.read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    # what it says

    def ask(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        """One request to the admin listener."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            fields = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, fields, response.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 where there are none yet."""
        families = text_string_to_metric_families(self.ask("/metrics").body)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def wait_answer(self, path: str, status: int, timeout: float = PATIENCE) -> Answer:
        """Ask until the answer has this status."""
        found: Answer = self.until(lambda: self._try(path, status), path, timeout)
        return found

    def wait_metric(self, name: str, value: float, timeout: float = PATIENCE, **labels: str) -> None:
        """Ask until a metric has this value."""
        self.until(lambda: self.metric(name, **labels) == value, f"{name}{labels} = {value}", timeout)

    def wait_ready(self, timeout: float = PATIENCE) -> None:
        """Return once `/readyz` says 200."""
        self.wait_answer("/readyz", 200, timeout)

    def _try(self, path: str, status: int) -> Answer | None:
        with contextlib.suppress(OSError):
            answer = self.ask(path)
            return answer if answer.status == status else None
        return None

    def until(self, condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
        """Ask until a condition holds while the process runs; returns what it gave."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := condition():
                return found
            time.sleep(0.02)  # a poll's pause, not a guess: the condition decides
        code = self.process.poll()
        raise AssertionError(f"not within {timeout} s: {what}; exit code {code}; its log:\n{self.log}")

    # what it costs

    @property
    def memory(self) -> int:
        """Resident bytes now."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    @property
    def open_files(self) -> int:
        """File descriptors open now."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    # how it ends

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its exit; returns the code. AssertionError, and a kill, when it does not come in time."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still running {timeout} s after it was told to stop; its log:\n{self.log}") from None
        self._reader.join(PATIENCE)
        return code

    def terminate(self, timeout: float = PATIENCE) -> int:
        """SIGTERM, then the exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        return self.wait(timeout)


@dataclass
class Service:
    """A `sidecar run` with its addresses."""

    sidecar: Sidecar
    config: Path
    http: tuple[str, int]
    https: tuple[str, int] | None
    unix: Path


@contextlib.contextmanager
def running(
    directory: Path,
    config: Mapping[str, Any],
    *,
    tls: Mapping[str, str] | None = None,
    publish: bool = False,
    ready: bool = True,
) -> Iterator[Service]:
    """`sidecar run` with this configuration, on listeners chosen here: plain TCP, a Unix socket, and TLS if asked.

    On the way out it gets SIGTERM and must exit with 0 within `PATIENCE`, unless it has ended already.
    """
    http, https, admin, unix = free_port(), free_port(), free_port(), directory / "sidecar.sock"
    listen: list[dict[str, Any]] = [{"bind": f"127.0.0.1:{http}"}, {"bind": f"unix:{unix}"}]
    if tls is not None:
        listen.append({"bind": f"127.0.0.1:{https}", "tls": dict(tls)})
    whole = {
        "listen": listen,
        "admin": {"bind": f"127.0.0.1:{admin}", "publish": publish},
        "drain": {"within": "1s"},
        **config,
    }
    path = directory / "sidecar.yaml"
    path.write_text(yaml.safe_dump(whole))
    sidecar = Sidecar(["run", "-c", str(path)], admin)
    secure = ("localhost", https) if tls is not None else None
    try:
        if ready:
            sidecar.wait_ready()
        yield Service(sidecar, path, ("127.0.0.1", http), secure, unix)
        left_running = sidecar.process.poll() is None
        code = sidecar.terminate()
        assert code == 0 or not left_running, f"exit code {code}; its log:\n{sidecar.log}"
    finally:
        sidecar.process.kill()
        sidecar.process.wait()


def run_command(
    *arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None, timeout: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    """One `sidecar` command to its end, its output in a pipe."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        check=False,
    )
