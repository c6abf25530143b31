"""How many streams a route has, and how many of them one client.

Strategy: two counts and nothing that waits: a place is there or it is not. A client is in the table only while it has
a stream, so the table is never larger than the number of streams.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Lease:
    """One place, until it is given back; a context manager."""

    __slots__ = ("_client", "_limit")

    def __init__(self, limit: StreamLimit, client: str) -> None:
        self._limit: StreamLimit | None = limit
        self._client = client

    def release(self) -> None:
        """Give the place back; further calls do nothing."""
        limit, self._limit = self._limit, None
        if limit is not None:
            limit._given_back(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class StreamLimit:
    """The places of one route; None is no limit."""

    def __init__(self, streams: int | None = None, per_client: int | None = None) -> None:
        self._streams = streams
        self._per_client = per_client
        self._taken = 0
        self._clients: dict[str, int] = {}

    @property
    def streams(self) -> int:
        """How many places are taken."""
        return self._taken

    @property
    def clients(self) -> int:
        """How many clients take them."""
        return len(self._clients)

    def acquire(self, client: str) -> Lease | None:
        """A place for one more stream of this client (`Granted.client`); None when the house is full for it."""
        has = self._clients.get(client, 0)
        if self._streams is not None and self._taken >= self._streams:
            return None
        if self._per_client is not None and has >= self._per_client:
            return None
        self._clients[client] = has + 1
        self._taken += 1
        return Lease(self, client)

    def _given_back(self, client: str) -> None:
        self._taken -= 1
        left = self._clients[client] - 1
        if left:
            self._clients[client] = left
        else:
            del self._clients[client]

    def __repr__(self) -> str:
        return f"<StreamLimit {self._taken}/{self._streams or '∞'} streams of {len(self._clients)} clients>"
