"""A throwaway RabbitMQ for the length of one run: no service manager, nothing left behind.

Strategy: RabbitMQ's own start script with every path and port of its own, and an `epmd` of its own, so that neither a
RabbitMQ of the machine nor another run is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.build import BuildError, tool
from bench.process import BenchError, Program, free_port

# Debian's wrapper of the same name in /usr/sbin changes the user, who may not write here.
_PLACES = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/local/sbin/rabbitmq-server")
ENVIRONMENT = "environment.json"


def _start_script() -> str:
    return next((path for path in _PLACES if Path(path).exists()), None) or _required("rabbitmq-server")


def _required(name: str) -> str:
    if path := tool(name):
        return path
    raise BuildError(f"missing here: {name}")


def _environment(home: Path, port: int, epmd_port: int) -> dict[str, str]:
    (home / "plugins").write_text("[].\n")
    (home / "rabbitmq.conf").write_text("loopback_users = none\nlog.console.level = info\n")
    return {
        "HOME": str(home),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_NODENAME": "bench@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
        "RABBITMQ_LOG_BASE": str(home / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        # One scheduler that does not spin: the broker must not take the cores from the servers that are measured.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
    }


@contextlib.contextmanager
def rabbitmq(directory: Path) -> Iterator[tuple[int, Program]]:
    """A RabbitMQ node in `directory`; yields its AMQP port and the running program."""
    home = directory / "rabbitmq"
    home.mkdir()
    port, epmd_port = free_port(), free_port()
    environment = _environment(home, port, epmd_port)
    (home / ENVIRONMENT).write_text(json.dumps(environment))
    epmd = [_required("epmd"), "-port", str(epmd_port), "-address", "127.0.0.1"]
    with (
        Program(epmd, cwd=home, log=home / "epmd.log", env={"HOME": str(home)}) as names,
        Program([_start_script()], env=environment, cwd=home, log=home / "node.log") as node,
    ):
        names.wait_listening(epmd_port)
        node.wait_logged("Server startup complete")
        yield port, node


def evaluate(directory: Path, expression: str) -> str:
    """What an Erlang expression is worth in the node of `directory`. Raises `BenchError`."""
    home = directory / "rabbitmq"
    environment = {**os.environ, **json.loads((home / ENVIRONMENT).read_text())}
    command = [Path(_start_script()).with_name("rabbitmqctl"), "-q", "-n", environment["RABBITMQ_NODENAME"], "eval"]
    done = subprocess.run(
        [*command, expression], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise BenchError(f"rabbitmqctl: {done.stdout}{done.stderr}")
    return done.stdout.strip()
