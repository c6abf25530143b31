"""Build and install what the benchmark runs, all of it under ``bench/.build``.

Strategy: a part is made again only when its sources (or the versions they pin) have changed; a missing tool is said at
once with the name of the package that holds it, before anything is measured. The peers that need a toolchain which is
not here are left out, and the report says so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE / ".build"
PEERS = HERE / "peers"
INSTALL_SECONDS = 300

_C_PROGRAMS = {
    "load": ["-lssl", "-lcrypto"],
    "publish": ["-lrabbitmq"],
    "floor": ["-lrabbitmq"],
    "ask": [],
    "origin": [],
}
_PACKAGES = {
    "cc": "gcc",
    "openssl": "openssl",
    "rabbitmq-server": "rabbitmq-server",
    "epmd": "erlang-base",
    "/usr/include/amqp.h": "librabbitmq-dev",
    "/usr/include/openssl/ssl.h": "libssl-dev",
}
_NCHAN = ("/usr/lib/nginx/modules/ngx_nchan_module.so", "/usr/share/nginx/modules/ngx_nchan_module.so")


class BuildError(Exception):
    """Something the benchmark cannot do without is missing or does not build; the text says what to do."""


def build() -> dict[str, str]:
    """Make everything; returns the peers that cannot be had here, each with the reason. Raises `BuildError`."""
    _require_tools()
    BUILD.mkdir(exist_ok=True)
    for name, libraries in _C_PROGRAMS.items():
        _when_changed(name, _sources("*.[ch]"), partial(_compile, name, libraries))
    _when_changed("certificate", [], _certificate)
    parts = {"go": _go, "node": _node, "uvicorn": _uvicorn, "nchan": _nchan, "nginx": _nginx}
    return {name: reason for name, make in parts.items() if (reason := make())}


def tool(name: str) -> str | None:
    """Where a program is; /usr/sbin is not on every user's PATH."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/lib/rabbitmq/bin")


def _require_tools() -> None:
    missing = [
        package
        for name, package in _PACKAGES.items()
        if not (Path(name).exists() if name.startswith("/") else tool(name))
    ]
    if missing:
        raise BuildError(f"missing here: {', '.join(missing)}. Install them, e.g. apt-get install {' '.join(missing)}")


def _sources(pattern: str, directory: Path = HERE) -> list[Path]:
    return sorted(directory.glob(pattern))


def _when_changed(name: str, sources: Iterable[Path], make: Callable[[], None]) -> None:
    """Call `make` unless the stamp of an earlier, finished call holds the same digest of the sources."""
    digest = hashlib.sha256(sys.version.encode() + b"".join(path.read_bytes() for path in sources)).hexdigest()
    stamp = BUILD / f"{name}.stamp"
    if stamp.exists() and stamp.read_text() == digest:
        return
    make()
    stamp.write_text(digest)


def _run(*command: str | Path, cwd: Path = HERE, **environment: str) -> None:
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"not done within {INSTALL_SECONDS} s: {' '.join(map(str, command))}") from None
    if done.returncode:
        raise BuildError(f"failed: {' '.join(map(str, command))}\n{done.stdout[-2000:]}")


def _compile(name: str, libraries: list[str]) -> None:
    _run("cc", "-O2", "-Wall", "-Wextra", "-o", BUILD / name, f"{name}.c", *libraries)


def _certificate() -> None:
    """A certificate for the TLS works: an elliptic key, as most sites have now."""
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650")
    files = ("-keyout", BUILD / "tls.key", "-out", BUILD / "tls.crt")
    _run("openssl", *new, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", *files)


def _go() -> str | None:
    if not tool("go"):
        return "no Go toolchain"
    sources = _sources("*", PEERS / "go")
    environment = {"GOMODCACHE": str(BUILD / "gomod"), "GOFLAGS": "-modcacherw -buildvcs=false"}
    command = ("go", "build", "-o", BUILD / "go")
    return _optional("go", sources, lambda: _run(*command, ".", cwd=PEERS / "go", **environment))


def _node() -> str | None:
    if not (tool("node") and tool("npm")):
        return "no Node.js"
    sources = [*_sources("*.js*", PEERS / "node"), PEERS / "node" / ".npmrc"]
    return _optional("node", sources, lambda: _install_node(sources))


def _install_node(sources: list[Path]) -> None:
    (BUILD / "node").mkdir(exist_ok=True)
    for source in sources:
        shutil.copy(source, BUILD / "node")
    _run("npm", "ci", "--no-fund", "--no-audit", cwd=BUILD / "node")


def _uvicorn() -> str | None:
    requirements = PEERS / "uvicorn" / "requirements.txt"
    return _optional("uvicorn", [requirements], lambda: _install_uvicorn(requirements))


def _install_uvicorn(requirements: Path) -> None:
    _run(sys.executable, "-m", "venv", "--clear", BUILD / "venv")
    _run(BUILD / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)


def _optional(name: str, sources: list[Path], make: Callable[[], None]) -> str | None:
    try:
        _when_changed(name, sources, make)
    except BuildError as error:
        return str(error)
    return None


def _nginx() -> str | None:
    return None if tool("nginx") else "no nginx (package nginx)"


def _nchan() -> str | None:
    return _nginx() or (None if nchan_module() else "no nchan (package libnginx-mod-nchan)")


def nchan_module() -> Path | None:
    """The nchan module of nginx, where it is installed."""
    return next((path for path in map(Path, _NCHAN) if path.exists()), None)
