"""When another configuration is taken: at SIGHUP, and when a file it was read from has changed.

Strategy: twice a second the files are asked what they are now, in a thread. That is a handful of ``stat`` calls; it
needs no inotify, of which a cluster's node has too few for everybody and a network's file system none. A change is
taken once the files have been the same for two looks, so that a file is not read while it is being written, and a
certificate not without its key.

A new configuration is checked whole. Its mistakes go to the log and nothing else happens: not even readiness changes,
for the old configuration serves as before.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

import structlog
import trio

from sidecar.config import Config, ConfigError, load
from sidecar.config.files import Stamp, files_of, stamps
from sidecar.observe.metrics import Metrics

LOOK_EVERY: Final = 0.5
"""Seconds between two looks at the files."""
RESTART: Final = ("broker", "admin", "workers")
"""Keys that are settled when the process starts."""

_log = structlog.get_logger("sidecar.reload")


class Reloadable(Protocol):
    """What can take another configuration."""

    config: Config
    metrics: Metrics

    @property
    def leaving(self) -> bool:
        """Whether it drains, and wants no other configuration."""

    async def apply(self, config: Config) -> None:
        """Put it in force. Raises `OSError` or `ValueError`, and then everything is as before."""


class Reload:
    """The file behind a service's configuration."""

    def __init__(
        self, path: Path, service: Reloadable, *, read: Callable[[Path], Config] = load, every: float = LOOK_EVERY
    ) -> None:
        """``read`` raises `ConfigError`; ``every`` is in seconds."""
        self._path = path
        self._service = service
        self._read = read
        self._every = every
        self._first = service.config
        self._files = files_of(path, service.config)
        self._seen = stamps(self._files)
        self._one_at_a_time = trio.Lock()

    async def watch(self) -> None:
        """Take what changes, until cancelled."""
        while True:
            await trio.sleep(self._every)
            now = await self._look()
            if now != self._seen and await self._settled(now) != self._seen:  # a signal may have come in between
                await self.now()

    async def _look(self) -> dict[Path, Stamp | None]:
        return await trio.to_thread.run_sync(stamps, self._files)

    async def _settled(self, last: dict[Path, Stamp | None]) -> dict[Path, Stamp | None]:
        while True:
            await trio.sleep(self._every)
            now = await self._look()
            if now == last:
                return now
            last = now

    async def now(self) -> None:
        """Read the file and put it in force; what is wrong with it is in the log and in the metric."""
        async with self._one_at_a_time:
            self._seen = await self._look()
            if self._service.leaving:
                _log.info("the configuration is not read again while draining")
                return
            taken = await self._taken()
            self._service.metrics.config_reloads["ok" if taken else "refused"] += 1
            self._files = await trio.to_thread.run_sync(files_of, self._path, self._service.config)
            self._seen = {
                **await self._look(),
                **{path: was for path, was in self._seen.items() if path in self._files},
            }

    async def _taken(self) -> bool:
        try:
            config = await trio.to_thread.run_sync(self._read, self._path)
            await self._service.apply(config)
        except ConfigError as error:
            for mistake in error.mistakes:
                _log.error("a mistake in the configuration", mistake=str(mistake))
            _log.error("the old configuration stays in force", file=str(self._path), mistakes=len(error.mistakes))
        except (OSError, ValueError) as error:
            _log.error("the old configuration stays in force", file=str(self._path), problem=str(error))
        except Exception:  # a mistake of ours must not cost everybody's streams
            _log.exception("this should not have happened; please report it")
        else:
            _log.info("configuration taken", file=str(self._path), routes=len(config.routes))
            self._name_what_waits(config)
            return True
        return False

    def _name_what_waits(self, config: Config) -> None:
        for key in RESTART:
            if getattr(config, key) != getattr(self._first, key):
                _log.warning("a change that needs a restart", key=key)
