"""Why things end, restart or get lost: one list each, for the log, the metrics, the pages and the documentation.

Strategy: a reason is data, a string with its meaning beside it, so that a new one shows everywhere by being added here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """A string that knows its meaning; the base of the lists below."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """Make a member out of the word and one line of plain English."""
        reason = str.__new__(cls, value)
        reason._value_ = value
        reason.meaning = meaning
        return reason


class CloseReason(Reason):
    """Why an event stream has ended."""

    CLIENT_LEFT = "client_left", "The client closed its connection, or it broke."
    SLOW = "slow", "The client read too slowly and its backlog was full."
    EXPIRED = "expired", "The route's max_age is over, or the client's token has expired."
    DRAINED = "drained", "This process is stopping and has ended the stream cleanly."
    ROUTE_GONE = "route_gone", "The route was changed or removed by a new configuration."
    LIMIT = "limit", "The route or the client has as many streams as it may have."
    BROKER_REFUSED = "broker_refused", "The broker will not serve this route: no such exchange, or no permission."


class ResetReason(Reason):
    """Why a stream says ``sidecar.reset``: events may have been missed just before it."""

    BROKER_RECONNECTED = "broker_reconnected", "The broker was away for a while."
    SLOW = "slow", "The client read too slowly and the oldest events of its backlog were dropped."
    UNKNOWN_ID = "unknown_id", "The client's last event ID means nothing here."
    TRUNCATED = "truncated", "Retention has passed the client's last event ID: it goes on with the oldest event left."
    RECREATED = "recreated", "The stream was deleted and made anew: it goes on with the oldest event there is."


class DropReason(Reason):
    """Why an event that had found its subscriber was not sent to it."""

    SLOW = "slow", "The client read too slowly and its backlog was full."
    UNENCODABLE = "unencodable", "The message could not be made an event; the log says why."
