"""Programs in sessions of their own: started, measured from outside, and ended with all their children.

Strategy: whoever shares the session belongs to the program (workers, helpers), so cost is summed over the session and
the end is sent to the whole process group. CPU time is read from each process's own POSIX clock (nanoseconds,
`clock_getcpuclockid(3)`), memory from ``smaps_rollup`` (Pss: shared pages are counted once).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

FIRST_PORT, LAST_PORT = 10_000, 19_000

_CPU_LINE = Path("/proc/stat")
_given: set[int] = set()


class BenchError(Exception):
    """A part of the benchmark did not do what it must; one line, or a log's end."""


def free_port() -> int:
    """A port that nobody listens on now, below the range of outgoing connections, and not given out before."""
    for port in range(FIRST_PORT + os.getpid() % 5_000, LAST_PORT):
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise BenchError(f"no free port between {FIRST_PORT} and {LAST_PORT}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False


class Program:
    """One program with its children; a context manager that leaves none of them behind."""

    def __init__(
        self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path, log: Path
    ) -> None:
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def pids(self) -> list[int]:
        """Every living process of the session."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _session(pid) == self.process.pid]

    def cpu(self) -> float:
        """Seconds of CPU time so far, user and system, all processes of the session that still live."""
        return sum(map(_cpu, self.pids()))

    def memory(self) -> int:
        """Bytes now: proportional set size of all processes."""
        return sum(map(_pss, self.pids()))

    def wait_settled(self, quiet: float = 0.4, patience: float = 20.0) -> None:
        """Return once the program has used no CPU to speak of for `quiet` seconds, at most `patience` later."""
        end, before = time.monotonic() + patience, self.cpu()
        while time.monotonic() < end:
            time.sleep(quiet)
            now = self.cpu()
            if now - before < 0.01 * quiet:
                return
            before = now

    def wait_listening(self, port: int, patience: float = 20.0) -> None:
        """Return once a connection to `port` is taken. Raises `BenchError` with the log's end."""
        end = time.monotonic() + patience
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.02)
        raise BenchError(f"nothing listens on port {port}: {self.tail()}")

    def wait_logged(self, words: str, patience: float = 60.0) -> None:
        """Return once the log holds `words`. Raises `BenchError` with the log's end."""
        end = time.monotonic() + patience
        while time.monotonic() < end and self.process.poll() is None:
            if words in self.log.read_text(errors="replace"):
                return
            time.sleep(0.05)
        raise BenchError(f"not ready: {self.tail()}")

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:]) or "(its log is empty)"


def machine_cpu() -> float:
    """Seconds of CPU all programs of this machine have used (and a hypervisor has taken) since it was started."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, _CPU_LINE.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_cpu() -> float:
    """Seconds of CPU this process and its children (those that have ended) have used."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _session(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[3]) if fields[0] != "Z" else None
    return None


def _cpu(pid: int) -> float:
    with contextlib.suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)
    return 0.0


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
