"""What this process counts, and how Prometheus reads it.

Strategy: the hot path adds to plain integers in a `RouteMetrics` it holds already; nothing is locked, looked up or
formatted there (prometheus-client's own ``Counter.inc`` takes a lock, fifteen times the cost). A custom collector
turns the integers into metric families when somebody asks, in the same thread, so that no number is seen half changed.

Where several workers serve together, each tells its counts as plain values now and then, and they are added up here
(`Tally.counts`, `Tally.add`): a scrape sees one sidecar.

To add a metric: a field that is counted in and added up, and one entry in `PER_ROUTE`, `PER_REASON` or `PER_PROCESS`.
Every reason of `sidecar.observe.reasons` has its series from the start, at 0, so that Prometheus' ``increase()`` sees
the first one. Labels hold a route's path as the configuration writes it, never a value of its parameters.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Final, TypeAlias

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sidecar.observe.reasons import CloseReason, DropReason, ResetReason
from sidecar.observe.recent import Recent

# Seconds. A message usually needs well under a millisecond; a second is a stalled machine.
DELIVERY_BUCKETS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)

Counts: TypeAlias = Mapping[str, Any]
"""What was counted, as JSON knows it."""


class RouteMetrics:
    """The counts of one route. The plain attributes are meant to be added to in place: ``route.sent += 3``."""

    __slots__ = (
        "backlog_bytes",
        "closes",
        "delivery_counts",
        "delivery_sum",
        "drops",
        "path",
        "received",
        "recent",
        "replayed",
        "resets",
        "sent",
        "subscribers",
    )

    def __init__(self, path: str, recent: Recent | None = None) -> None:
        """Start at zero for the route whose path template is ``path``; ends and resets are told to ``recent`` too."""
        self.path = path
        self.recent = recent if recent is not None else Recent()
        self.subscribers = 0  # event streams open now
        self.received = 0  # messages from the broker that met at least one subscriber's binding
        self.replayed = 0  # past events written to subscribers that came back
        self.sent = 0  # events written to a socket, or to hypercorn; one for each subscriber
        self.backlog_bytes = 0  # bytes that wait in this route's backlogs now
        self.drops = dict.fromkeys(DropReason, 0)
        self.closes = dict.fromkeys(CloseReason, 0)
        self.resets = dict.fromkeys(ResetReason, 0)
        self.delivery_counts = [0] * (len(DELIVERY_BUCKETS) + 1)  # one more for what is beyond the last bound
        self.delivery_sum = 0.0

    def dropped(self, reason: DropReason, count: int = 1) -> None:
        """Count events that a subscriber should have had and will not get."""
        self.drops[reason] += count

    def closed(self, reason: CloseReason, client: str = "", seconds: float = 0.0, events: int = 0) -> None:
        """Count an event stream that has ended, after so many seconds and events."""
        self.closes[reason] += 1
        self.recent.closed(self.path, reason, client, seconds, events)

    def reset(self, reason: ResetReason) -> None:
        """Count a ``sidecar.reset`` put into one event stream."""
        self.resets[reason] += 1
        self.recent.reset(self.path, reason)

    def observe_delivery(self, seconds: float, count: int = 1) -> None:
        """Count ``count`` messages that took so long from the broker's socket to the last subscriber's."""
        self.delivery_counts[bisect_left(DELIVERY_BUCKETS, seconds)] += count
        self.delivery_sum += seconds * count

    def counts(self) -> Counts:
        """Everything counted, as values that fit into JSON."""
        return {
            **{name: getattr(self, name) for name in (*_GAUGES, *_SUMS)},
            **{name: dict(getattr(self, name)) for name in _REASONS},
            "delivery_counts": list(self.delivery_counts),
        }

    def add(self, counts: Counts, *, gauges: bool = True) -> None:
        """Add what another has counted; without ``gauges`` only what never goes down."""
        for name in (*_SUMS, *(_GAUGES if gauges else ())):
            setattr(self, name, getattr(self, name) + counts[name])
        for name, reasons in _REASONS.items():
            own = getattr(self, name)
            for reason, count in counts[name].items():
                own[reasons(reason)] += count
        self.delivery_counts = list(map(sum, zip(self.delivery_counts, counts["delivery_counts"], strict=True)))

    def __repr__(self) -> str:
        return f"<RouteMetrics {self.path} subscribers={self.subscribers} received={self.received} sent={self.sent}>"


_GAUGES: Final = ("subscribers", "backlog_bytes")
_SUMS: Final = ("received", "sent", "replayed", "delivery_sum")
_REASONS: Final[Mapping[str, Any]] = {"drops": DropReason, "closes": CloseReason, "resets": ResetReason}


class Tally:
    """The counts of one worker, or of several added up."""

    def __init__(self, *, broker_connected: Callable[[], bool] = lambda: False) -> None:
        """``broker_connected`` is asked at each scrape; it is an attribute too, for who makes the broker later."""
        self.broker_connected = broker_connected
        self.broker_reconnects = 0
        self.config_reloads = {"ok": 0, "refused": 0}
        self.worker_restarts = 0
        self.recent = Recent()
        """The last ends and resets of streams, for the debug page."""
        self.upstream_requests: dict[int, int] = {}
        self._routes: dict[str, RouteMetrics] = {}

    def route(self, path: str) -> RouteMetrics:
        """The counts of the route with this path template; the same object for the same path, also after a reload."""
        return self._routes.setdefault(path, RouteMetrics(path, self.recent))

    def upstream_request(self, code: int) -> None:
        """Count a request passed on to the application, by the status its client got (499: it left before)."""
        self.upstream_requests[code] = self.upstream_requests.get(code, 0) + 1

    @property
    def routes(self) -> Iterable[RouteMetrics]:
        """The counts of every route there has been, in the order they came up."""
        return self._routes.values()

    @property
    def backlog_bytes(self) -> int:
        """Bytes that wait in all backlogs of this process now."""
        return sum(route.backlog_bytes for route in self.routes)

    def counts(self) -> Counts:
        """Everything a worker counts, as values that fit into JSON; `add` takes it."""
        return {
            "broker_connected": self.broker_connected(),
            "broker_reconnects": self.broker_reconnects,
            "upstream_requests": {str(code): count for code, count in self.upstream_requests.items()},
            "routes": {route.path: route.counts() for route in self.routes},
        }

    def add(self, counts: Counts, *, gauges: bool = True) -> None:
        """Add what another worker has counted; without ``gauges`` only what never goes down."""
        self.broker_reconnects += counts["broker_reconnects"]
        for code, count in counts["upstream_requests"].items():
            self.upstream_requests[int(code)] = self.upstream_requests.get(int(code), 0) + count
        for path, numbers in counts["routes"].items():
            self.route(path).add(numbers, gauges=gauges)


class Metrics(Tally, Collector):
    """All metrics of one running sidecar, in a registry of its own."""

    def __init__(self, *, broker_connected: Callable[[], bool] = lambda: False) -> None:
        """Count nothing yet; see `Tally`."""
        super().__init__(broker_connected=broker_connected)
        self.measure: Callable[[], None] = lambda: None
        """Called before each scrape: the place to bring gauges up to date that nobody keeps, like `backlog_bytes`."""
        self.others: Callable[[], Collection[Counts]] = lambda: ()
        """What the other workers have counted."""
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def total(self) -> Tally:
        """The counts of all workers; where there is but one, its own, live."""
        others = self.others()
        if not others:
            return self
        everyone = [self.counts(), *others]
        total = Tally(broker_connected=lambda: all(counts["broker_connected"] for counts in everyone))
        total.config_reloads, total.worker_restarts = self.config_reloads, self.worker_restarts
        for counts in everyone:
            total.add(counts)
        return total

    def collect(self) -> Iterator[Metric]:
        """Yield every family of the contract's section 5; called by prometheus-client at a scrape."""
        self.measure()
        total = self.total()
        for kind, name, meaning, number in PER_ROUTE:
            yield _per_route(kind(name, meaning, labels=["route"]), total.routes, number)
        for name, meaning, counts in PER_REASON:
            yield _per_reason(CounterMetricFamily(name, meaning, labels=["route", "reason"]), total.routes, counts)
        yield _delivery(total.routes)
        for name, meaning, label, labelled in PER_LABEL:
            yield _per_label(CounterMetricFamily(name, meaning, labels=[label]), labelled(total))
        for kind, name, meaning, value in PER_PROCESS:
            yield kind(name, meaning, value(total))

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The whole exposition and its content type, chosen by the value of an ``Accept`` header.

        OpenMetrics 1.x where that is asked for, else Prometheus' text format 0.0.4.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


