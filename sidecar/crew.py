"""The other workers of a service: processes that serve beside the first one, as if all were one.

Strategy: the first worker holds the listeners and the admin page, and serves like any other. Each connection it
accepts goes to the worker that has the fewest, as a file descriptor: 30 µs, where opening a stream takes 750. (With
shared listening sockets, 400 clients that came one by one were 53 to 130 on four workers, and event streams stay for
hours where they came in. SO_REUSEPORT loses what waits at a worker that ends, and lets a second sidecar take the same
port without a word.)

A worker tells twice a second what it has counted and how many connections it has. One that ends is logged, what it had
counted is kept, and it is started again, after a pause that doubles while it ends soon. One that says nothing for
`SILENT_FOR` is ended. All workers end with the first: they see its end of the channel closed.
"""

from __future__ import annotations

import base64
import itertools
import math
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import structlog
import trio

from sidecar.channel import Channel, Message, carriers, hand_over
from sidecar.config.model import Config
from sidecar.observe.metrics import Counts, Metrics
from sidecar.observe.reasons import CloseReason, ResetReason

SILENT_FOR: Final = 30.0
"""Seconds without a word after which a worker is ended."""
TAKE_WITHIN: Final = 20.0
"""Seconds in which a worker must have taken another configuration."""
LEAVE_WITHIN: Final = 3.0
"""Seconds in which a worker must have ended when the first one does; then it is killed."""
DRAIN_MARGIN: Final = 10.0
"""Seconds beyond ``drain.within`` that a worker may need."""
PAUSE: Final = (0.5, 30.0)
"""Seconds before a worker is started again: the first pause, and the longest."""
SETTLED_AFTER: Final = 60.0
"""Seconds a worker must have lived for the pauses to begin anew."""

Rank: TypeAlias = tuple[bool, int]
"""Whether a worker has a reason not to be ready, and how many connections it has."""

_CLOSE: Final = {reason.value: reason for reason in CloseReason}
_RESET: Final = {reason.value: reason for reason in ResetReason}

_log = structlog.get_logger("sidecar.workers")


