"""check, explain, schema and the command line around them, as an operator and as a script see them."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sidecar import __version__
from sidecar.cli import COMMANDS, HIDDEN, app

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
BROKEN = Path(__file__).parents[1] / "config" / "broken"


def invoke(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def on_terminal(*words: str | Path, **environ: str) -> tuple[int, str]:
    """Exit code and output of the command on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", **environ}
    command = [sys.executable, "-m", "sidecar", *map(str, words)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    output = b""
    try:
        while chunk := os.read(ours, 65536):
            output += chunk
    except OSError:  # Linux's way to say that the other end of a terminal is closed
        pass
    os.close(ours)
    return process.wait(timeout=10), output.decode().replace("\r\n", "\n")


def in_pipe(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sidecar", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


def test_check_in_a_pipe_gives_the_routes_as_lines_of_json() -> None:
    done = in_pipe("check", "-c", EXAMPLE)
    assert (done.returncode, done.stderr) == (0, "")
    routes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [route["path"] for route in routes][:3] == [
        "/events/orders/{order}",
        "/events/news",
        "/events/tenants/{tenant}",
    ]
    assert routes[0]["binding_key"] == ["order.{order}.*"]


def test_check_in_a_pipe_gives_the_report_and_2() -> None:
    done = in_pipe("check", "-c", BROKEN / "unknown-parameter.yaml")
    assert (done.returncode, done.stderr) == (2, "")
    expected = (BROKEN / "unknown-parameter.expected").read_text()
    assert done.stdout == f"{BROKEN}/{expected}"


def test_values_that_json_does_not_know_are_texts(tmp_path: Path) -> None:
    headers = "{x-match: all, since: 2026-11-21T10:00:00Z}"
    (tmp_path / "c.yaml").write_text(f"routes: [{{path: /a, exchange: x, binding_headers: {headers}}}]")
    expected = {"x-match": "all", "since": "2026-11-21 10:00:00+00:00"}
    assert json.loads(invoke("check", "-c", tmp_path / "c.yaml").stdout)["binding_headers"] == expected
    assert json.loads(invoke("explain", "-c", tmp_path / "c.yaml", "/a").stdout)["binding_headers"] == expected


def test_check_on_a_terminal_is_a_table_within_80_columns() -> None:
    code, output = on_terminal("check", "-c", EXAMPLE, NO_COLOR="1")
    assert code == 0
    assert "\x1b" not in output
    lines = output.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == ["path", "source", "binding", "event"]
    assert all(
        any(line.split()[:1] == [path] for line in lines) for path in ("/events/news", "/events/tenants/{tenant}")
    )
    assert lines[-1] == f"{EXAMPLE}: 7 routes, no mistakes"
    assert any("/events/orders/{order}" in line and "order.{order}.*" in line for line in lines)


def test_long_names_are_folded_and_whole(tmp_path: Path) -> None:
    long = "a" * 120
    (tmp_path / "c.yaml").write_text(
        f"routes: [{{path: /{long}, exchange: {long}, binding_key: {long}, event: {long}}}]"
    )
    code, output = on_terminal("check", "-c", tmp_path / "c.yaml", NO_COLOR="1")
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80
    assert output.count("a") >= 4 * 120


def test_mistakes_on_a_terminal_are_folded_between_words() -> None:
    code, output = on_terminal("check", "-c", BROKEN / "choices.yaml")
    assert code == 2
    assert "\x1b[1m" in output
    code, plain = on_terminal("check", "-c", BROKEN / "choices.yaml", NO_COLOR="1")
    assert code == 2
    *lines, count = plain.splitlines()
    expected = (BROKEN / "choices.expected").read_text().splitlines()
    assert count == f"{len(expected)} mistakes"
    assert max(len(line) for line in lines if line.startswith("    ")) <= 80
    whole = " ".join(f"{BROKEN}/{line}" for line in expected)
    assert " ".join(lines).replace(":", "").split() == whole.replace(":", "").split()


def test_one_mistake_is_one(tmp_path: Path) -> None:
    code, plain = on_terminal("check", "-c", tmp_path / "none.yaml", NO_COLOR="1")
    assert (code, plain.splitlines()[-1]) == (2, "1 mistake")


def test_what_says_nothing_is_not_shown_to_people() -> None:
    _, output = on_terminal("explain", "-c", EXAMPLE, "/events/orders/7", NO_COLOR="1")
    assert "readers" in output
    assert "binding_headers" not in output
    assert "–" not in output


def test_the_default_file_is_config_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    missing = invoke("check")
    assert missing.exit_code == 2
    ways_out = "name another with -c; sidecar demo needs none"
    assert missing.output == f"config.yaml:1:1: cannot be read: No such file or directory ({ways_out})\n"
    (tmp_path / "config.yaml").write_text("routes: [{path: /a, exchange: x}]")
    assert json.loads(invoke("check").stdout)["path"] == "/a"


def explained(path: str) -> dict[str, object]:
    result = invoke("explain", "-c", EXAMPLE, path)
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_explain_resolves_the_binding_keys() -> None:
    assert explained("/events/orders/7") == {
        "route": "/events/orders/{order}",
        "parameters": {"order": "7"},
        "exchange": "orders",
        "binding_key": ["order.7.*"],
        "binding_headers": {},
        "event": "{type}",
        "where": {},
        "readers": "anybody",
    }


def test_explain_reads_the_query_and_headers() -> None:
    news = explained("/events/news?topic=sport&x=y%20z&topic=other")
    assert news["binding_key"] == ["news.sport.#", "news.all"]
    assert news["parameters"] == {"query.topic": "sport", "query.x": "y z"}
    tenant = explained("/events/tenants/a%2Fb")
    assert tenant["binding_headers"] == {"x-match": "all", "tenant": "a/b"}
    assert tenant["binding_key"] == []


@pytest.mark.parametrize("path", ["/events/orders/a.b", "/events/orders/", "/events/orders/%23", "/events/orders/%ff"])
def test_explain_says_which_value_would_be_refused(path: str) -> None:
    assert str(explained(path)["answer"]).startswith("400: order must be one word of a routing key")


def test_explain_misses_a_query() -> None:
    assert explained("/events/news")["answer"] == "400: the query must name topic"


def test_explain_exits_with_1_where_no_route_is() -> None:
    result = invoke("explain", "-c", EXAMPLE, "/elsewhere?x=y")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "no route takes /elsewhere: it goes to the application, http://127.0.0.1:3000\n"


@pytest.mark.parametrize(
    ("path", "instead"), [("/elsewhere", "the answer is 404"), ("events/a", "a path begins with /")]
)
def test_explain_says_what_happens_instead(tmp_path: Path, path: str, instead: str) -> None:
    (tmp_path / "config.yaml").write_text("routes: [{path: /events/a, exchange: a}]")
    result = invoke("explain", "-c", tmp_path / "config.yaml", path)
    assert (result.exit_code, result.stderr) == (1, f"no route takes {path}: {instead}\n")


def test_explain_of_a_broken_file_exits_with_2() -> None:
    result = invoke("explain", "-c", BROKEN / "only-text.yaml", "/x")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "a configuration is a mapping of keys" in result.stderr


def test_explain_on_a_terminal() -> None:
    code, output = on_terminal("explain", "-c", EXAMPLE, "/events/orders/7", NO_COLOR="1")
    assert code == 0
    lines = [line.split(maxsplit=1) for line in output.splitlines()]
    assert ["binding_key", "order.7.* "] in [[key, f"{value.strip()} "] for key, value in lines]
    assert max(map(len, output.splitlines())) <= 80


def test_schema_is_json() -> None:
    result = invoke("schema")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["properties"]["routes"]["items"] == {"$ref": "#/$defs/Route"}


@pytest.mark.parametrize("name", ["check", "explain", "schema"])
def test_a_command_s_help_has_its_example(name: str) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert f"Example: {COMMANDS[name][1]}" in " ".join(result.stdout.split())


def test_help_lists_every_command_and_imports_none() -> None:
    code = "import sys, sidecar.cli; sidecar.cli.app(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    *shown, modules = done.stdout.splitlines()
    for name, (summary, _) in COMMANDS.items():
        assert any(name in line and summary in line for line in shown) is (name not in HIDDEN)
    loaded = set(modules.split())
    assert loaded.isdisjoint({"trio", "hypercorn", "aio_pika", "pydantic", "yaml", "sidecar.cli.check"})


@pytest.mark.parametrize(
    ("words", "says"), [(["chekc"], "check"), (["check", "--frob"], "--frob"), (["explain"], "PATH")]
)
def test_a_wrong_command_line_exits_with_2(words: list[str], says: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert says in result.stderr


def test_version() -> None:
    assert invoke("--version").stdout == f"sidecar {__version__}\n"