Kind = type[GaugeMetricFamily] | type[CounterMetricFamily]

PER_ROUTE: tuple[tuple[Kind, str, str, Callable[[RouteMetrics], int]], ...] = (
    (GaugeMetricFamily, "sidecar_subscribers", "Event streams open now.", lambda route: route.subscribers),
    (CounterMetricFamily, "sidecar_messages_received", "Messages from the broker.", lambda route: route.received),
    (CounterMetricFamily, "sidecar_events_sent", "Events sent, one for each subscriber.", lambda route: route.sent),
    (CounterMetricFamily, "sidecar_replayed_events", "Past events sent to clients.", lambda route: route.replayed),
)

PER_REASON: tuple[tuple[str, str, Callable[[RouteMetrics], Mapping[Any, int]]], ...] = (
    ("sidecar_events_dropped", "Events a subscriber should have had, and did not get.", lambda route: route.drops),
    ("sidecar_streams_closed", "Event streams that have ended.", lambda route: route.closes),
    ("sidecar_resets", "Times a stream said that events may have been missed.", lambda route: route.resets),
)

PER_LABEL: tuple[tuple[str, str, str, Callable[[Tally], Mapping[Any, int]]], ...] = (
    (
        "sidecar_upstream_requests",
        "Requests passed on to the application, by status; 499: the client left before.",
        "code",
        lambda all_: dict(sorted(all_.upstream_requests.items())),
    ),
    (
        "sidecar_config_reloads",
        "Configurations that were taken (ok), or refused for their mistakes.",
        "result",
        lambda all_: all_.config_reloads,
    ),
)

