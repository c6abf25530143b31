"""The commands of a page: run in its directory, watched until they have said what the page shows.

Strategy: a command is a process group whose output a thread reads; whoever waits for it waits on a condition, with an
end. Ports and the broker's URL are replaced on the way in and put back in what is compared.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import os
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.docs.page import Block
from tests.lab.ports import free_port, two_free_ports

PATIENCE = 15.0
BROKER = "amqp://guest:guest@localhost:5672/"
COMMAND = re.compile(r"^\$ (.*(?:\n> .*)*)\n?", re.MULTILINE)
UNSEEN = re.compile(r"[^\n]*\r\x1b\[K|\x1b\[[\d;]*m")
"""What a status line has written over; and styles, of programs that do not know NO_COLOR."""


class Running:
    """A command in a shell, from its start on; on a terminal of 80 columns, or in a pipe."""

    def __init__(self, command: str, directory: Path, env: Mapping[str, str], *, terminal: bool) -> None:
        self.command = command
        self.output = ""
        self.ended = False
        self._changed = threading.Condition()
        self._ours, theirs = os.openpty() if terminal else os.pipe()
        if terminal:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
        self._process = subprocess.Popen(
            ["sh", "-e", "-c", command],
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with contextlib.suppress(OSError):  # Linux's way to say that the other end of a terminal is closed
            while chunk := os.read(self._ours, 65536):
                self._heard(decoder.decode(chunk))
        os.close(self._ours)
        self._heard("", ended=True)

    def _heard(self, text: str, *, ended: bool = False) -> None:
        with self._changed:
            self.output += text
            self.ended = ended
            self._changed.notify_all()

    def until(self, condition: Callable[[str], object], what: str) -> None:
        """Wait until its output is so. AssertionError where it never becomes so."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or condition(self.output), PATIENCE)
            assert condition(self.output), f"{self.command}\ndid not say\n{what}\nbut\n{self.output}"

    def until_end(self) -> int:
        """Wait for its end and return its exit status."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended, PATIENCE), f"{self.command}\ngoes on:\n{self.output}"
        return self._process.wait(PATIENCE)

    def stop(self) -> None:
        """End it: politely, then at once."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)


class Session:
    """The commands and files of one page."""

    def __init__(self, directory: Path, broker_url: str) -> None:
        self.directory = directory
        public, admin = two_free_ports(), free_port()
        self._stands_for = {"8080": public, "8081": public + 1, "9400": admin, "3000": free_port(), "5000": free_port()}
        self._broker_url = broker_url
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
        self.env = {
            **os.environ,
            "PATH": path,
            "HOME": str(directory),
            "AMQP_URL": broker_url,
            "NO_COLOR": "1",
            "TERM": "xterm",
            "TZ": "UTC",
            "PYTHONUNBUFFERED": "1",
        }
        self._background: list[tuple[Running, Callable[[], None]]] = []

    def here(self, text: str) -> str:
        """The text with the addresses of this session instead of those that a reader has."""
        text = text.replace(BROKER, self._broker_url)
        return re.sub(r"\b(8080|8081|9400|3000|5000)\b", lambda port: str(self._stands_for[port[0]]), text)

    def there(self, text: str) -> str:
        """The opposite of `here`."""
        for port, ours in self._stands_for.items():
            text = re.sub(rf"\b{ours}\b", port, text)
        return text.replace(self._broker_url, BROKER)

    def write(self, name: str, text: str) -> None:
        """A file of the page."""
        file = self.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.here(text))

    def shell(self, block: Block) -> None:
        """Commands that show nothing in particular, but must succeed."""
        running = self._start(block.instead or block.text, terminal=False)
        if block.until is not None or block.background:
            self._background.append((running, lambda: None))
            running.until(lambda output: (block.until or "") in output, block.until or "")
            if not block.background:
                running.stop()
        else:
            status = running.until_end()
            assert status == 0, f"{block}: exit status {status}\n{running.output}"

    def console(self, block: Block) -> None:
        """Commands with what they show."""
        _, *parts = COMMAND.split(block.text)
        assert parts, f"{block}: a console shows '$ command'"
        for command, shown in zip(parts[::2], parts[1::2], strict=True):
            self._show(block, self._start(command.replace("\n> ", "\n"), terminal=True), shown)

    def _show(self, block: Block, running: Running, shown: str) -> None:
        whole, first = (_pattern(text, block.numbers_differ) for text in (shown, shown.partition("\n")[0]))
        as_shown: Callable[[], None] = lambda: running.until(self._shows(running, whole), shown)  # noqa: E731
        self._background.append((running, as_shown if block.background else lambda: None))
        if block.until is not None:
            running.until(lambda output: str(block.until) in output, block.until)
        elif block.background:
            running.until(lambda output: first.match(self._seen(output)), shown)
        elif shown:
            as_shown()
            running.stop()
        else:
            status = running.until_end()
            assert (status, running.output) == (0, ""), f"{block}: {status}\n{running.output}"

    def _shows(self, running: Running, pattern: re.Pattern[str]) -> Callable[[str], object]:
        """Whether a command has said what is shown: no more than that, where it has ended."""
        return lambda output: (pattern.fullmatch if running.ended else pattern.match)(self._seen(output))

    def _seen(self, output: str) -> str:
        """What stands on the terminal, with the addresses that a reader has."""
        return UNSEEN.sub("", re.sub(r"\r+\n", "\n", self.there(output))).rstrip() + "\n"

    def _start(self, command: str, *, terminal: bool) -> Running:
        return Running(self.here(command), self.directory, self.env, terminal=terminal)

    def finish(self) -> None:
        """What went on beside must have shown what the page shows."""
        for _, as_shown in self._background:
            as_shown()

    def close(self) -> None:
        """End everything, the last started first."""
        while self._background:
            self._background.pop()[0].stop()


def _pattern(shown: str, numbers_differ: bool) -> re.Pattern[str]:
    text = shown.rstrip()
    goes_on = text.endswith("\n…")
    lines = text.removesuffix("…").rstrip().splitlines()
    return re.compile("".join(_line_pattern(line.rstrip(), numbers_differ) for line in lines) + "(?s:.*)" * goes_on)


def _line_pattern(line: str, numbers_differ: bool) -> str:
    if line == "…":
        return "(?:.*\n)*?"
    text = re.escape(line)
    if numbers_differ:
        text = re.sub(r"\d+", r"\\d+", text)
    return text.replace("…", ".*?") + "[ \t]*\n"
