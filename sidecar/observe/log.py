"""The log: key=value lines for a person at a terminal, JSON objects for a machine in a pipe.

Strategy: structlog's plain (synchronous) methods, rendered and written by the caller in one go; modules ask for
``structlog.get_logger()`` and say an event in a few words with its facts as keys. What libraries say through the
standard library's logging goes the same way: from WARNING on, and without what our own lines tell better. The last
step before rendering takes the secrets out, whoever put them in. Times are ISO 8601 in UTC; on a terminal the local
time of day.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import datetime
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from sidecar.observe.secrets import hide_under_name

# At every lost connection these say, at length, what the broker's supervision says in one line.
SAID_ALREADY = ("error when creating transport", "Cancelling cause reader exited")

# Libraries whose tracebacks lead into the library and no further; their error is told in one line.
NO_TRACEBACK = ("aio_pika", "aiormq", "asyncio")

# A terminal obeys control characters; a log line must not be able to give orders (or to look like two).
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {9: "\\t", 10: "\\n", 13: "\\r"}
_CONTROLS_OF_A_LINE = {code: text for code, text in _CONTROLS.items() if code not in (9, 10)}


def configure(stream: TextIO | None = None) -> None:
    """Send every log line of this process to ``stream`` (default: standard error as it is now).

    Colours only on a terminal that knows them, and never where ``NO_COLOR`` is set (no-color.org).
    May be called again; the last call counts.
    """
    lines = Lines(stream or sys.stderr)
    ending = _ending(lines.stream)
    start: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, *start, *ending],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    _route_standard_logging(lines, start, ending)


class Lines:
    """Writes whole lines, for structlog and for the standard library's handler alike."""

    def __init__(self, stream: TextIO) -> None:
        """Write to this text stream, flushing after each line."""
        self.stream = stream

    def msg(self, line: str) -> None:
        """Write one line. A log that cannot be written any more (closed pipe, full disk) must not end a stream."""
        try:
            encoding = self.stream.encoding or "utf-8"
            self.stream.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            self.stream.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = warn = error = err = critical = fatal = exception = failure = log = msg


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Take secrets out of a line's text and of every value in it; a structlog processor."""
    return {
        name: value if name in ("level", "timestamp") else hide_under_name(name, value) for name, value in event.items()
    }


class _Handler(logging.Handler):
    def __init__(self, lines: Lines) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.msg(self.format(record))


def _route_standard_logging(lines: Lines, start: list[Processor], ending: list[Processor]) -> None:
    handler = _Handler(lines)
    handler.addFilter(lambda record: not str(record.msg).startswith(SAID_ALREADY))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *start, _tell_in_one_line],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def _tell_in_one_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    if event["logger"].split(".")[0] in NO_TRACEBACK:
        exc_info = event.pop("exc_info", None)
        event["event"] = event["event"].partition("\n")[0]
        if exc_info:
            event["error"] = f"{type(exc_info[1]).__name__}: {exc_info[1]}"
    return event


def _ending(stream: TextIO) -> list[Processor]:
    # format_exc_info, because structlog's prettier ways to show an exception show local variables with it.
    common: list[Processor] = [structlog.processors.format_exc_info, redact]
    if not stream.isatty():
        return [*common, _head_first, structlog.processors.JSONRenderer()]
    console = structlog.dev.ConsoleRenderer(
        colors=_may_colour(),
        exception_formatter=structlog.dev.plain_traceback,
        sort_keys=False,
        pad_event_to=0,
        pad_level=False,
    )
    return [*common, _time_alone, _disarm, console]


def _time_alone(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    # Whoever sits there knows the day; a line that stays below 80 columns is worth more.
    event["timestamp"] = datetime.fromisoformat(event["timestamp"]).astimezone().strftime("%H:%M:%S")
    return event


def _head_first(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {name: event[name] for name in ("timestamp", "level", "event")} | dict(event)


def _may_colour() -> bool:
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _disarm(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = value.translate(_CONTROLS_OF_A_LINE if name == "exception" else _CONTROLS)
    return event