PER_PROCESS: tuple[tuple[Kind, str, str, Callable[[Tally], int]], ...] = (
    (
        GaugeMetricFamily,
        "sidecar_backlog_bytes",
        "Bytes that wait for slow readers now.",
        lambda all_: all_.backlog_bytes,
    ),
    (GaugeMetricFamily, "sidecar_broker_connected", "1 while messages can flow.", lambda all_: all_.broker_connected()),
    (
        CounterMetricFamily,
        "sidecar_broker_reconnects",
        "Times the broker came back.",
        lambda all_: all_.broker_reconnects,
    ),
    (
        CounterMetricFamily,
        "sidecar_worker_restarts",
        "Workers that ended by themselves, and were started again.",
        lambda all_: all_.worker_restarts,
    ),
)


def _per_route(
    family: GaugeMetricFamily | CounterMetricFamily,
    routes: Iterable[RouteMetrics],
    number: Callable[[RouteMetrics], int],
) -> Metric:
    for route in routes:
        family.add_metric([route.path], number(route))
    return family


def _per_reason(
    family: CounterMetricFamily, routes: Iterable[RouteMetrics], counts: Callable[[RouteMetrics], Mapping[Any, int]]
) -> Metric:
    for route in routes:
        for reason, count in counts(route).items():
            family.add_metric([route.path, reason.value], count)
    return family


def _delivery(routes: Iterable[RouteMetrics]) -> Metric:
    name, meaning = "sidecar_delivery_seconds", "From a message's arrival to its last subscriber's socket."
    family = HistogramMetricFamily(name, meaning, labels=["route"])
    for route in routes:
        cumulated = accumulate(route.delivery_counts)
        family.add_metric([route.path], list(zip(_BOUNDS, cumulated, strict=True)), route.delivery_sum)
    return family


def _per_label(family: CounterMetricFamily, counts: Mapping[Any, int]) -> Metric:
    for value, count in counts.items():
        family.add_metric([str(value)], count)
    return family


_BOUNDS = (*map(str, DELIVERY_BUCKETS), "+Inf")
