"""Further connections, where the first cannot serve a reading: no channel is left on it, or no replica of the stream.

Strategy: the first connection is always asked first, then those that have been opened already, then a new one, to the
next URL, which in a cluster may be another node. A new connection that does not help is closed again, so each try costs
one at most. The others stay as long as the first, for those who come when the next crowd does: there are never more
than the largest crowd needed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

import structlog
import trio

from sidecar.broker.link import Link, NoChannel
from sidecar.broker.queues import NoReplica

T = TypeVar("T")
NOT_HERE: Final = (NoChannel, NoReplica)
"""What another connection may be free of."""

_log = structlog.get_logger("sidecar.broker")


class Further:
    """The first connection to a broker and those beside it."""

    def __init__(self, first: Link, open_link: Callable[[], Awaitable[Link]]) -> None:
        """``open_link`` opens another; raises `BrokerAway`."""
        self._links = [first]
        self._open_link = open_link
        self._opening = trio.Lock()

    async def begin(self, begin: Callable[[Link], Awaitable[T]]) -> T:
        """Begin something on the first connection that can serve it.

        Raises what ``begin`` raises, the last connection's `NoChannel` or `NoReplica` included, and `BrokerAway`.
        """
        tried = list[Link]()
        while True:
            for link in self._untried(tried):
                tried.append(link)
                try:
                    return await begin(link)
                except NOT_HERE as error:
                    problem = error
            async with self._opening:
                if next(self._untried(tried), None) is None:
                    return await self._begin_on_new(begin, problem)

    async def aclose(self) -> None:
        """Close all of them politely, even when cancelled (`Link.aclose`)."""
        async with trio.open_nursery() as nursery:
            for link in self._links:
                nursery.start_soon(link.aclose)

    def _untried(self, tried: list[Link]) -> Iterator[Link]:
        first, *others = self._links
        self._links = [first, *(link for link in others if link.alive)]
        return (link for link in self._links if link not in tried)

    async def _begin_on_new(self, begin: Callable[[Link], Awaitable[T]], why: Exception) -> T:
        link = await self._open_link()
        try:
            begun = await begin(link)
        except BaseException:
            await link.aclose()
            raise
        self._links.append(link)
        _log.info("another connection to the broker", connections=len(self._links), why=str(why))
        return begun
