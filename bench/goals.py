"""What the sidecar must reach, and what it would like to, checked against the figures of the run that has just ended.

Strategy: a goal is a sentence, a function from the figures to the value that was reached, and a limit; ratios are taken
within one run only. A goal whose work (or whose peer) was not run is not judged. A wish is a goal that nothing depends
on: the report says whether it was reached, and calls it a wish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.servers import FLOOR, NGINX, PEER_SERVERS
from bench.works import Figures

OWN = "sidecar"

Measured = Mapping[tuple[str, str], Figures]  # (work, server) to figures


@dataclass(frozen=True)
class Goal:
    """`value` of the figures must be at most `limit` (at least, where `at_least`). A missing figure is a KeyError."""

    text: str
    value: Callable[[Measured], float]
    limit: float
    at_least: bool = False
    wish: bool = False


@dataclass(frozen=True)
class Verdict:
    """A goal, what was reached, and whether that is enough."""

    goal: str
    reached: float
    met: bool
    wish: bool


def verdicts(measured: Measured) -> list[Verdict]:
    """Every goal that this run can judge."""
    return [verdict for goal in GOALS if (verdict := _judge(goal, measured))]


def _judge(goal: Goal, measured: Measured) -> Verdict | None:
    try:
        reached = goal.value(measured)
    except (KeyError, ValueError, ZeroDivisionError):
        return None
    met = reached >= goal.limit if goal.at_least else reached <= goal.limit
    return Verdict(goal.text, reached, met, goal.wish)


def _own(work: str, key: str) -> Callable[[Measured], float]:
    return lambda measured: measured[work, OWN][key]


def _to(other: tuple[str, str], work: str, key: str) -> Callable[[Measured], float]:
    """A figure of ours over the same figure of another (work, server)."""
    return lambda measured: measured[work, OWN][key] / measured[other][key]


def _to_best_peer(work: str, key: str, best: Callable[[Sequence[float]], float] = min) -> Callable[[Measured], float]:
    def value(measured: Measured) -> float:
        peers = [measured[work, peer.name][key] for peer in PEER_SERVERS if (work, peer.name) in measured]
        return measured[work, OWN][key] / best(peers)

    return value


def _of_what_is_handed_over(measured: Measured) -> float:
    """Messages a second in the flood over the most that the broker handed to anybody who had one stream to serve."""
    most = max(figures[_RATE] for (work, _), figures in measured.items() if work == "handed-over")
    flood = measured["h1-flood", OWN]
    return flood[_RATE] * flood["messages"] / flood["events"] / most


_CPU, _MEDIAN, _P99, _RATE = "cpu_us_per_event", "delay_ms_median", "delay_ms_p99", "events_per_second"

GOALS = (
    Goal("HTTP/1.1, 1000 × 100/s: CPU at most 1.4 × the floor", _to(("h1-1000", FLOOR.name), "h1-1000", _CPU), 1.4),
    Goal("… median delay below the best peer's (×)", _to_best_peer("h1-1000", _MEDIAN), 1.0),
    Goal("… p99 delay below the best peer's (×)", _to_best_peer("h1-1000", _P99), 1.0),
    Goal("… every event at every stream (not delivered)", _own("h1-1000", "not_delivered"), 0),
    Goal("HTTP/1.1, 100 × 1000/s: CPU at most 1.8 × the floor", _to(("h1-100", FLOOR.name), "h1-100", _CPU), 1.8),
    Goal("… CPU below the best peer's (×)", _to_best_peer("h1-100", _CPU), 1.0),
    Goal("… every event at every stream (not delivered)", _own("h1-100", "not_delivered"), 0),
    Goal(
        "HTTP/2, 10 × 100 × 100/s: CPU at most half the HTTP/1.1 floor's", _to(("h1-1000", FLOOR.name), "h2", _CPU), 0.5
    ),
    Goal("… p99 delay at most 5 ms", _own("h2", _P99), 5.0),
    Goal("… every event at every stream (not delivered)", _own("h2", "not_delivered"), 0),
    Goal("flood, HTTP/1.1: at least 3 × the best peer's rate", _to_best_peer("h1-flood", _RATE, max), 3.0, True),
    # The broker may give no more: as many messages as reach a hundred streams can hardly reach a single one.
    Goal("… at least 0.9 of the messages that anybody's single stream can get", _of_what_is_handed_over, 0.9, True),
    Goal("… every event at every stream (not delivered)", _own("h1-flood", "not_delivered"), 0),
    Goal("flood, HTTP/2: at least 3 × the best peer's rate", _to_best_peer("h2-flood", _RATE, max), 3.0, True),
    Goal("… every event at every stream (not delivered)", _own("h2-flood", "not_delivered"), 0),
    Goal("nobody listens: at most 8 µs CPU a message", _own("nobody", "cpu_us_per_message"), 8.0),
    Goal("100 000 binding keys: a message at most 1.5 × its cost with 10", _own("match", "cost_ratio"), 1.5),
    Goal("opening a stream: at most 0.35 ms CPU", _own("opening", "cpu_ms_per_stream"), 0.35),
    Goal("… a thousand at once within a second", _own("opening", "open_seconds"), 1.0),
    Goal(
        "a small proxied request: CPU at most 3 × nginx's",
        _to(("proxy", NGINX.name), "proxy", "cpu_us_per_request"),
        3.0,
        wish=True,
    ),
    Goal("a thousand back at once, 500 events behind: at most 3 readers of the broker", _own("comeback", "readers"), 3),
    Goal("… every event at every stream (not delivered)", _own("comeback", "not_delivered"), 0),
    Goal("an idle HTTP/1.1 stream: at most 14 KB", _own("memory-h1", "kb_per_stream"), 14.0),
    Goal("an idle HTTP/2 stream: at most 8 KB", _own("memory-h2", "kb_per_stream"), 8.0),
    Goal("5000 idle streams: at most 2 % of a core", _own("heartbeats", "core_percent"), 2.0),
    Goal("TLS, HTTP/1.1: CPU at most 2.5 × plain", _to(("h1-1000", OWN), "h1-tls", _CPU), 2.5),
    Goal("TLS, HTTP/2: CPU at most 2.5 × plain", _to(("h2", OWN), "h2-tls", _CPU), 2.5),
)
