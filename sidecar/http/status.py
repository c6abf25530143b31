"""What operators are told of one route: how it is set up, and its counts now.

Strategy: one flat record of plain values, ready for JSON, made when somebody asks. The setup comes from the compiled
route, the counts from its metrics, so that pages and Prometheus never disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from sidecar.config.model import Route
from sidecar.http.routes import CompiledRoute
from sidecar.observe.metrics import RouteMetrics
from sidecar.template import Template


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """What ``GET /routes`` and the debug page tell of one route."""

    path: str
    source: Mapping[str, str]  # as in the configuration: {"exchange": "orders"}
    binding_keys: Sequence[str]
    parameters: Sequence[str]  # what a request must give: segments of the path, and query.NAME
    replay: str | None  # "stream", "memory", or None where nothing is replayed
    access: Sequence[str]  # who is asked before somebody may read: "jwt", "forward"
    subscribers: int
    subscriptions: int  # distinct bindings that subscribers share
    received: int
    sent: int
    replayed: int
    backlog_bytes: int
    dropped: Mapping[str, int]
    closed: Mapping[str, int]
    resets: Mapping[str, int]
    delivery: Sequence[int]  # messages by their delay: the buckets of sidecar_delivery_seconds, not cumulated

    @classmethod
    def counted(
        cls,
        source: Mapping[str, str],
        binding_keys: Sequence[str],
        subscriptions: int,
        counts: RouteMetrics,
        *,
        parameters: Sequence[str] = (),
        replay: str | None = None,
        access: Sequence[str] = (),
    ) -> Self:
        """A status whose numbers are those of the route's metrics now."""
        return cls(
            path=counts.path,
            source=source,
            binding_keys=binding_keys,
            parameters=parameters,
            replay=replay,
            access=access,
            subscribers=counts.subscribers,
            subscriptions=subscriptions,
            received=counts.received,
            sent=counts.sent,
            replayed=counts.replayed,
            backlog_bytes=counts.backlog_bytes,
            dropped={reason.value: count for reason, count in counts.drops.items()},
            closed={reason.value: count for reason, count in counts.closes.items()},
            resets={reason.value: count for reason, count in counts.resets.items()},
            delivery=tuple(counts.delivery_counts),
        )


def status_of(route: CompiledRoute, subscriptions: int, counts: RouteMetrics) -> RouteStatus:
    """The status of a route that is served; ``subscriptions`` and ``counts`` are those of all workers."""
    settings = route.settings
    asked = {"jwt": settings.access.jwt, "forward": settings.access.forward} if settings.access else {}
    return RouteStatus.counted(
        {route.source_kind: route.source_name},
        settings.binding_key,
        subscriptions,
        counts,
        parameters=tuple(dict.fromkeys((*route.pattern.parameters, *_asked_of_the_query(settings)))),
        replay=_replay(settings),
        access=tuple(name for name, value in asked.items() if value is not None),
    )


def _replay(settings: Route) -> str | None:
    if settings.replay is not None and settings.replay.memory is not None:
        return "memory"
    return "stream" if settings.replay is not None or settings.stream is not None else None


def _asked_of_the_query(settings: Route) -> Iterator[str]:
    texts = [*settings.binding_key, *settings.where.values(), *(settings.binding_headers or {}).values()]
    texts += settings.stream_filter or ()
    if settings.queue is not None:
        bound = settings.declare.bind if settings.declare is not None else ()
        texts += [settings.queue, *(binding.binding_key for binding in bound)]
    for text in texts:
        if isinstance(text, str):
            yield from (name for name in Template.parse(text).names if name.startswith("query."))
