"""The nursery tree: the only place where the concrete parts meet.

Strategy: a `Service` owns a broker, a hub, the streams and the listeners, and its `run` is one nursery over all of
them. Starting binds every address before it promises anything; stopping drains the streams and then cancels the
nursery, so that nothing can outlive it. `serve` adds what belongs to a process: signals.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import structlog
import trio

from sidecar.amqp import Properties
from sidecar.broker import open_broker
from sidecar.broker.port import Broker
from sidecar.config.model import Config
from sidecar.crew import Crew
from sidecar.deadlines import Deadlines
from sidecar.forwarded import Proxies
from sidecar.http.admin import AdminApplication
from sidecar.http.application import nothing_here
from sidecar.http.dispatch import Dispatch
from sidecar.http.explained import Row, explained
from sidecar.http.gatehouse import Gatehouse
from sidecar.http.listening import Listening
from sidecar.http.proxy import Proxy
from sidecar.http.routes import CompiledRoute, carry_over, compile_routes, declared
from sidecar.http.status import RouteStatus, status_of
from sidecar.http.streams import Streams
from sidecar.http.subscribe import Offers
from sidecar.http.upstream import Upstream
from sidecar.hub.hub import Hub
from sidecar.observe.metrics import Metrics, Tally
from sidecar.process import prepare_process
from sidecar.reload import Reload
from sidecar.server.doors import Door, Doors
from sidecar.server.http2 import flush_corks
from sidecar.server.listener import Server, accept, address_of, bind, close_listener

_log = structlog.get_logger("sidecar.service")


class Service:
    """One running sidecar."""

    def __init__(
        self, config: Config, *, broker: Broker | None = None, metrics: Metrics | None = None, first: bool = True
    ) -> None:
        """Put the parts together; nothing runs yet. A broker given is run by this service too.

        A service that is not the ``first`` has no listeners: its connections come by `admit`.
        """
        self.config = config
        self.broker = broker if broker is not None else open_broker(config.broker)
        self.metrics = metrics if metrics is not None else Metrics()
        self.metrics.broker_connected = lambda: self.broker.connected
        self.addresses: list[str] = []
        self.admin_address = ""
        self._deadlines = Deadlines()
        self._gatehouse = Gatehouse()
        self._hub = Hub(self.broker, self._deadlines, flush=flush_corks)
        self._streams = Streams(self._hub, self._deadlines, self.metrics)
        self._proxy = self._application()
        self._former: list[Proxy] = []  # of earlier configurations, with exchanges that have not ended
        self._dispatch = Dispatch(self._compile(config), self._streams, self._proxy)
        self.metrics.measure = self._measure
        self.connections = 0
        """Public connections that are open here."""
        self._first = first
        self._crew = Crew(config, self.metrics) if first else None
        self._doors = Doors(bound=first)
        self._server = Server(nothing_here, lambda: self._dispatch, self._deadlines)
        self._nursery: trio.Nursery | None = None
        self._admin: socket.socket | None = None
        self._stopping = trio.Event()
        self.stopped = trio.Event()
        """Set when `run` has ended."""
        self.drained = False
        """Whether it ended after a drain."""

    def _application(self) -> Proxy | None:
        """The way to the application next door, where one is configured."""
        if self.config.upstream is None:
            return None
        settings, proxies = self.config.upstream, Proxies.parse(self.config.trusted_proxies)
        offers = Offers(settings.subscribe, self._streams, self.metrics, proxies) if settings.subscribe else None
        return Proxy(Upstream(settings, self._deadlines), proxies, self.metrics, offers)

    def __repr__(self) -> str:
        return f"<Service {', '.join(self.addresses) or 'not started'}, {len(self._streams.open)} streams>"

    def _compile(self, config: Config) -> list[CompiledRoute]:
        proxies = Proxies.parse(config.trusted_proxies)
        return compile_routes(config.routes, self.metrics, lambda access: self._gatehouse.gate(access, proxies))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop`; started when every address accepts. Raises `OSError` where one cannot be bound."""
        self.bind()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._deadlines.run)
                await nursery.start(self._hub.run)
                await nursery.start(self._gatehouse.run)
                nursery.start_soon(self.broker.run)
                self._nursery = nursery
                if self._crew is not None:
                    self._hub.collect(declared(self._dispatch.routes))
                    nursery.start_soon(self._crew.run)
                    self._listen(nursery)
                    _log.info("listening", addresses=self.addresses, admin=self.admin_address)
                task_status.started()
                await self._stopping.wait()
                await self.drain()
                await self._server.close()
                self.drained = True
                nursery.cancel_scope.cancel()
        finally:
            self._unbind()
            if self._proxy is not None:
                self._proxy.upstream.close()
            self.stopped.set()

    def bind(self) -> None:
        """Bind every address, once. Raises `OSError` with the address that is taken, and then binds none."""
        if self._admin is not None:
            return
        plan = self._doors.prepare(self.config.listen)
        if self._first:
            try:
                self._admin = bind(self.config.admin.bind)
            except OSError:
                self._doors.discard(plan)
                raise
            self.admin_address = address_of(self._admin, tls=False)
        self._doors.install(plan)
        self.addresses = self._doors.addresses

    def _unbind(self) -> None:
        self._doors.close()
        if self._admin is not None:
            close_listener(self._admin)

    def _listen(self, nursery: trio.Nursery) -> None:
        operators = AdminApplication(self, may_publish=self.config.admin.publish)
        listening = Listening(lambda: self._dispatch)
        inside = Server(operators, lambda: listening, self._deadlines)
        self._doors.open(nursery, self._take)
        assert self._admin is not None
        nursery.start_soon(accept, self._admin, lambda sock: nursery.start_soon(inside.serve, sock, None))

    def _take(self, door: Door, sock: socket.socket) -> None:
        """A connection was accepted: it goes to the worker with the fewest."""
        rank = (not self.broker.connected, self.connections)
        if self._crew is None or not self._crew.hand_over(door.name, sock, before=rank):
            self.admit(door.name, sock)

    def admit(self, door: str, sock: socket.socket) -> None:
        """Serve a connection that has come through this door."""
        through = self._doors[door]
        if through is None or self._nursery is None:  # the door was closed meanwhile
            sock.close()
            return
        self.connections += 1
        self._nursery.start_soon(self._serve, sock, through)

    async def _serve(self, sock: socket.socket, door: Door) -> None:
        try:
            await self._server.serve(sock, door.context)
        finally:
            self.connections -= 1

    # ------------------------------------------------------------------ another configuration

    async def apply(self, config: Config) -> None:
        """Put another configuration in force for new connections; streams of unchanged routes stay.

        What cannot be done raises `OSError` or `ValueError`, and then everything is as before. The keys that
        `sidecar.reload.RESTART` names are not looked at.
        """
        plan = self._doors.prepare(config.listen)
        try:
            routes = self._compile(config)
        except (OSError, ValueError):
            self._doors.discard(plan)
            self._keep_gates(self._dispatch.routes)
            raise
        if self._crew is not None:
            await self._crew.apply(config)  # before the first connection comes through a new door
        self._renew(config, carry_over(self._dispatch.routes, routes))
        self._doors.install(plan)
        self.addresses = self._doors.addresses

    def _renew(self, config: Config, routes: Sequence[CompiledRoute]) -> None:
        gone = {route for route in self._dispatch.routes if route.retired}
        proxy = self._proxy
        same = (config.upstream, config.trusted_proxies) == (self.config.upstream, self.config.trusted_proxies)
        self.config = config
        if not same:
            self._proxy = self._application()
            if proxy is not None:
                proxy.retire(config.drain.within)
                self._former = [each for each in (*self._former, proxy) if each.open]
        if self._crew is not None:
            self._hub.collect(declared(routes) - declared(self._dispatch.routes))
        self._dispatch = Dispatch(routes, self._streams, self._proxy)
        self._keep_gates(routes)
        self._streams.retire(gone, config.drain.within)
        self._hub.sweep()

    def _keep_gates(self, routes: Iterable[CompiledRoute]) -> None:
        self._gatehouse.keep([route.gate for route in routes if route.gate is not None])

    def stop(self) -> None:
        """Drain, then return from `run`."""
        self._stopping.set()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def leaving(self) -> bool:
        """Whether it drains, or has."""
        return self.stopping or self._streams.draining

    # ------------------------------------------------------------------ the admin listener's Overview

    def alive(self) -> bool:
        """Everything that can fail here ends the process or mends itself."""
        return True

    def not_ready(self) -> str | None:
        """Why no new stream should be sent here, in one line; None when one may."""
        if self._streams.draining:
            return "draining"
        if not self.broker.connected:
            return f"the broker is away: {self.broker.problem or 'not connected yet'}"
        return self._crew.not_ready() if self._crew is not None else None

    def _measure(self) -> None:
        self._streams.measure()
        self.metrics.broker_reconnects = self.broker.reconnects

    def routes(self) -> Sequence[RouteStatus]:
        """The routes that are served now."""
        self._streams.measure()
        total = self.metrics.total()
        return [self._status(route, total) for route in self._dispatch.routes]

    def _status(self, route: CompiledRoute, total: Tally) -> RouteStatus:
        standing = sum(subscription.metrics is route.metrics for subscription in self._hub.subscriptions)
        others = self._crew.subscriptions(route.settings.path) if self._crew is not None else 0
        return status_of(route, standing + others, total.route(route.settings.path))

    def explain(self, path: str) -> Row | None:
        """Which route a path meets, and what a client there would read; None where none takes it."""
        return explained(lambda raw: self._dispatch.match(raw.encode()), path)

    async def publish(self, exchange: str, routing_key: str, body: bytes, properties: Properties) -> None:
        """Publish one message. Raises `BrokerAway`, `BrokerRefused`."""
        await self.broker.publish(exchange, routing_key, body, properties)

    async def drain(self) -> None:
        """End all streams over the configured time and take no new ones; return when the last has ended.

        Requests that the application is answering have the same time to end.
        """
        _log.info("draining", streams=len(self._streams.open), within=self.config.drain.within)
        within = self.config.drain.within
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._streams.drain, within)
            if self._crew is not None:
                nursery.start_soon(self._crew.drain, within)
            for proxy in (self._proxy, *self._former):
                if proxy is not None:
                    nursery.start_soon(proxy.drain, within)


