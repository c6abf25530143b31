"""Routes with a filter on a stream: what is for them, all of it and nothing else, whatever the broker holds back.

Strategy: the ring is made small, so that everybody who comes back is far behind, and the broker is watched: which
readings had a filter, and what came. RabbitMQ before 3.13 knows no filter; there the watch holds back what a filter
would, so that the way through it is tried before the real broker too.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest
import trio

from sidecar.amqp import Delivery
from sidecar.broker.port import FILTER_VALUE, Broker, BrokerError, Offset, Reader, ReadSink
from sidecar.hub import resume
from tests.lab import wire
from tests.replay.conftest import KEY, PATIENCE, SMALL, Lab
from tests.replay.test_replay import heard, reset, until

RING = 40
PADDING = "x" * 100


@dataclass
class Watch:
    """The broker's readings from now on."""

    sieving: bool
    """Whether the broker does not filter by itself."""
    filtered: list[tuple[str, ...]] = field(default_factory=list)
    """The filters of the readings that had any."""
    came: int = 0
    """Messages that filtered readings were given."""
    deaf_after: int | None = None
    """Filtered readings hear nothing more after so many messages."""

    def over(self, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Watch:
        read_stream = broker.read_stream

        async def watched(
            name: str, offset: Offset, sink: ReadSink, *, window: int, filters: Sequence[str] = ()
        ) -> Reader:
            if not filters:
                return await read_stream(name, offset, sink, window=window)
            self.filtered.append(tuple(filters))
            sieve = Sieve(self, sink, filters)
            sieve.reader = await read_stream(name, offset, sieve, window=window, filters=filters)
            sieve.credit(sieve.owed)
            return sieve.reader

        monkeypatch.setattr(broker, "read_stream", watched)
        return self


class Sieve:
    """Between a reader and its sink: holds back what no filter lets through, as if it had never come."""

    def __init__(self, watch: Watch, sink: ReadSink, filters: Sequence[str]) -> None:
        self._watch, self._sink, self._filters = watch, sink, filters
        self.reader: Reader | None = None
        self.owed = 0

    def deliver(self, deliveries: Sequence[Delivery]) -> None:
        through = list(deliveries)
        if self._watch.sieving:
            through = [each for each in deliveries if each.properties.headers.get(FILTER_VALUE) in self._filters]
        if self._watch.deaf_after is not None:
            through = through[: max(0, self._watch.deaf_after - self._watch.came)]
        self._watch.came += len(through)
        if through:
            self._sink.deliver(through)
        self.credit(len(deliveries) - len(through))

    def credit(self, count: int) -> None:
        if self.reader is None:
            self.owed += count
        elif count:
            self.reader.credit(count)

    def ended(self, error: BrokerError) -> None:
        self._sink.ended(error)


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody who comes back is too far behind for the ring, and far enough for a filter."""
    monkeypatch.setattr("sidecar.hub.tail.RING_EVENTS", RING)
    monkeypatch.setattr("sidecar.hub.landmarks.FAR", 20)
    monkeypatch.setattr("sidecar.hub.landmarks.NEWEST", 20)


async def publish(lab: Lab, values: Sequence[str | None], begin: int = 0, padding: str = "", key: str = KEY) -> None:
    """Publish a message of each value; its body is a number and who it is for."""
    for number, value in enumerate(values, begin):
        headers = {} if value is None else {FILTER_VALUE: value}
        await lab.publish(f"{number} {value}{padding}", key=key, headers=headers)


def bodies(values: Sequence[str | None], *meant: str, begin: int = 0) -> list[str]:
    return [f"{number} {value}" for number, value in enumerate(values, begin) if value in meant]


async def restarted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Another process, that has only the stream's end in memory."""
    service = await lab.restart()
    await lab.listen("/all")
    return Watch(not lab.filters).over(service.broker, monkeypatch)


# The present


async def test_only_what_has_the_value(lab: Lab) -> None:
    a, b, both, everything = [
        await lab.listen(path) for path in ("/tenants/a", "/tenants/b", "/two-tenants", "/stream")
    ]
    values = ["a", None, "b", "a", "c", "ab", "", "b"]
    await publish(lab, values)
    for odd in (7, True, ["a"], {"a": "a"}) if lab.memory is not None else ():  # newer RabbitMQs break at it
        await lab.publish("odd", headers={FILTER_VALUE: odd})
    await lab.publish("elsewhere", headers={FILTER_VALUE: "a"}, key="else")
    await publish(lab, ["a", "b"], begin=8)
    await until(a, *bodies(values, "a"), "elsewhere", "8 a")
    await until(b, *bodies(values, "b"), "9 b")
    await until(both, *bodies(values, "a", "b"), "8 a", "9 b")
    await everything.response.until(lambda response: response.data[-1:] == ["9 b"])
    assert len(heard(everything)) == (14 if lab.memory is not None else 10)


async def test_a_value_is_no_pattern(lab: Lab) -> None:
    star, dotted = await lab.listen("/tenants/*"), await lab.listen("/tenants/a.b%20c")
    await publish(lab, ["a", "*", "a.b c", "#"])
    await until(star, "1 *")
    await until(dotted, "2 a.b c")


async def test_what_cannot_be_a_value_is_refused(lab: Lab) -> None:
    for path in ("/tenants/" + "x" * 256, "/tenants/a%0Ab", "/tenants/%FF"):
        connection = await wire.open_http1(lab.nursery, lab.address(), path, headers=[("accept", "text/event-stream")])
        await connection.response.until_end()
        assert connection.response.status == 400


async def test_who_has_left_is_not_looked_for(lab: Lab) -> None:
    client = await lab.listen("/tenants/a")
    source = next(iter(lab.services[0]._hub._sources.values()))
    assert len(source._hearers._indexes) == 1
    await client.aclose()
    lab.services[0]._hub._linger = 0.0
    again = await lab.listen("/tenants/b")
    await publish(lab, ["b"])
    await until(again, "0 b")
    for subscription in lab.services[0]._hub.subscriptions:
        if not subscription.subscribers:
            lab.services[0]._hub._retire(subscription)
    assert list(source._hearers._indexes) == [(None, "b")]


# The past

EVERY_SECOND = ["a" if number % 2 else "b" for number in range(800)]
SPARSE = ["a" if number % 97 == 0 else f"t{number % 50}" for number in range(800)]
LONG_TAIL: list[str | None] = ["a", *(f"t{number % 50}" for number in range(800))]
GROUPED = [value for value in "abcdefgh" for _ in range(100)]
UNMARKED_END: list[str | None] = [*SPARSE[:700], *[None] * 100]
STREAMS = {
    "every-second": EVERY_SECOND,
    "sparse": SPARSE,
    "long-tail": LONG_TAIL,
    "grouped": GROUPED,
    "unmarked-end": UNMARKED_END,
}


@pytest.mark.parametrize("values", STREAMS.values(), ids=STREAMS.keys())
async def test_coming_back_from_far_behind(
    lab: Lab, values: Sequence[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await lab.listen("/tenants/a")
    await publish(lab, ["a"], begin=-1)
    place = await until(client, "-1 a")
    await client.aclose()
    await publish(lab, values)
    watch = await restarted(lab, monkeypatch)
    back, earliest = await lab.listen("/tenants/a", place), await lab.listen("/tenants/a", "earliest")
    await publish(lab, ["b", "a"], begin=900)
    await until(back, *bodies(values, "a"), "901 a")
    await until(earliest, "-1 a", *bodies(values, "a"), "901 a")
    assert watch.filtered or values is UNMARKED_END
    if values is LONG_TAIL:  # nothing of it came to the two but landmarks, and what was written with them
        assert watch.came < len(values)


async def test_from_a_place_that_is_another_tenants(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = await lab.listen("/stream")
    await publish(lab, ["b"], begin=-1)
    await until(witness, "-1 b")
    client = await lab.listen("/tenants/a")
    await client.response.until(lambda response: response.stream.last_id)
    place = client.response.stream.last_id
    await client.aclose()
    await publish(lab, SPARSE)
    watch = await restarted(lab, monkeypatch)
    back, other = await lab.listen("/tenants/a", place), await lab.listen("/tenants/nobody", place)
    await publish(lab, ["nobody", "a"], begin=900)
    await until(back, *bodies(SPARSE, "a"), "901 a")
    await until(other, "900 nobody")
    assert watch.filtered


async def test_since_a_time(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = await lab.listen("/tenants/a")
    await publish(lab, SPARSE)
    await until(witness, *bodies(SPARSE, "a"))
    watch = await restarted(lab, monkeypatch)
    client = await lab.listen("/tenants/a?since=2020-01-01T00:00:00Z")
    await publish(lab, ["a"], begin=900)
    await until(client, *bodies(SPARSE, "a"), "900 a")
    assert watch.filtered


async def test_from_any_place_while_more_arrives(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(4)
    values = [dice.choice("aabcccccddddddddd") for _ in range(600)]
    witness = await lab.listen("/tenants/a")
    await publish(lab, values)
    mine = bodies(values, "a")
    await until(witness, *mine)
    ids = [event.id for event in witness.response.events]
    watch = await restarted(lab, monkeypatch)
    more = [dice.choice("aab") for _ in range(300)]
    indexes, clients = dice.sample(range(len(ids)), 12), list[wire.Http1]()
    async with trio.open_nursery() as publishing:
        publishing.start_soon(publish, lab, more, len(values))
        clients += [await lab.listen("/tenants/a", ids[index]) for index in indexes]
    await publish(lab, ["a"], begin=999)
    for index, client in zip(indexes, clients, strict=True):
        await until(client, *mine[index + 1 :], *bodies(more, "a", begin=len(values)), "999 a")
    assert watch.filtered


async def test_a_filter_that_holds_back_little_is_given_up(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [*(["a"] * 40 + ["c"] * 30) * 12, "a"]
    witness = await lab.listen("/tenants/a")
    await publish(lab, values)
    await until(witness, *bodies(values, "a"))
    monkeypatch.setattr(resume, "TRIAL", 1)
    monkeypatch.setattr("sidecar.hub.reading.WINDOW", 20)
    watch = await restarted(lab, monkeypatch)
    client = await lab.listen("/tenants/a", "earliest")
    await publish(lab, ["a"], begin=900)
    await until(client, *bodies(values, "a"), "900 a")
    assert len(watch.filtered) == 1
    assert watch.came < len(values) / 2


@pytest.mark.parametrize("deaf_after", [0, 1, 5])
async def test_silence_is_not_believed(lab: Lab, deaf_after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = await lab.listen("/tenants/a")
    await publish(lab, SPARSE)
    await until(witness, *bodies(SPARSE, "a"))
    monkeypatch.setattr(resume, "SILENCE", 0.2)
    watch = await restarted(lab, monkeypatch)
    watch.deaf_after = deaf_after
    client = await lab.listen("/tenants/a", "earliest")
    await publish(lab, ["a"], begin=900)
    await until(client, *bodies(SPARSE, "a"), "900 a")
    assert len(watch.filtered) == 1


# What happens to the stream meanwhile


def at_the_first_check(monkeypatch: pytest.MonkeyPatch, happening: Callable[[], Awaitable[None]]) -> list[int]:
    """Let something happen between a filtered reading's leap and the question whether it was a cut."""
    oldest, asked, patience = resume.oldest, list[int](), resume.PATIENCE
    monkeypatch.setattr(resume, "PATIENCE", 60.0)  # it happens while the question is being asked

    async def after(broker: Broker, stream: str) -> int:
        if not asked:
            await happening()
            monkeypatch.setattr(resume, "PATIENCE", patience)
        asked.append(await oldest(broker, stream))
        return asked[-1]

    monkeypatch.setattr(resume, "oldest", after)
    return asked


async def test_retention_cuts_under_a_filtered_reading(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = await lab.listen("/cut")
    values = ["a" if number % 13 == 0 else f"t{number % 40}" for number in range(130)]
    monkeypatch.setattr("sidecar.hub.reading.WINDOW", 10)
    await publish(lab, values, padding=PADDING, key=SMALL)
    await witness.response.until_events(len(values))
    await witness.aclose()
    service = await lab.restart()
    await lab.listen("/cut")
    watch = Watch(not lab.filters).over(service.broker, monkeypatch)

    async def cut() -> None:
        await publish(lab, ["a" if number % 13 == 0 else "t0" for number in range(130, 1000)], 130, PADDING, SMALL)

    asked = at_the_first_check(monkeypatch, cut)
    client = await lab.listen("/cut/a", "earliest")
    await client.response.until(lambda response: f"988 a{PADDING}" in response.data, PATIENCE)
    assert watch.filtered
    assert asked[0] > 0
    told = heard(client)
    cut_at = told.index(reset("truncated"))
    before, after = ([int(each.split()[0]) for each in part] for part in (told[:cut_at], told[cut_at + 1 :]))
    assert before == list(range(before[0], before[0] + 13 * len(before), 13))
    assert after == list(range(after[0], 989, 13))
    assert after[0] > before[-1] + 13


async def test_recreated_under_a_filtered_reading(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    witness = await lab.listen("/all")
    await publish(lab, SPARSE)
    await until(witness, *bodies(SPARSE, *set(SPARSE)))
    watch = await restarted(lab, monkeypatch)

    async def recreate() -> None:
        await lab.recreate("orders.events")
        await publish(lab, ["b", "a"], begin=1000)

    at_the_first_check(monkeypatch, recreate)
    client = await lab.listen("/tenants/a", "earliest")
    await client.response.until(lambda response: "1001 a" in response.data, PATIENCE)
    assert watch.filtered
    told = heard(client)
    before = told[: told.index(reset("recreated"))]
    assert before == bodies(SPARSE, "a")[: len(before)]
    assert told[len(before) :] == [reset("recreated"), "1001 a"]


async def test_cut_before_it_came_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await lab.listen("/cut/a")
    await publish(lab, ["a"], begin=-1, key=SMALL)
    place = await until(client, "-1 a")
    values = ["a" if number % 13 == 0 else f"t{number % 40}" for number in range(800)]
    await publish(lab, values, padding=PADDING, key=SMALL)
    await lab.restart()
    back = await lab.listen("/cut/a", place)
    await publish(lab, ["a"], begin=900, key=SMALL)
    await back.response.until(lambda response: "900 a" in response.data, PATIENCE)
    first, *left = heard(back)
    assert first == reset("truncated")
    oldest = int(left[0].split()[0])
    assert left == [*(each + PADDING for each in bodies(values, "a") if int(each.split()[0]) >= oldest), "900 a"]


async def test_another_process_needs_no_filter_for_what_is_near(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await lab.listen("/tenants/a")
    await publish(lab, ["a", *["b"] * 10, "a"])
    place = await until(client, "0 a", "11 a")
    watch = await restarted(lab, monkeypatch)
    back = await lab.listen("/tenants/a", place)
    await publish(lab, ["a"], begin=12)
    await until(back, "12 a")
    assert not watch.filtered
