"""The files that a configuration was read from, and whether they have changed.

Strategy: their names are known from the configuration itself: the file, what it refers to by ``${file:PATH}``, and
every value that is a path (certificates and keys). A file is asked by name what it is now, so that it makes no
difference whether it was written in place, replaced, or is reached through a symlink that points elsewhere now, which
is how a ConfigMap changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel

from sidecar.config.interpolate import referenced_files
from sidecar.config.model import Config

Stamp = tuple[int, int, int, int]
"""Device, inode, time of the last change in nanoseconds, size in bytes."""


def files_of(path: Path, config: Config) -> frozenset[Path]:
    """The configuration's file and every file that was read for it."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        text = ""
    return frozenset((path, *referenced_files(text, path.parent), *_paths(config)))


def _paths(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        yield from _paths([each for _, each in value])
    elif isinstance(value, dict):
        yield from _paths(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _paths(each)


def stamps(paths: Iterable[Path]) -> dict[Path, Stamp | None]:
    """What each file is now; None where there is none."""
    return {path: _stamp(path) for path in paths}


def _stamp(path: Path) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
