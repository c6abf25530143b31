"""The image's steps without an engine: built by the Dockerfile's own lines, run as nobody in a tree nobody can write.

Strategy: one build for the module, below a directory of its own (pytest's is closed to other users). The time until
the program is ready is printed; the image's aim of two seconds is for machines that do nothing else.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.image.dockerfile import ROOT, carry_out, stages
from tests.lab.ports import free_port

NOBODY = 65532
READY_WITHIN = 20.0
CONFIG = """\
broker: {{url: "memory://"}}
listen: [{{bind: "127.0.0.1:{public}"}}]
admin: {{bind: "127.0.0.1:{admin}", publish: true}}
drain: {{within: 1s}}
routes:
  - {{path: /events, exchange: news, declare: {{type: fanout}}}}
"""


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    """Where the image's ``/opt`` and the configuration stand; closed to writing when it is given out."""
    root = Path(tempfile.mkdtemp(prefix="sidecar-image-"))
    root.chmod(0o755)
    carry_out(stages((ROOT / "Dockerfile").read_text())[0], root)
    shutil.rmtree(root / "src")
    subprocess.run(["chmod", "-R", "a-w", root], check=True)
    yield root
    subprocess.run(["chmod", "-R", "u+w", root], check=True)
    shutil.rmtree(root)


def as_nobody(*command: str | Path) -> list[str]:
    """The command under the image's user number; who is not root is nobody enough."""
    if os.getuid() != 0:
        return list(map(str, command))
    drop = (
        "setpriv",
        f"--reuid={NOBODY}",
        f"--regid={NOBODY}",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    )
    return list(map(str, (*drop, *command)))


def environment(tree: Path) -> dict[str, str]:
    """What the image sets, and nothing of the machine's."""
    return {"PATH": f"{tree}/opt/sidecar/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


@contextmanager
def started(tree: Path, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = as_nobody(tree / "opt/sidecar/bin/sidecar", "run", "-c", config)
    process = subprocess.Popen(command, env=environment(tree), cwd="/", stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def status(port: int, path: str, method: str = "GET", body: bytes | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with closing(connection):
        try:
            connection.request(method, path, body)
            return connection.getresponse().status
        except ConnectionError:
            return 0


def wait_ready(process: subprocess.Popen[bytes], port: int) -> float:
    """Ask until it is ready; returns the seconds that it took."""
    began = time.monotonic()
    while status(port, "/readyz") != 200:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() - began < READY_WITHIN, "not ready in time"
        time.sleep(0.02)  # a poll's pause: the answer decides
    return time.monotonic() - began


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Path, int, int]]:
    """A configuration that nobody may read and not write, its public port and its admin port."""
    public, admin = free_port(), free_port()
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o555)
        config = Path(directory) / "config.yaml"
        config.write_text(CONFIG.format(public=public, admin=admin))
        config.chmod(0o444)
        yield config, public, admin


def snapshot(tree: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in tree.rglob("*")}


def test_it_runs_as_nobody_in_a_tree_that_it_cannot_write(tree: Path, place: tuple[Path, int, int]) -> None:
    config, public, admin = place
    before = snapshot(tree)
    with started(tree, config) as process:
        seconds = wait_ready(process, admin)
        print(f"ready {seconds:.2f} s after its start")
        stream = http.client.HTTPConnection("127.0.0.1", public, timeout=10)
        with closing(stream):
            stream.request("GET", "/events", headers={"Accept": "text/event-stream"})
            events = stream.getresponse()
            assert status(admin, "/publish/news/any", "POST", b"from the image") in (200, 202, 204)
            while (line := events.readline()) != b"data: from the image\n":
                assert line, "the stream ended without the event"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert snapshot(tree) == before


def test_the_health_check_is_the_images_own_command(tree: Path, place: tuple[Path, int, int]) -> None:
    config, _, admin = place
    (check,) = [each for each in stages((ROOT / "Dockerfile").read_text())[-1] if each.word == "HEALTHCHECK"]
    words = check.rest.partition("CMD ")[2].strip('[]"').replace('", "', " ").split()
    command = as_nobody(tree / "opt/sidecar/bin" / words[0], *words[1:])
    told = environment(tree) | {"SIDECAR_ADMIN": f"http://127.0.0.1:{admin}"}
    before = subprocess.run(command, env=told, capture_output=True, text=True, timeout=10, check=False)
    assert before.returncode == 1
    assert "refused" in before.stderr
    with started(tree, config) as process:
        wait_ready(process, admin)
        after = subprocess.run(command, env=told, capture_output=True, text=True, timeout=10, check=False)
        assert (after.returncode, after.stderr) == (0, "")


def test_the_environment_has_what_the_lock_has_and_no_installer(tree: Path) -> None:
    installed = {path.name.partition("-")[0].lower() for path in (tree / "opt/sidecar").rglob("*.dist-info")}
    assert {"sse_sidecar", "trio", "hypercorn"} <= installed
    assert not {"pip", "setuptools", "hatchling"} & installed


def test_a_lock_with_a_wrong_hash_is_refused(tree: Path, tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("sniffio==1.3.1 --hash=sha256:" + "0" * 64 + "\n")
    pip: list[str | Path] = [
        tree / "opt/build/bin/pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "-r",
        lock,
        "-d",
        tmp_path,
    ]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr
