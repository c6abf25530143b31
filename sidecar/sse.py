"""Event streams as bytes: blocks to send, and the parser a browser has (WHATWG HTML §9.2).

Strategy: a block is written by replacing line ends in the whole body at once; the usual body has none and costs two
searches and one join, whatever its length. The parser splits bytes into lines before it decodes them, which comes to
the same as decoding first, since CR and LF are never part of another character in UTF-8.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

CONTENT_TYPE: Final = "text/event-stream"
"""The media type of an event stream (§9.2.5); servers send it with ``charset=utf-8``."""

HEARTBEAT: Final = b":\n\n"
"""A whole block that nobody hears: it keeps the connection open (§9.2.7)."""

HEARTBEAT_EVENT: Final = b"event: sidecar.heartbeat\ndata:\n\n"
"""The same for scripts to hear: without an id, so that it disturbs nobody's resume point."""

MAX_EVENT: Final = 512 * 1024 * 1024
"""Bytes of one event that `Parser` holds at most, by default: as large as a broker's message can be."""

EVENT_PREFIXES: Final = 1024
"""How many event types keep their encoded field lines."""

_RETRY_DIGITS: Final = 16  # what is longer is longer than anybody waits, and Python refuses to convert thousands
_CLEAN: Final = {0: None, 10: None, 13: None}


def encode(data: bytes, *, event: str | None = None, id: str | None = None) -> bytes:  # noqa: A002 - the field's name
    """Return one whole event block; what a parser dispatches is ``data`` with CRLF and CR turned into LF.

    ``data`` is UTF-8 (§9.2.5); it is not checked. CR, LF and NUL are removed from ``event`` and ``id``, so that a
    value can never start a field of its own. None leaves a field out; an empty ``id`` clears the reader's last one.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\n" in data:
        data = data.replace(b"\n", b"\ndata: ")
    if event is None and id is None:
        return b"data: %b\n\n" % data
    head = event_prefix(event)
    if id is not None:
        head += b"id: %b\n" % _clean(id)
    return b"%bdata: %b\n\n" % (head, data)


@lru_cache(maxsize=EVENT_PREFIXES)
def event_prefix(event: str | None) -> bytes:
    """Return the ``event:`` line with its end; nothing for None or where nothing is left after cleaning."""
    name = _clean(event or "")
    return b"event: %b\n" % name if name else b""


def retry(milliseconds: int) -> bytes:
    """Return a block that sets the reader's reconnection time (§9.2.6)."""
    return b"retry: %d\n\n" % milliseconds


def comment(text: str) -> bytes:
    """Return a block of comment lines, one for each line of ``text``."""
    lines = text.encode("utf-8", "replace").splitlines() or [b""]
    return b"".join(b": %b\n" % line for line in lines) + b"\n"


def id_block(id: str) -> bytes:  # noqa: A002
    """Return a block that sets the last event id and dispatches nothing."""
    return b"id: %b\n\n" % _clean(id)


def reset(reason: str) -> bytes:
    """Return the event that says that messages may have been missed; it leaves the last event id as it is."""
    return encode(json.dumps({"reason": reason}).encode(), event="sidecar.reset")


def _clean(value: str) -> bytes:
    return value.translate(_CLEAN).encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Event:
    """What a script's listener would get: a MessageEvent's ``type``, ``data`` and ``lastEventId``."""

    type: str
    data: str
    id: str


class EventTooLongError(ValueError):
    """An event is longer than the parser was told to hold."""


class Parser:
    """Turns the bytes of one response into events (§9.2.6).

    Make a new one for each connection and hand it the last one's ``last_event_id``: as in browsers, an id stays in
    force until another comes.
    """

    def __init__(self, last_event_id: str = "", *, max_event: int = MAX_EVENT) -> None:
        self.last_event_id = last_event_id
        """What to send as Last-Event-ID when connecting again."""
        self.retry: int | None = None
        """The reconnection time the server asked for, in milliseconds."""
        self._max_event = max_event
        self._id = last_event_id
        self._type = ""
        self._data: list[str] = []
        self._held = 0
        self._line = bytearray()
        self._first = True
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes and return the events that they complete. Raises `EventTooLongError`.

        A line ends at CR at once, without waiting for a LF that may never come.
        """
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        lines = chunk.splitlines()
        rest = b"" if chunk.endswith((b"\n", b"\r")) else lines.pop()
        events = [event for line in lines if (event := self._end_line(line))]
        self._line += rest
        self._hold(len(rest))
        return events

    def _end_line(self, line: bytes) -> Event | None:
        self._hold(len(line))
        if self._line:
            line = bytes(self._line) + line
            self._line.clear()
        if self._first:  # a byte order mark may lead the stream (§9.2.5)
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        self._field(name, value.removeprefix(b" "))
        return None

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > self._max_event:
            raise EventTooLongError(f"an event is longer than {self._max_event} bytes")

    def _field(self, name: bytes, value: bytes) -> None:
        if name == b"data":
            self._data.append(value.decode("utf-8", "replace"))
        elif name == b"event":
            self._type = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():
            self.retry = int(value.lstrip(b"0")[:_RETRY_DIGITS] or b"0")

    def _dispatch(self) -> Event | None:
        self.last_event_id = self._id
        event = Event(self._type or "message", "\n".join(self._data), self._id) if self._data else None
        self._type = ""
        self._data = []
        self._held = 0
        return event
