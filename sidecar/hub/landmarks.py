"""Finding the way through a stream's past by the broker's filter, which holds messages back without a word.

Strategy: a filter is a hint (`sidecar.broker.port.Broker.read_stream`). Behind it silence means nothing: no message of
the reader's, or none yet, or the end. So a filtered reading goes from one message that is known to another, the
landmarks, with a filter that lets both through: the first is read again and compared, as at the beginning of every
reading, and once the second has come, all that was meant has come before it. The first is one of the last that were
read, the second one of the newest in memory. Landmarks are messages of the reader's own if there are such, else of a
value that few have, so that little comes for their sake.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sidecar.amqp import Delivery, text_header
from sidecar.broker.port import FILTER_VALUE
from sidecar.cursor import offset_of
from sidecar.hub.ring import Ring

NEWEST: Final = 128
"""Messages at the live edge among which a landmark is looked for."""
FAR: Final = 1024
"""Messages that must lie before the ring for a filtered reading to be worth while."""

_NAME: Final = FILTER_VALUE.encode()


def value_of(delivery: Delivery) -> str | None:
    """Return a message's filter value; None where it has none."""
    if delivery.raw_properties:
        return text_header(delivery.raw_properties, _NAME)
    value = delivery.properties.headers.get(FILTER_VALUE)
    return value if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class Way:
    """A filtered reading: from a message, inclusive, to the offset of another, by values that let both through."""

    begin: Delivery
    end: int
    filters: tuple[str, ...]


def way_on(filters: Sequence[str], had: Sequence[Delivery], ring: Ring[Delivery]) -> Way | None:
    """Return the way from what was read last to the ring; None where it is short, or cannot be made out."""
    if not filters or not had or offset_of(had[-1]) + FAR > ring.low:
        return None
    newest = [delivery for _, delivery in ring.after(max(ring.high - NEWEST, ring.low), NEWEST)]
    begin, end = landmark(had, filters), landmark(newest, filters)
    if begin is None or end is None:
        return None
    values = (*filters, *(value for each in (begin, end) if (value := value_of(each)) is not None))
    return Way(begin, offset_of(end), tuple(dict.fromkeys(values)))


def landmark(deliveries: Iterable[Delivery], own: Collection[str]) -> Delivery | None:
    """Return the newest message with one of one's own values, else the newest of the rarest; None without any value.

    After it stands no message of one's own.
    """
    newest: dict[str, Delivery] = {}
    counts = Counter[str]()
    for delivery in deliveries:
        value = value_of(delivery)
        if value is not None:
            newest[value] = delivery
            counts[value] += 1
    mine = [newest[value] for value in own if value in newest]
    if mine:
        return max(mine, key=offset_of)
    return newest[min(counts, key=lambda value: counts[value])] if counts else None
