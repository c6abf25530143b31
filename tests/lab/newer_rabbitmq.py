"""A plugin of pytest: a newer RabbitMQ in the place of the machine's own (`make longer`).

    pytest -p tests.lab.newer_rabbitmq tests/broker/test_streams.py tests/replay/test_stream_filter.py

Debian 12 has RabbitMQ 3.10; since 3.13 the reader of a stream may have held back what is not meant for it. The RabbitMQ
of the next Debian is fetched once, into `.lab/`, by `debootstrap`, which needs root.

Strategy: the node is the suite's own (`tests.lab.rabbitmq`); only its programs are others, scripts that change their
root first. Each does so in a mount namespace of its own, where the new root has this machine's /tmp, so that paths mean
the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

SUITE: Final = "trixie"
ROOT: Final = Path(__file__).resolve().parents[2] / ".lab" / SUITE
PACKAGES: Final = "ca-certificates,netbase,rabbitmq-server"
FETCHED_WITHIN: Final = 600.0

PROGRAM: Final = """\
#!/bin/sh
exec unshare --mount sh -c '
    mount --bind /tmp {root}/tmp && mount -t proc proc {root}/proc && mount --bind /dev {root}/dev &&
    exec chroot {root} {program} "$@"' {program} "$@"
"""


def pytest_configure() -> None:
    """Let the session's nodes be newer ones."""
    from tests.lab import rabbitmq  # pytest rewrites it, where it is not imported before

    rabbitmq.BIN = newer(rabbitmq.BIN)


def newer(programs: Path) -> Path:
    """A folder with scripts that run a newer RabbitMQ's programs, which are fetched where they are missing."""
    scripts = ROOT.with_name(f"{SUITE}-bin")
    if not scripts.exists():
        _fetch()
        scripts.mkdir()
        for name in ("rabbitmqctl", "rabbitmq-server"):
            script = scripts / name
            script.write_text(PROGRAM.format(root=ROOT, program=programs / name))
            script.chmod(0o755)
    return scripts


def _fetch() -> None:
    assert shutil.which("debootstrap"), "there is no debootstrap here: apt-get install debootstrap"
    assert os.geteuid() == 0, "this changes its root directory, which only root may"
    shutil.rmtree(ROOT, ignore_errors=True)
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(ROOT)]
    subprocess.run(command, check=True, timeout=FETCHED_WITHIN)
    shutil.copy("/etc/hosts", ROOT / "etc" / "hosts")
