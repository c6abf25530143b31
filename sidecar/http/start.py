"""Where a client wants to begin: what its request says of the past (the contract's section 3)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from sidecar.http.request import Request
from sidecar.http.routes import BadValueError
from sidecar.hub.subscription import Start


def where_to_begin(request: Request) -> Start:
    """Read where a client wants to begin: ``Last-Event-ID``, else the query. Raises `BadValueError` for a bad time."""
    fields = request.query_fields() if request.query else {}
    event_id = b", ".join(request.values(b"last-event-id")).decode("utf-8", "replace").strip()
    event_id = event_id or fields.get("last_event_id") or fields.get("lastEventId") or ""
    if event_id == "earliest":
        return Start(earliest=True)
    if event_id and event_id != "latest":
        return Start(last_event_id=event_id)
    since = fields.get("since")
    return Start(since=_time(since)) if since and not event_id else Start()


def _time(text: str) -> datetime:
    try:
        if text.isdecimal():
            return datetime.fromtimestamp(int(text) / 1000, UTC)
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        raise BadValueError("since must be a time: ISO 8601, or milliseconds since 1970") from None
    time = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return max(time, _AMQP_BEGINS)


_AMQP_BEGINS: Final = datetime.fromtimestamp(0, UTC)  # its timestamps have no sign
