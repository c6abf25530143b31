"""nginx in front: a throwaway process with a configuration of its own, nothing of the system's read or written."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.lab.ports import free_port

PATIENCE = 30.0

CONFIGURATION = """\
daemon off;
{user}
{main}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 1024; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
{beside}
    server {{
        listen 127.0.0.1:{port};
        location / {{
{location}
        }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(directory: Path, location: str, beside: str = "", main: str = "") -> Iterator[tuple[str, int]]:
    """Nginx with one server and one ``location /`` holding these lines, and others ``beside`` it; gives its address.

    ``main`` stands at the outermost level.
    """
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "nginx is not installed: `make lab` installs it"
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""
    file = directory / "nginx.conf"
    places = {"user": user, "main": main, "beside": beside, "location": location}
    file.write_text(CONFIGURATION.format(directory=directory, port=port, **places))
    command = [program, "-p", str(directory), "-c", str(file), "-e", str(directory / "error.log")]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        _wait_listening(port, process, directory)
        yield "127.0.0.1", port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait_listening(port: int, process: subprocess.Popen[bytes], directory: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)  # a poll's pause: the connection decides
    log = directory / "error.log"
    raise AssertionError(f"nginx does not listen: {log.read_text() if log.exists() else 'no log'}")
