"""``sidecar run``: a configuration to a serving process, and its end to an exit status.

Strategy: mistakes are told before anything starts, and never through the log. From then on the log tells everything;
the exit status says whether the end was the one that was asked for.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import structlog
import trio
import typer

from sidecar import service
from sidecar.cli.configuration import DEFAULT_PATH, ConfigPath, read_or_exit
from sidecar.config import Config
from sidecar.observe import log

CLEAN, FAILED = 0, 1

_log = structlog.get_logger()


def run(config: ConfigPath = DEFAULT_PATH) -> None:
    """Serve until told to stop.

    SIGTERM or SIGINT ends the open streams cleanly, spread over drain.within, and exits with 0; a second signal ends
    it at once, with 1. A bad configuration exits with 2 and tells every mistake.
    """
    raise typer.Exit(serve(read_or_exit(config), path=config))


def serve(
    config: Config,
    *,
    path: Path | None = None,
    companion: Callable[[service.Service], Awaitable[None]] | None = None,
    elsewhere: str = "another process has it; bind names another",
) -> int:
    """Serve this configuration to its end, with the log on standard error; returns the exit status.

    It is read again from ``path`` when that changes. ``companion`` runs beside the service once it listens.
    ``elsewhere`` is the way out of an address that is taken.
    """
    log.configure()
    try:
        clean = trio.run(partial(service.serve, config, path=path, companion=companion))
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
        _tell(error, elsewhere)
        return FAILED
    return CLEAN if clean else FAILED


def _tell(error: BaseException, elsewhere: str = "") -> None:
    causes = list(_leaves(error))
    failures = [cause for cause in causes if isinstance(cause, OSError)]
    if all(isinstance(cause, KeyboardInterrupt) for cause in causes):
        _log.warning("stopped at once, as asked")
    elif failures == causes:
        # The world's fault, like an address in use: a traceback would hide it.
        for failure in failures:
            way_out = f" ({elsewhere})" if failure.errno == errno.EADDRINUSE and elsewhere else ""
            _log.error("cannot serve", problem=(failure.strerror or str(failure)) + way_out)
    else:
        _log.error("this should not have happened; please report it", exc_info=error)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
