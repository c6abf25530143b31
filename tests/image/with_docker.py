"""The image itself, built and run by a real engine: `make image-test` (minutes; not part of the suite).

Strategy: an engine that is at hand is used; else root starts Debian's dockerd on a socket of its own. Where the base
image cannot be pulled, Debian's own Python is brought in under its name. The containers share the host's network,
because an engine of our own has no bridge. Missing parts are errors that name what to install.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.image.dockerfile import ROOT
from tests.lab.ports import free_port

BASE = "python:3.13-slim"
IMAGE = "sse-sidecar:image-test"
START_WITHIN = 20.0
BUILD_WITHIN = 900.0
PACKAGES = "python3,python3-venv,ca-certificates"
CONFIG = """\
broker: {{url: "memory://"}}
listen: [{{bind: "127.0.0.1:{public}"}}]
admin: {{bind: "127.0.0.1:{admin}"}}
routes: [{{path: /events, exchange: news, declare: {{type: fanout}}}}]
"""
HARDENED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host")


def until(condition: Callable[[], object], within: float, what: str) -> float:
    """Ask until it holds; returns the seconds that it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < within, f"not within {within} s: {what}"
        time.sleep(0.05)  # a poll's pause: the condition decides
    return time.monotonic() - began


class Engine:
    """A Docker engine behind a socket."""

    def __init__(self, host: str) -> None:
        self.host = host

    def answers(self) -> bool:
        return self.command("version").returncode == 0

    def run(self, *arguments: str | Path, within: float = 60.0) -> str:
        done = self.command(*arguments, within=within)
        assert done.returncode == 0, f"docker {arguments}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout.strip()

    def inspect(self, name: str) -> Any:
        return json.loads(self.run("inspect", name))[0]

    def command(self, *arguments: str | Path, within: float = 60.0) -> subprocess.CompletedProcess[str]:
        # The old builder is in every engine; BuildKit would ask for a plugin.
        environment = {**os.environ, "DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0"}
        words = ["docker", *map(str, arguments)]
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=within, check=False)


def needed(program: str, package: str) -> str:
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        raise RuntimeError(f"{program} is missing: apt-get install {package}")
    return found


def remove(place: Path) -> None:
    """All that an engine leaves behind, what it has mounted first."""
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    below = [point for point in mounted if point.startswith(f"{place}/")]
    if below:
        subprocess.run(["umount", *reversed(below)], check=True)
    shutil.rmtree(place)


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    needed("docker", "docker.io")
    at_hand = Engine(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    if at_hand.answers():
        yield at_hand
        return
    place = Path(tempfile.mkdtemp(prefix="image-test-"))  # not below pytest's, which could not remove its mounts
    own = Engine(f"unix://{place}/socket")
    with (place / "log").open("wb") as log:
        daemon = subprocess.Popen(
            [
                needed("dockerd", "docker.io"),
                *("--host", own.host, "--data-root", place / "data", "--exec-root", place / "exec"),
                *("--pidfile", place / "pid", "--bridge=none", "--iptables=false"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        until(own.answers, START_WITHIN, "dockerd")
        yield own
    finally:
        daemon.terminate()
        daemon.wait(START_WITHIN)
        remove(place)


@pytest.fixture(scope="session")
def base(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base image: pulled, or Debian's Python under its name."""
    if engine.command("pull", BASE, within=BUILD_WITHIN).returncode == 0:
        return BASE
    tree = tmp_path_factory.mktemp("base") / "tree"
    made = [needed("debootstrap", "debootstrap"), "--variant=minbase", f"--include={PACKAGES}", "trixie", str(tree)]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL, timeout=BUILD_WITHIN)
    (tree / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    # Whom this machine trusts, so that pip reaches its index from inside as it does from here.
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", tree / "etc/ssl/certs/ca-certificates.crt")
    archive = subprocess.Popen(["tar", "-C", tree, "-c", "."], stdout=subprocess.PIPE)
    imported = ["docker", "-H", engine.host, "import", "--change", "ENV PATH=/usr/local/bin:/usr/bin:/bin", "-", BASE]
    subprocess.run(imported, stdin=archive.stdout, check=True, stdout=subprocess.DEVNULL, timeout=BUILD_WITHIN)
    assert archive.wait(START_WITHIN) == 0
    return BASE


@pytest.fixture(scope="session")
def image(engine: Engine, base: str) -> str:
    build = ("build", "--network", "host", "--build-arg", f"PYTHON_IMAGE={base}", "--build-arg", "REVISION=test")
    engine.run(*build, "--tag", IMAGE, ROOT, within=BUILD_WITHIN)
    return IMAGE


@pytest.fixture
def container(engine: Engine, image: str, tmp_path: Path) -> Iterator[tuple[str, int, int]]:
    """A running container, hardened as the chart does it; its name, public port and admin port."""
    public, admin = free_port(), free_port()
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(public=public, admin=admin))
    mounts = ("--volume", f"{config}:/etc/sidecar/config.yaml:ro", "--env", f"SIDECAR_ADMIN=http://127.0.0.1:{admin}")
    health = ("--health-interval", "1s")
    name = engine.run("run", "--detach", *HARDENED, *mounts, *health, image)
    yield name, public, admin
    engine.run("rm", "--force", name)


def answer(port: int, path: str) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except ConnectionError:
            return 0


def test_it_serves_hardened_and_ends_cleanly(engine: Engine, container: tuple[str, int, int]) -> None:
    name, public, admin = container
    seconds = until(lambda: answer(admin, "/readyz") == 200, START_WITHIN, "ready")
    print(f"ready {seconds:.2f} s after `docker run` had returned")
    with closing(http.client.HTTPConnection("127.0.0.1", public, timeout=10)) as stream:
        stream.request("GET", "/events", headers={"Accept": "text/event-stream"})
        assert stream.getresponse().readline().startswith((b"retry:", b":"))
    began = time.monotonic()
    engine.run("stop", "--time", "30", name)
    state = engine.inspect(name)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert time.monotonic() - began < 29, "it was killed, not ended"


def test_the_engine_sees_it_healthy(engine: Engine, container: tuple[str, int, int]) -> None:
    name = container[0]
    until(lambda: engine.inspect(name)["State"]["Health"]["Status"] == "healthy", START_WITHIN, "healthy")


def test_it_writes_nothing(engine: Engine, container: tuple[str, int, int]) -> None:
    name, _, admin = container
    until(lambda: answer(admin, "/readyz") == 200, START_WITHIN, "ready")
    # The mount point of the configuration is the engine's own doing.
    changes = [line for line in engine.run("diff", name).splitlines() if not line.endswith(("/etc", "/etc/sidecar"))]
    assert [line for line in changes if not line.endswith("/etc/sidecar/config.yaml")] == []


def test_a_bad_configuration_ends_with_2_and_says_why(engine: Engine, image: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("rutes: []\n")
    mount = ("--volume", f"{config}:/etc/sidecar/config.yaml:ro")
    done = engine.command("run", "--rm", *HARDENED, *mount, image)
    assert done.returncode == 2
    assert "rutes" in done.stdout + done.stderr


def test_what_it_is_made_of(engine: Engine, image: str, base: str) -> None:
    facts = engine.inspect(image)
    labels = facts["Config"]["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.revision"] == "test"
    assert facts["Config"]["User"] == "65532:65532"
    added = facts["Size"] - engine.inspect(base)["Size"]
    print(f"{added / 1e6:.0f} MB on top of the base")
    assert added < 120e6
