"""``sidecar tail``: an event stream in the terminal, or as lines of JSON.

Strategy: events are printed as they come, each flushed. On a terminal a status line stands below the last event; it
is wiped before an event is printed and drawn again after it, and once a second in between. In a pipe there is no such
line; what happens to the connection is then told on standard error.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
from collections import deque
from datetime import UTC, datetime
from typing import Annotated, Final, Protocol

import trio
import typer
from rich.console import Console

from sidecar.cli.event_source import EventSource, EventSourceError
from sidecar.cli.output import tell
from sidecar.sse import Event

RATE_OVER: Final = 5.0
"""Seconds that the rate is an average of."""

RATE_EVENTS: Final = 10_000
"""How many arrivals are kept for it; beyond, the rate is an average of a shorter time."""

REDRAW: Final = 1.0  # seconds

TIME: Final = "%H:%M:%S.%f"
"""How a moment is shown, save for the last three of its digits."""


def tail(
    url: Annotated[str, typer.Argument(metavar="URL", help="An event stream, http or https.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as in a pipe.")] = False,
    count: Annotated[int | None, typer.Option("-n", help="Stop after so many events.", min=1)] = None,
    last_event_id: Annotated[str, typer.Option(help="Go on after this event.")] = "",
    header: Annotated[list[str] | None, typer.Option("-H", "--header", help="A header field, 'Name: value'.")] = None,
    http2: Annotated[bool, typer.Option("--http2", help="HTTP/2, by prior knowledge where the URL is http.")] = False,
) -> None:
    """Read an event stream as a browser's EventSource does: it reconnects, and sends Last-Event-ID.

    Any status but 200 and any other content type end it with 1; a 204, Ctrl-C and `-n` end it with 0.
    In a pipe, and with `--json`, an event is a line: `{"id": …, "type": …, "data": …, "time": when it arrived}`.
    """
    headers = [_field(text) for text in header or ()]
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"{url} has no http:// or https:// in front", param_hint="URL")
    screen: Screen = Terminal() if sys.stdout.isatty() and not as_json else Lines()
    source = EventSource(url, headers=headers, last_event_id=last_event_id, http2=http2, told=screen.told)
    try:
        trio.run(_follow, source, screen, count)
    except BrokenPipeError:  # `| head` has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except EventSourceError as error:
        tell(f"{error}; tried no more, as a browser would not")
        raise typer.Exit(1) from None


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise typer.BadParameter(f"{text!r} is no header field; write 'Name: value'", param_hint="-H")
    return name.strip(), value.strip()


class Screen(Protocol):
    """Where events are shown."""

    def show(self, event: Event) -> None:
        """Print an event that has arrived now."""

    def told(self, text: str) -> None:
        """Hear that the connection's state has changed."""

    def refresh(self) -> None:
        """Draw again what changes with time alone."""

    def close(self) -> None:
        """Leave a clean last line."""


async def _follow(source: EventSource, screen: Screen, count: int | None) -> None:
    failure: EventSourceError | BrokenPipeError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_at_signal, nursery.cancel_scope)
        nursery.start_soon(_refresh, screen)
        try:
            await _show(source, screen, count)
        except (EventSourceError, BrokenPipeError) as error:  # told bare, not in the nursery's group
            failure = error
        nursery.cancel_scope.cancel()
    if not isinstance(failure, BrokenPipeError):
        screen.close()
    if failure is not None:
        raise failure


async def _show(source: EventSource, screen: Screen, count: int | None) -> None:
    shown = 0
    async with source:
        async for event in source:
            screen.show(event)
            shown += 1
            if shown == count:
                return


async def _stop_at_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)
        scope.cancel()


async def _refresh(screen: Screen) -> None:
    while True:
        screen.refresh()
        await trio.sleep(REDRAW)


