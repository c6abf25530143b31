"""An event stream parser for tests: WHATWG HTML §9.2.6, one line at a time, written apart from the product's own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class Event:
    """What a script would get: the event's type, its data, and the last event id at that moment."""

    type: str
    data: str
    id: str = ""


@dataclass(slots=True)
class Parser:
    """Feed it bytes as they come; events, comments and the retry time gather in its fields."""

    events: list[Event] = field(default_factory=list)
    comments: list[str] = field(default_factory=list)
    retry: int | None = None
    last_id: str = ""
    _rest: bytearray = field(default_factory=bytearray)
    _searched: int = 0
    _type: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, data: bytes) -> None:
        """Take bytes. A CR at the very end waits for its LF: no event of a live stream ends in a lone CR here."""
        self._rest += data
        start = 0
        for end in LINE_END.finditer(self._rest, self._searched):
            if end.group() == b"\r" and end.end() == len(self._rest):
                break
            self._line(self._rest[start : end.start()].decode("utf-8", "replace"))
            start = end.end()
        del self._rest[:start]
        self._searched = max(0, len(self._rest) - 1)

    def _line(self, line: str) -> None:
        if not line:
            self._dispatch()
        elif line.startswith(":"):
            self.comments.append(line[1:])
        else:
            name, _, value = line.partition(":")
            self._field(name, value.removeprefix(" "))

    def _field(self, name: str, value: str) -> None:
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self.last_id = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            self.retry = int(value)

    def _dispatch(self) -> None:
        if self._data:
            self.events.append(Event(self._type or "message", "\n".join(self._data), self.last_id))
        self._type, self._data = "", []
