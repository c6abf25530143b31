"""A worker beside the first one: ``python -m sidecar.worker CHANNEL CARRIER``, started by `sidecar.crew`.

Strategy: an ordinary service without listeners. Connections come over the carrier, orders over the channel, and what
was counted goes back. Signals mean nothing here: they are sent to the first worker, though a terminal, or whoever
stops a whole container, sends them to all. When the channel ends, so does the worker.
"""

from __future__ import annotations

import signal
import socket
import sys
from functools import partial
from typing import Any, Final

import structlog
import trio

from sidecar.channel import Channel, Message, take_over
from sidecar.crew import unpacked
from sidecar.observe import log
from sidecar.process import prepare_process
from sidecar.service import Service

TELL_EVERY: Final = 0.5
"""Seconds between two reports."""
CONNECT_WITHIN: Final = 5.0
"""Seconds for the broker to answer; then this worker serves anyhow, as any that has lost the broker."""

_log = structlog.get_logger("sidecar.workers")


class Report:
    """What the first worker is told: everything at first, then the routes that have changed."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._routes: dict[str, Any] = {}
        self._seen = 0
        self.taken = 0
        """Connections that have come over the carrier."""

    def next(self) -> Message:
        """The next report."""
        service, recent = self._service, self._service.metrics.recent
        service.metrics.measure()
        counts = service.metrics.counts()
        changed = {path: numbers for path, numbers in counts["routes"].items() if numbers != self._routes.get(path)}
        self._routes = counts["routes"]
        closed = [
            (each.route, each.reason, each.client, each.seconds, each.events)
            for each in reversed(recent.closed_after(self._seen))
        ]
        self._seen = recent.number
        return {
            "open": service.connections,
            "taken": self.taken,
            "not_ready": service.not_ready(),
            "counts": {**counts, "routes": changed},
            "subscriptions": {status.path: status.subscriptions for status in service.routes()},
            "closed": closed,
        }


class Worker:
    """The service of this process, and its ties to the first one."""

    def __init__(self, service: Service, channel: Channel, carrier: socket.socket) -> None:
        self._service = service
        self._channel = channel
        self._carrier = carrier
        self._report = Report(service)

    async def run(self) -> None:
        """Serve until the first worker ends, or lets this one go."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._service.run)
            nursery.start_soon(self._take_connections)
            nursery.start_soon(self._tell)
            while (message := await self._channel.receive()) is not None:
                nursery.start_soon(self._obey, message)
            nursery.cancel_scope.cancel()

    async def _take_connections(self) -> None:
        while (taken := await take_over(self._carrier)) is not None:
            self._report.taken += 1
            self._service.admit(*taken)

    async def _tell(self) -> None:
        with trio.move_on_after(CONNECT_WITHIN):
            await self._service.broker.wait_connected()
        while True:
            await self._send(self._report.next())
            await trio.sleep(TELL_EVERY)

    async def _obey(self, message: Message) -> None:
        problem = None
        if message["do"] == "drain":
            await self._service.drain()
            await self._send(self._report.next())
        else:
            problem = await self._apply(message["config"])
        await self._send({"done": message["asked"], "problem": problem})

    async def _apply(self, text: str) -> str | None:
        try:
            await self._service.apply(unpacked(text))
        except (OSError, ValueError) as error:
            return str(error)
        return None

    async def _send(self, message: Message) -> None:
        try:
            await self._channel.send(message)
        except trio.BrokenResourceError:
            pass  # the first worker has ended; whoever receives sees that


async def work(channel: Channel, carrier: socket.socket) -> None:
    """Serve as the first worker's orders say."""
    order = await channel.receive()
    if order is None:
        return
    structlog.contextvars.bind_contextvars(worker=order["number"])
    await Worker(Service(unpacked(order["config"]), first=False), channel, carrier).run()


async def _begin(control: int, carrier: int) -> None:
    taken = socket.socket(fileno=carrier)
    await work(Channel(socket.socket(fileno=control)), taken)


def main() -> None:
    """The process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    log.configure()
    prepare_process()
    try:
        trio.run(partial(_begin, *map(int, sys.argv[1:3])))
    except Exception as error:
        _log.error("this should not have happened; please report it", exc_info=error)
        sys.exit(1)


if __name__ == "__main__":
    main()