class Lines:
    """One JSON object a line on standard output; the connection's state on standard error."""

    def show(self, event: Event) -> None:
        """Print the event; ``data`` stays the text it is, JSON or not."""
        arrived = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"id": event.id, "type": event.type, "data": event.data, "time": arrived})
        sys.stdout.write(line + "\n")  # in one piece, also where Python is told not to buffer
        sys.stdout.flush()

    def told(self, text: str) -> None:
        """Print only what somebody would look for when events are missing."""
        if text.partition(" ")[0] not in ("connecting", "connected"):
            print(f"sidecar tail: {text}", file=sys.stderr, flush=True)

    def refresh(self) -> None:
        """Nothing here changes with time."""

    def close(self) -> None:
        """The last line is clean already."""


class Terminal:
    """Events for people, and a status line below them."""

    def __init__(self) -> None:
        console = Console()
        self._colour = console.color_system is not None and not console.no_color
        self._arrivals: deque[float] = deque(maxlen=RATE_EVENTS)
        self._began = math.inf
        self._seen = 0
        self._state = ""
        self._lag: float | None = None

    def show(self, event: Event) -> None:
        """Print time, type, id and data; what a terminal would take for a command is shown as �."""
        now = datetime.now(UTC)
        self._seen += 1
        self._arrivals.append(trio.current_time())
        self._lag = lag(event.data, now)
        warning = event.type == "sidecar.reset"
        parts = [
            self._styled(now.astimezone().strftime(TIME)[:-3], dim=True),
            self._styled(event.type, fg="red" if warning else "cyan", bold=True),
            self._styled(event.id, fg="yellow"),
            compact(event.data),
        ]
        self._print(" ".join(part for part in parts if part))

    def told(self, text: str) -> None:
        """Show the state in the status line; that a connection was lost also among the events, where it stays."""
        why, lost, then = text.rpartition("; ")
        self._state = printable(then)
        if lost:
            now = self._styled(datetime.now().astimezone().strftime(TIME)[:-3], dim=True)
            self._print(f"{now} {self._styled(f'– {why} –', fg='yellow')}")

    def _print(self, line: str) -> None:
        sys.stdout.write(f"\r\x1b[K{line}\n")
        self.refresh()

    def refresh(self) -> None:
        """Draw the status line, shortened where the terminal is narrower."""
        text, width = self.status(trio.current_time()), shutil.get_terminal_size().columns - 1
        shown = text if len(text) <= width else text[: width - 1] + "…"
        sys.stdout.write("\r\x1b[K" + self._styled(shown, dim=True))
        sys.stdout.flush()

    def status(self, now: float) -> str:
        """Return the status: events, their rate, their lag where they tell when they were published, the state."""
        while self._arrivals and self._arrivals[0] < now - RATE_OVER:
            self._arrivals.popleft()
        self._began = min(self._began, now)
        full = len(self._arrivals) == RATE_EVENTS
        over = max(now - self._arrivals[0], 0.001) if full else min(RATE_OVER, max(now - self._began, REDRAW))
        lag = "" if self._lag is None else f" · lag {self._lag:.1f} s"
        events = "1 event" if self._seen == 1 else f"{self._seen} events"
        return f"{events} · {len(self._arrivals) / over:.1f}/s{lag} · {self._state}"

    def close(self) -> None:
        """Wipe the status line."""
        sys.stdout.write("\r\x1b[K")
        sys.stdout.flush()

    def _styled(self, text: str, *, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
        text = printable(text)
        return typer.style(text, fg=fg, bold=bold or None, dim=dim or None) if self._colour and text else text


def compact(data: str) -> str:
    """Return data for one line where it is JSON, else with its other lines below the first."""
    if "\n" in data:
        try:
            data = json.dumps(json.loads(data), ensure_ascii=False)
        except ValueError:
            pass
    return "\n    ".join(map(printable, data.split("\n")))


def printable(text: str) -> str:
    """Return the text without anything that would move a cursor or change a colour."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character == "\t" else "�" for character in text)


def lag(data: str, now: datetime) -> float | None:
    """Return seconds since the ``timestamp`` of an envelope (SPEC §2, ``data: envelope``); None where it has none."""
    if '"timestamp"' not in data:
        return None
    try:
        published = datetime.fromisoformat(json.loads(data)["timestamp"])
        return max(0.0, (now - published).total_seconds())
    except (ValueError, TypeError, KeyError):  # an application's own JSON, or a time without its zone
        return None
