"""A throwaway RabbitMQ: one node for the test session, a virtual host for each test.

Strategy: Debian's `rabbitmq-server` with a home, a port and an Erlang port mapper of its own, kept small (one scheduler
thread, no plugins). Starting takes some seconds and every `rabbitmqctl` one, so virtual hosts are made by the dozen in
one `eval`, ahead of use. What is missing on the machine is an error with the package to install, never a skip.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.certificates import Certificates
from tests.lab.ports import free_port

BIN = Path("/usr/lib/rabbitmq/bin")
START_WITHIN = 60.0
CONTROL_WITHIN = 60.0
VHOSTS_AT_ONCE = 25
MORTAL_VHOSTS = 4

CONFIG = """\
listeners.tcp.default = 127.0.0.1:{port}
num_acceptors.tcp = 2
loopback_users = none
log.console = true
log.console.level = info
log.file = false
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.absolute = 1GB
"""
TLS_CONFIG = """\
listeners.ssl.default = 127.0.0.1:{port}
num_acceptors.ssl = 2
ssl_options.cacertfile = {authority}
ssl_options.certfile = {certificate}
ssl_options.keyfile = {key}
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
"""
CLUSTER_CONFIG = """\
cluster_formation.peer_discovery_backend = classic_config
cluster_formation.classic_config.nodes.1 = {other}
cluster_formation.classic_config.nodes.2 = {own}
"""


class RabbitNode:
    """One RabbitMQ node on 127.0.0.1; user and password are guest."""

    def __init__(
        self,
        directory: Path,
        certificates: Certificates | None = None,
        *,
        vhosts_at_once: int = VHOSTS_AT_ONCE,
        joins: RabbitNode | None = None,
    ) -> None:
        """``joins``: another node, whose cluster this one joins at its first start."""
        if not (BIN / "rabbitmq-server").exists() or shutil.which("erl") is None:
            raise RuntimeError("RabbitMQ is not installed: apt-get install rabbitmq-server")
        self.directory = directory
        self.port, self.tls_port = free_port(), free_port()
        self._distribution, self._mapper = free_port(), joins._mapper if joins else free_port()
        self._cookie: str = joins._cookie if joins else secrets.token_hex(10).upper()
        self.name = f"rabbit{self.port}@localhost"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "console.log"
        self._vhosts: list[str] = []
        self._vhosts_at_once = vhosts_at_once
        self._write(certificates, joins)

    def _write(self, certificates: Certificates | None, joins: RabbitNode | None) -> None:
        config = CONFIG.format(port=self.port)
        if joins is not None:
            config += CLUSTER_CONFIG.format(other=joins.name, own=self.name)
        if certificates is not None:
            config += TLS_CONFIG.format(
                port=self.tls_port,
                authority=certificates.authority,
                certificate=certificates.certificate,
                key=certificates.key,
            )
        (self.directory / "rabbitmq.conf").write_text(config)
        (self.directory / "enabled_plugins").write_text("[].\n")
        cookie = self.directory / ".erlang.cookie"
        cookie.write_text(self._cookie)
        cookie.chmod(0o400)

    @property
    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(self._mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_CTL_DIST_PORT_MIN": "32001",
            "RABBITMQ_CTL_DIST_PORT_MAX": "32500",
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }

    def start(self) -> None:
        """Start the node on its data, and return once it answers."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [BIN / "rabbitmq-server"],
                env=self._environment,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._await_ready()

    def _await_ready(self) -> None:
        assert self._process is not None
        end = time.monotonic() + START_WITHIN
        while not (b"Server startup complete" in self._log.read_bytes() and self.answers()):
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"RabbitMQ did not start:\n{self.log[-3000:]}")
            time.sleep(0.05)

    def answers(self) -> bool:
        """Whether the AMQP port answers the protocol header with Connection.Start."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as client:
                client.sendall(b"AMQP\x00\x00\x09\x01")
                return client.recv(11)[:1] == b"\x01"
        except OSError:
            return False

    @property
    def log(self) -> str:
        """What the node has written since its last start."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """End the node at once, as a power cut does (SIGKILL to its whole process group)."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End the node and its port mapper, which does not end while it believes the node alive."""
        self.kill()
        end = time.monotonic() + CONTROL_WITHIN
        while not self._kill_mapper() and time.monotonic() < end:
            time.sleep(0.05)

    def _kill_mapper(self) -> bool:
        command = ["epmd", "-port", str(self._mapper), "-kill"]
        done = subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=CONTROL_WITHIN, check=False
        )
        return "living nodes" not in done.stdout + done.stderr

    def restart(self) -> None:
        """Kill the node and start it again on the same data and ports."""
        self.kill()
        self.start()

    def control(self, *arguments: str) -> str:
        """Run `rabbitmqctl` (about a second) and return what it printed."""
        done = subprocess.run(
            [BIN / "rabbitmqctl", "-q", "-n", self.name, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=CONTROL_WITHIN,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def stop_app(self) -> None:
        """An outage without the end of the process: every connection is closed by the broker."""
        self.control("stop_app")

    def start_app(self) -> None:
        """The end of that outage."""
        self.control("start_app")

    def url(self, vhost: str = "/", *, user: str = "guest", password: str = "guest", tls: bool = False) -> str:
        """An AMQP URL of the node."""
        name = "%2F" if vhost == "/" else vhost
        scheme, port = ("amqps", self.tls_port) if tls else ("amqp", self.port)
        return f"{scheme}://{user}:{password}@localhost:{port}/{name}"

    def vhost(self) -> str:
        """The name of a virtual host that nobody has used."""
        if not self._vhosts:
            self._vhosts = self._make_vhosts()
        return self._vhosts.pop()

    def _make_vhosts(self) -> list[str]:
        names = [f"test-{secrets.token_hex(4)}" for _ in range(self._vhosts_at_once)]
        self.control("eval", " ".join(_MAKE_VHOST.format(name=name) for name in names) + " ok.")
        return names

    def user(self, name: str, vhost: str, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> str:
        """A user (password as the name) with these permissions on a virtual host; returns the URL."""
        self.control(
            "eval",
            f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"{name}">>, <<"tests">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"{name}">>, <<"{vhost}">>, '
            f'<<"{configure}">>, <<"{write}">>, <<"{read}">>, <<"tests">>).',
        )
        return self.url(vhost, user=name, password=name)


_MAKE_VHOST = (
    'rabbit_vhost:add(<<"{name}">>, <<"tests">>), '
    'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, '
    '<<".*">>, <<".*">>, <<".*">>, <<"tests">>),'
)


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[RabbitNode]:
    """The session's node."""
    yield from _running(RabbitNode(tmp_path_factory.mktemp("rabbitmq"), certificates))


@pytest.fixture(scope="session")
def mortal_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """Another one, for tests that kill it and start it again: each virtual host that stands makes its start longer."""
    yield from _running(RabbitNode(tmp_path_factory.mktemp("mortal"), vhosts_at_once=MORTAL_VHOSTS))


def _running(node: RabbitNode) -> Iterator[RabbitNode]:
    try:
        node.start()
        yield node
    finally:
        node.stop()


@pytest.fixture
def vhost_url(rabbitmq: RabbitNode) -> str:
    """The URL of a fresh virtual host."""
    return rabbitmq.url(rabbitmq.vhost())
