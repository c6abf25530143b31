"""A running sidecar whose configuration is changed: writing it in each of the ways in which files change."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio
import yaml

from tests.lab.process import Service


def route(path: str, exchange: str = "operation", **options: Any) -> dict[str, Any]:
    """A route on a topic exchange; its binding key is the last segment of its path."""
    key = path.rpartition("/")[2]
    return {"path": path, "exchange": exchange, "declare": {"type": "topic"}, "binding_key": key, **options}


def memory(*routes: Mapping[str, Any], **options: Any) -> dict[str, Any]:
    """A configuration on the embedded broker; what must end ends within half a second."""
    return {"broker": {"url": "memory://"}, "drain": {"within": "500ms"}, "routes": list(routes), **options}


def changed(service: Service, **keys: Any) -> str:
    """The text of the service's configuration with these keys in the place of what they were."""
    return yaml.safe_dump({**yaml.safe_load(service.config.read_text()), **keys})


def reloads(service: Service) -> tuple[int, int]:
    """How many configurations were taken, and how many refused."""
    metric = service.sidecar.metric
    return tuple(int(metric("sidecar_config_reloads_total", result=result)) for result in ("ok", "refused"))  # type: ignore[return-value]


async def until_reloads(service: Service, ok: int, refused: int) -> None:
    """Wait until so many were taken and refused, and no more."""
    what = f"{ok} configurations taken and {refused} refused"
    await trio.to_thread.run_sync(service.sidecar.until, lambda: reloads(service) == (ok, refused), what)


async def hang_up(service: Service, text: str) -> None:
    """Write the file and send SIGHUP; return once it was taken or refused."""
    before = _ends(service)
    service.config.write_text(text)
    service.sidecar.signal(signal.SIGHUP)
    await trio.to_thread.run_sync(service.sidecar.until, lambda: _ends(service) > before, "a reload")


def _ends(service: Service) -> int:
    events = ("configuration taken", "the old configuration stays in force")
    return sum(line.get("event") in events for line in service.sidecar.log.lines)


# How a file changes without anybody saying so.


def in_place(path: Path, text: str) -> None:
    """As a shell's ``>`` does: emptied, then written."""
    path.write_text(text)


def renamed(path: Path, text: str) -> None:
    """As editors and configuration management do: a new file takes its name."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def swapped(path: Path, text: str) -> None:
    """As the kubelet does with a ConfigMap: the file is a symlink into ..data, which is a symlink to a folder."""
    folder = path.parent / f"..{os.urandom(4).hex()}"
    folder.mkdir()
    (folder / path.name).write_text(text)
    data = path.parent / "..data"
    (path.parent / "..data_tmp").symlink_to(folder.name)
    (path.parent / "..data_tmp").replace(data)
    if not path.is_symlink():  # the first time: what was a file becomes a mount
        link = path.parent / "link"
        link.symlink_to(f"..data/{path.name}")
        link.replace(path)


WAYS: dict[str, Callable[[Path, str], None]] = {"in place": in_place, "renamed": renamed, "symlink swap": swapped}
