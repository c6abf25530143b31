"""The proxies of the page: its text with addresses and files of this test, and the program that reads it.

Strategy: a `Front` is a program, the block of the page it is told, and what belongs around that block on every machine.
Nothing else of the text is touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.docs.page import ROOT, blocks
from tests.lab.certificates import Certificates
from tests.lab.ports import free_port

PAGE = ROOT / "docs" / "how-to" / "in-front.md"
PATIENCE = 15.0

AROUND_NGINX = """\
daemon off;
{user}
worker_processes 1;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 1024; }}
http {{
access_log off;
client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
{text}
}}
"""


@dataclass(frozen=True)
class Front:
    """One configuration of the page."""

    language: str
    number: int
    program: str
    arguments: tuple[str, ...]
    around: str = "{text}"
    tls: bool = True

    def text(self) -> str:
        """The block as it stands in the page."""
        return [block.text for block in blocks(PAGE) if block.language == self.language][self.number]


FRONTS = {
    "nginx as it comes": Front("nginx", 0, "nginx", ("-p", ".", "-e", "error.log", "-c"), AROUND_NGINX, tls=False),
    "nginx": Front("nginx", 1, "nginx", ("-p", ".", "-e", "error.log", "-c"), AROUND_NGINX),
    "HAProxy": Front("haproxy", 0, "haproxy", ("-db", "-f")),
    "Caddy": Front("caddyfile", 0, "caddy", ("run", "--adapter", "caddyfile", "--config")),
}


@contextlib.contextmanager
def running(front: Front, sidecar: tuple[str, int], directory: Path, certificates: Certificates) -> Iterator[int]:
    """The proxy before this sidecar; gives its port on 127.0.0.1."""
    program = shutil.which(front.program, path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, f"{front.program} is not installed: `make lab` installs it"
    port = free_port()
    file = directory / "front.conf"
    file.write_text(_written(front, sidecar, port, directory, certificates))
    environment = {**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory)}
    log = directory / "front.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *front.arguments, str(file)],
            cwd=directory,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await(port, process, log)
        yield port
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # some wait politely for streams that a test has left open
        process.wait(PATIENCE)


def _written(front: Front, sidecar: tuple[str, int], port: int, directory: Path, certificates: Certificates) -> str:
    pem = directory / "app.pem"
    pem.write_bytes(certificates.certificate.read_bytes() + certificates.key.read_bytes())
    come_again = directory / "come-again.http"
    come_again.write_text(_come_again())
    text = front.text()
    for there, here in (
        ("127.0.0.1:8080", f"{sidecar[0]}:{sidecar[1]}"),
        ("/etc/ssl/app.crt", certificates.certificate),
        ("/etc/ssl/app.key", certificates.key),
        ("/etc/ssl/app.pem", pem),
        ("/etc/haproxy/come-again.http", come_again),
        ("app.example {", f"https://localhost:{port} {{\n\tbind 127.0.0.1"),
        ("\tgrace_period", "\tadmin off\n\tauto_https disable_redirects\n\tgrace_period"),
    ):
        text = text.replace(there, str(here))
    text = re.sub(r"(listen |bind :)(80|443)\b", lambda at: f"{at[1].replace(':', '127.0.0.1:')}{port}", text)
    user = "user root;" if os.geteuid() == 0 else ""
    return front.around.format(text=text, user=user)


def _come_again() -> str:
    """HAProxy's answer: the block of the page that is a whole HTTP response, after the line with its name."""
    answer = next(block.text for block in blocks(PAGE) if "come-again.http\nHTTP" in block.text)
    return answer.partition("\n")[2].replace("\n", "\r\n")


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)  # a poll's pause: the connection decides
    raise AssertionError(f"nobody listens at {port}:\n{log.read_text()}")
