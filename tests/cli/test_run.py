"""`sidecar run` and how it ends: in this process with a service that is told how, and as a process of its own."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from sidecar import service
from sidecar.cli import app
from sidecar.cli.run import serve
from sidecar.config import Config
from tests.lab.ports import free_port
from tests.lab.process import run_command, running

MEMORY = {"broker": {"url": "memory://"}}


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool | BaseException], None]:
    """Give the service an end: what `serve` returns or raises."""

    def end(outcome: bool | BaseException) -> None:
        async def ended(config: Config, **_: object) -> bool:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(service, "serve", ended)

    return end


Ending = Callable[[bool | BaseException], None]


@pytest.mark.parametrize(("clean", "status"), [(True, 0), (False, 1)])
def test_a_clean_drain_exits_with_0_and_an_end_at_once_with_1(ending: Ending, clean: bool, status: int) -> None:
    ending(clean)
    assert serve(Config()) == status


def test_an_address_in_use_is_one_line_and_no_traceback(ending: Ending, capsys: pytest.CaptureFixture[str]) -> None:
    taken = OSError(98, "cannot listen on 127.0.0.1:80: Address already in use")
    ending(BaseExceptionGroup("two levels", [ExceptionGroup("deep", [taken])]))
    assert serve(Config()) == 1
    [line] = map(json.loads, capsys.readouterr().err.splitlines())
    assert line["level"] == "error"
    assert "127.0.0.1:80: Address already in use (another process has it; bind names another)" in line["problem"]
    assert "exception" not in line


def test_a_bug_is_told_with_its_traceback(ending: Ending, capsys: pytest.CaptureFixture[str]) -> None:
    ending(ExceptionGroup("both", [OSError("in use"), RuntimeError("a bug")]))
    assert serve(Config()) == 1
    [line] = map(json.loads, capsys.readouterr().err.splitlines())
    assert "RuntimeError: a bug" in line["exception"]
    assert "Traceback" in line["exception"]


def test_an_interrupt_before_the_signals_are_watched_is_no_bug(
    ending: Ending, capsys: pytest.CaptureFixture[str]
) -> None:
    ending(KeyboardInterrupt())
    assert serve(Config()) == 1
    [line] = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["level"], "exception" in line) == ("warning", False)


def test_a_bad_configuration_exits_with_2_and_every_mistake(tmp_path: Path, ending: Ending) -> None:
    ending(RuntimeError("it must not get so far"))
    file = tmp_path / "config.yaml"
    file.write_text("listen: [{bind: nowhere}]\nbrokr: {}\n")
    result = CliRunner().invoke(app, ["run", "-c", str(file)])
    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert [line.startswith(f"{file}:{number}:") for number, line in enumerate(lines, 1)] == [True, True]


def test_a_missing_configuration_exits_with_2_and_names_it(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.yaml")
    result = CliRunner().invoke(app, ["run", "-c", missing])
    assert (result.exit_code, missing in result.stderr) == (2, True)


def test_the_process_ends_with_0_at_sigterm_and_has_logged_json(tmp_path: Path) -> None:
    with running(tmp_path, MEMORY) as started:
        assert started.sidecar.terminate() == 0
    listening = started.sidecar.log.wait(lambda line: line.get("event") == "listening")
    assert f"http://127.0.0.1:{started.http[1]}" in listening["addresses"]
    assert listening["level"] == "info"
    assert listening["timestamp"].endswith("Z")


def test_sigint_is_as_good(tmp_path: Path) -> None:
    with running(tmp_path, MEMORY) as started:
        started.sidecar.signal(signal.SIGINT)
        assert started.sidecar.wait() == 0


def test_an_address_in_use_ends_the_process_with_1(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        file.write_text(f"broker: {{url: 'memory://'}}\nlisten: [{{bind: '{address}'}}]\n")
        ended = run_command("run", "-c", str(file), env={"HOME": os.environ["HOME"]})
    assert ended.returncode == 1
    assert f"cannot listen on {address}" in ended.stderr
    assert "Traceback" not in ended.stderr