def processors(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """How many processors this process may use; a container's ``limit`` (cgroup v2) counts, rounded up."""
    usable = len(os.sched_getaffinity(0))
    try:
        quota, period = limit.read_text().split()
    except (OSError, ValueError):
        return usable
    return usable if quota == "max" else max(1, min(usable, math.ceil(int(quota) / int(period))))


class Member:
    """One other worker, as the first one sees it."""

    def __init__(self, number: int, process: trio.Process, channel: Channel, carrier: socket.socket) -> None:
        self.number = number
        self.process = process
        self.started = False
        self.not_ready: str | None = None
        """Why it wants no streams; None while it does."""
        self.counts: dict[str, Any] = {"broker_reconnects": 0, "upstream_requests": {}, "routes": {}}
        self.subscriptions: Mapping[str, int] = {}
        self._channel = channel
        self._carrier = carrier
        self._handed = self._taken = self._open = 0
        self._asked = itertools.count()
        self._answers: dict[int, Answer] = {}

    def __repr__(self) -> str:
        return f"<Member {self.number} process {self.process.pid}, {self.load} connections>"

    @classmethod
    async def start(cls, number: int, config: Config) -> Member:
        """Start its process and give it the configuration."""
        (ours, theirs), (carrier, taken) = socket.socketpair(), carriers()
        with theirs, taken:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-P", "-m", "sidecar.worker", str(theirs.fileno()), str(taken.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), taken.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        member = cls(number, process, Channel(ours), carrier)
        await member._send({"do": "serve", "number": number, "config": packed(config)})
        return member

    @property
    def load(self) -> int:
        """Connections it has, with those on their way to it."""
        return self._open + self._handed - self._taken

    @property
    def rank(self) -> Rank:
        """Where it stands among those that may get a connection; the least gets it."""
        return self.not_ready is not None, self.load

    def hand_over(self, door: str, sock: socket.socket) -> bool:
        """Give it a connection; False where it takes none now."""
        handed = self.started and hand_over(self._carrier, door, sock)
        self._handed += handed
        return handed

    async def listen(self, heard: Callable[[Member, Message], None]) -> None:
        """Hear what it tells, until it ends or says nothing any more."""
        while True:
            with trio.move_on_after(SILENT_FOR) as silence:
                message = await self._channel.receive()
            if silence.cancelled_caught:
                _log.error("a worker says nothing", worker=self.number, seconds=SILENT_FOR)
                return
            if message is None:
                return
            self._hear(message, heard)

    def _hear(self, message: Message, heard: Callable[[Member, Message], None]) -> None:
        if "done" in message:
            self._answers.pop(message["done"]).give(message["problem"])
            return
        if not self.started:
            _log.info("a worker serves", worker=self.number, process=self.process.pid)
        self.started = True
        self._open, self._taken = message["open"], message["taken"]
        self.not_ready = message["not_ready"]
        heard(self, message)

    async def ask(self, do: str, **facts: Any) -> str | None:
        """Ask it to do something; returns the problem it had with that, or None. The caller holds the timeout."""
        number = next(self._asked)  # the same may be asked twice: by a preStop hook, and then by a signal
        answer = self._answers[number] = Answer()
        await self._send({"do": do, "asked": number, **facts})
        return await answer.wait()

    async def _send(self, message: Message) -> None:
        try:
            await self._channel.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has ended, and whoever listens sees that

    async def leave(self) -> None:
        """Let it end, and wait; kill it where it does not."""
        self._channel.close()
        self._carrier.close()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(LEAVE_WITHIN):
                await self.process.wait()
            self.process.kill()
            await self.process.wait()
        for answer in self._answers.values():
            answer.give("it has ended")


class Answer:
    """What a worker will answer."""

    def __init__(self) -> None:
        self._given = trio.Event()
        self._problem: str | None = None

    def give(self, problem: str | None) -> None:
        """Take the answer."""
        self._problem = problem
        self._given.set()

    async def wait(self) -> str | None:
        """Return what was given."""
        await self._given.wait()
        return self._problem


class Crew:
    """All other workers; none where there is one only."""

    def __init__(self, config: Config, metrics: Metrics) -> None:
        """Starts nothing yet. The members' counts are added to those of ``metrics``."""
        self._count = (processors() if config.workers == "auto" else config.workers) - 1
        self._config = config
        self._metrics = metrics
        self._members: dict[int, Member] = {}
        self._coming = set(range(2, self._count + 2))
        self._leaving = False
        metrics.others = self._counts

    def __repr__(self) -> str:
        return f"<Crew {list(self._members.values())}>"

    async def run(self) -> None:
        """Keep all members running, until cancelled; then end them."""
        async with trio.open_nursery() as nursery:
            for number in tuple(self._coming):
                nursery.start_soon(self._keep, number)

    async def _keep(self, number: int) -> None:
        pause = PAUSE[0]
        while True:
            began = trio.current_time()
            code = None if self._leaving else await self._live(number)
            if self._leaving:
                return
            pause = PAUSE[0] if trio.current_time() - began > SETTLED_AFTER else pause
            _log.error("a worker has ended", worker=number, code=code, again_in=pause)
            self._metrics.worker_restarts += 1
            await trio.sleep(pause)
            pause = min(2 * pause, PAUSE[1])

    async def _live(self, number: int) -> int | None:
        """One process's life; returns its exit code, None where it could not be started."""
        try:
            started = await Member.start(number, self._config)
        except OSError as error:
            _log.error("cannot start a worker", worker=number, problem=str(error))
            return None
        with self._member(started) as member:
            try:
                await member.listen(self._heard)
            finally:
                await member.leave()
        return member.process.returncode

    @contextmanager
    def _member(self, member: Member) -> Iterator[Member]:
        self._members[member.number] = member
        try:
            yield member
        finally:
            del self._members[member.number]
            self._metrics.add(member.counts, gauges=False)

    def _heard(self, member: Member, message: Message) -> None:
        self._coming.discard(member.number)
        self._note_resets(member, message["counts"])
        known = member.counts["routes"]
        member.counts = {**message["counts"], "routes": {**known, **message["counts"]["routes"]}}
        member.subscriptions = message["subscriptions"]
        for path, reason, client, seconds, events in message["closed"]:
            self._metrics.recent.closed(path, _CLOSE[reason], client, seconds, events)

    def _note_resets(self, member: Member, counts: Counts) -> None:
        for path, numbers in counts["routes"].items():
            before = member.counts["routes"].get(path, {}).get("resets", {})
            for reason, count in numbers["resets"].items():
                if count > before.get(reason, 0):
                    self._metrics.recent.reset(path, _RESET[reason], count - before.get(reason, 0))

    def _counts(self) -> Collection[Counts]:
        return [member.counts for member in self._members.values() if member.started]

    # ------------------------------------------------------------------ what the service asks

    def hand_over(self, door: str, sock: socket.socket, *, before: Rank) -> bool:
        """Give a connection to the first member by rank; False where none comes ``before``, or takes it."""
        for member in sorted(self._members.values(), key=lambda member: member.rank):
            if member.rank >= before:
                return False
            if member.hand_over(door, sock):
                return True
        return False

    def not_ready(self) -> str | None:
        """Why one of those that live wants no streams; None where all do."""
        if self._coming:
            return f"worker {min(self._coming)} is starting"
        told = ((member.number, member.not_ready) for member in self._members.values() if member.started)
        return next((f"worker {number}: {problem}" for number, problem in told if problem is not None), None)

    def subscriptions(self, path: str) -> int:
        """How many subscriptions the members hold for a route."""
        return sum(member.subscriptions.get(path, 0) for member in self._members.values())

    async def apply(self, config: Config) -> None:
        """Let every member take another configuration; one that cannot is started anew with it."""
        self._config = config
        async with trio.open_nursery() as nursery:
            for member in tuple(self._members.values()):
                nursery.start_soon(self._apply, member, config)

    async def _apply(self, member: Member, config: Config) -> None:
        problem: str | None = "it does not answer"
        with trio.move_on_after(TAKE_WITHIN):
            problem = await member.ask("apply", config=packed(config))
        if problem is not None:
            _log.error("a worker could not take the configuration", worker=member.number, problem=problem)
            member.process.kill()

    async def drain(self, within: float) -> None:
        """Let all members drain; return when the last has. None is started again."""
        self._leaving = True
        with trio.move_on_after(within + DRAIN_MARGIN):
            async with trio.open_nursery() as nursery:
                for member in tuple(self._members.values()):
                    nursery.start_soon(member.ask, "drain")


def packed(config: Config) -> str:
    """A configuration as a text for `unpacked`, in a process of the same program."""
    return base64.b64encode(pickle.dumps(config)).decode()


def unpacked(text: str) -> Config:
    """The configuration of such a text. Only ever from the process that has started this one."""
    config = pickle.loads(base64.b64decode(text))
    assert isinstance(config, Config)
    return config