Companion = Callable[[Service], Awaitable[None]]


async def serve(config: Config, *, path: Path | None = None, companion: Companion | None = None) -> bool:
    """Run a service until SIGTERM or SIGINT has drained it; a second signal ends it at once.

    With the ``path`` that the configuration was read from, it is read again at SIGHUP and when it changes.
    ``companion`` runs beside the service. Returns whether the drain was clean. Raises `OSError` where an address is
    taken.
    """
    prepare_process()
    service = Service(config)
    service.bind()
    reload = Reload(path, service) if path is not None else None
    numbers = (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if reload is not None else ()))
    with trio.open_signal_receiver(*numbers) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, service, reload, nursery)
            await nursery.start(service.run)
            if reload is not None:
                nursery.start_soon(reload.watch)
            if companion is not None:
                nursery.start_soon(companion, service)
            await service.stopped.wait()
            nursery.cancel_scope.cancel()
    return service.drained


async def _obey(signals: AsyncIterator[int], service: Service, reload: Reload | None, nursery: trio.Nursery) -> None:
    async for number in signals:
        _log.info("signal", name=signal.Signals(number).name)
        if number == signal.SIGHUP:
            assert reload is not None
            nursery.start_soon(reload.now)
            continue
        if service.stopping:
            nursery.cancel_scope.cancel()
        service.stop()
