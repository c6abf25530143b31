"""The log is read where it is written: lines from a stream that is a terminal or is none."""

from __future__ import annotations

import inspect
import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiormq.connection
import pytest
import structlog

from sidecar.observe.log import SAID_ALREADY, Lines, configure

log = structlog.get_logger()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def pipe() -> io.StringIO:
    stream = io.StringIO()
    configure(stream)
    return stream


def objects(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_pipe_gets_one_json_object_a_line(pipe: io.StringIO) -> None:
    log.info("stream closed", route="/a/{b}", reason="slow", seconds=1.5)
    log.warning("again")
    first, second = objects(pipe)
    assert list(first)[:3] == ["timestamp", "level", "event"]
    assert (first["event"], first["level"], first["route"], first["reason"], first["seconds"]) == (
        "stream closed",
        "info",
        "/a/{b}",
        "slow",
        1.5,
    )
    assert (second["event"], second["level"]) == ("again", "warning")


def test_times_are_iso_8601_in_utc(pipe: io.StringIO) -> None:
    log.info("now")
    [line] = objects(pipe)
    assert line["timestamp"].endswith("Z")
    assert abs(datetime.fromisoformat(line["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_terminal_gets_keys_and_values_in_colour() -> None:
    terminal = Terminal()
    configure(terminal)
    log.info("stream closed", reason="slow")
    assert "\x1b[" in terminal.getvalue()
    assert "stream closed" in terminal.getvalue()


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_can_be_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    terminal = Terminal()
    configure(terminal)
    log.info("stream closed", reason="slow", streams=3)
    assert "\x1b" not in terminal.getvalue()
    assert "reason=slow streams=3" in terminal.getvalue()


def test_a_strangers_control_characters_do_not_reach_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    configure(terminal)
    log.info("refused", path="/a\r\nforged line\x1b[2J\x9b1m")
    assert terminal.getvalue().count("\n") == 1
    assert not set("\r\x1b\x9b") & set(terminal.getvalue())
    assert "\\x1b[2J" in terminal.getvalue()


def test_an_exception_is_told_with_its_traceback_and_without_local_variables(pipe: io.StringIO) -> None:
    local = "only-in-a-local-variable"
    try:
        raise ValueError(len(local))
    except ValueError:
        log.exception("failed")
    [line] = objects(pipe)
    assert line["level"] == "error"
    assert "Traceback (most recent call last)" in line["exception"]
    assert "ValueError: 24" in line["exception"]
    assert local not in line["exception"]


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_no_secret_is_written(stream: type[io.StringIO]) -> None:
    output = stream()
    configure(output)
    try:
        raise ConnectionError("amqp://guest:s3cr3t@rabbit/")
    except ConnectionError:
        log.exception("cannot reach amqp://guest:s3cr3t@rabbit/", password="s3cr3t", path="/events?token=s3cr3t")
        logging.getLogger("aiormq.connection").exception("connecting to amqp://guest:%s@rabbit", "s3cr3t")
        logging.getLogger("hypercorn.error").exception("request with %r", [(b"cookie", b"a=s3cr3t")])
    assert output.getvalue().count("rabbit") >= 3
    assert "s3cr3t" not in output.getvalue()


def test_debug_lines_are_not_written(pipe: io.StringIO) -> None:
    log.debug("nobody asked")
    logging.getLogger("aio_pika").info("nobody asked")
    logging.getLogger("hypercorn.error").info("Running on http://…")
    assert pipe.getvalue() == ""


def test_libraries_are_heard_from_warning_on(pipe: io.StringIO) -> None:
    logging.getLogger("aiormq.connection").warning("Connection %r was blocked by: %r", "c", "low on memory")
    [line] = objects(pipe)
    assert line["logger"] == "aiormq.connection"
    assert line["level"] == "warning"
    assert line["event"] == "Connection 'c' was blocked by: 'low on memory'"


def test_the_broker_librarys_tracebacks_become_one_line(pipe: io.StringIO) -> None:
    error = ConnectionResetError(104, "Connection reset by peer")
    logging.getLogger("aiormq.connection").warning("Something broke", exc_info=error)
    logging.getLogger("asyncio").error("Task exception was never retrieved\nfuture: <Task …>", exc_info=error)
    for line in objects(pipe):
        assert line["error"] == "ConnectionResetError: [Errno 104] Connection reset by peer"
        assert "exception" not in line
        assert "\n" not in line["event"]


def test_the_servers_tracebacks_stay_whole(pipe: io.StringIO) -> None:
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        logging.getLogger("hypercorn.error").exception("Error in ASGI Framework")
    [line] = objects(pipe)
    assert "RuntimeError: a bug" in line["exception"]


@pytest.mark.parametrize("text", SAID_ALREADY)
def test_what_the_supervision_says_itself_is_not_said_twice(pipe: io.StringIO, text: str) -> None:
    logging.getLogger("aiormq.connection").error(text + ": %r", OSError("refused"))
    assert pipe.getvalue() == ""
    assert text in inspect.getsource(aiormq.connection), "aiormq says it differently now: look at SAID_ALREADY again"


def test_a_log_that_cannot_be_written_harms_nobody() -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    configure(Broken())
    log.error("nobody hears")
    logging.getLogger("hypercorn.error").error("nor this")
    closed = io.StringIO()
    closed.close()
    Lines(closed).msg("nor this")


def test_characters_the_stream_cannot_write_are_escaped() -> None:
    raw = io.BytesIO()
    lines = Lines(io.TextIOWrapper(raw, encoding="ascii", errors="strict"))
    lines.msg("café \udc80")
    assert raw.getvalue() == b"caf\\xe9 \\udc80\n"


def test_values_of_any_kind_can_be_logged(pipe: io.StringIO) -> None:
    log.info("odd", value=object(), data=b"\xff", number=float("inf"), names={"a"}, pairs=[("a", 1)])
    [line] = objects(pipe)
    assert line["data"] == "\\xff"
    assert line["names"] == ["a"]
    assert line["pairs"] == [["a", 1]]


def test_the_last_configuration_counts(pipe: io.StringIO) -> None:
    other = io.StringIO()
    configure(other)
    log.warning("here")
    logging.getLogger("hypercorn.error").warning("and here")
    assert pipe.getvalue() == ""
    assert len(objects(other)) == 2
