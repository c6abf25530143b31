"""Two sidecars behind one nginx, each a process that can be killed and started again at its addresses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.lab.nginx import nginx
from tests.lab.ports import free_port
from tests.lab.process import Sidecar
from tests.replay.numbering import EXCHANGE, KEY, MARKER, STREAM

UPSTREAM = "upstream sidecars {{ {} }}"
SERVER = "server 127.0.0.1:{} max_fails=0;"
LOCATION = "proxy_pass http://sidecars; proxy_http_version 1.1; proxy_set_header Connection '';"
SHUTDOWN = "worker_shutdown_timeout 100ms;"
"""So that a reload ends the streams of the old worker."""
READY_WITHIN = 40.0


def routes(**retention: str) -> list[dict[str, Any]]:
    """The numbers, and the markers of whoever publishes them, in one stream."""
    source = {"exchange": EXCHANGE, "declare": {"type": "topic", "durable": True}}
    replay = {"stream": STREAM, **retention}
    numbers = {"path": "/numbers", **source, "binding_key": KEY, "replay": replay, "retry": "50ms-200ms"}
    return [numbers, {"path": "/markers", **source, "binding_key": MARKER, "replay": replay}]


class Replica:
    """A sidecar that keeps its addresses, whatever happens to its process."""

    sidecar: Sidecar

    def __init__(self, folder: Path, url: str | list[str], routes: list[dict[str, Any]], **more: Any) -> None:
        folder.mkdir()
        self.port, self._admin = free_port(), free_port()
        self._config = folder / "sidecar.yaml"
        config: Mapping[str, Any] = {
            "broker": {"url": url, "reconnect": {"min": "50ms", "max": "500ms"}},
            "listen": [{"bind": f"127.0.0.1:{self.port}"}],
            "admin": {"bind": f"127.0.0.1:{self._admin}"},
            "drain": {"within": "500ms"},
            "routes": routes,
            **more,
        }
        self._config.write_text(yaml.safe_dump(config))

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return "127.0.0.1", self.port

    def launch(self) -> None:
        """Begin to start it."""
        self.sidecar = Sidecar(["run", "-c", str(self._config)], self._admin)

    def start(self) -> None:
        """Start it; return once it is ready."""
        self.launch()
        self.sidecar.wait_ready(READY_WITHIN)

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        self.sidecar.process.kill()
        self.sidecar.process.wait()

    def replace(self) -> None:
        """Kill it and start the next."""
        self.kill()
        self.start()

    def restart(self) -> None:
        """End it as an operator does, and start the next."""
        assert self.sidecar.terminate() == 0, str(self.sidecar.log)
        self.start()


@dataclass(frozen=True)
class Pair:
    """Two replicas and what is in front of them."""

    address: tuple[str, int]
    replicas: tuple[Replica, Replica]
    nginx: Path
    """The directory of nginx: its configuration and its pid."""


@contextlib.contextmanager
def running(*replicas: Replica) -> Iterator[Replica]:
    """Replicas for a block, started side by side; gives the first."""
    with contextlib.ExitStack() as stack:
        for replica in replicas:
            replica.launch()
            stack.callback(replica.kill)
        for replica in replicas:
            replica.sidecar.wait_ready(READY_WITHIN)
        yield replicas[0]


@contextlib.contextmanager
def pair(folder: Path, url: str | list[str], **retention: str) -> Iterator[Pair]:
    """Two replicas for a block, behind nginx."""
    one, two = (Replica(folder / name, url, routes(**retention)) for name in ("one", "two"))
    servers = " ".join(SERVER.format(replica.port) for replica in (one, two))
    front = folder / "nginx"
    front.mkdir()
    with running(one, two), nginx(front, LOCATION, UPSTREAM.format(servers), SHUTDOWN) as address:
        yield Pair(address, (one, two), front)
