"""``sidecar check``: the mistakes of a configuration, or its routes."""

from __future__ import annotations

from sidecar.cli.configuration import DEFAULT_PATH, ConfigPath, read_or_exit
from sidecar.cli.output import Row, show_rows
from sidecar.config.model import SOURCES, Route


def check(config: ConfigPath = DEFAULT_PATH) -> None:
    """Show every mistake of the configuration at once, and exit with 2; without one, show the routes.

    A mistake is one line: file:line:column, the path in the file, what is wrong, and in parentheses what would be
    right. The routes are a table on a terminal and one JSON object a line in a pipe.
    """
    routes = read_or_exit(config, to_stdout=True).routes
    show_rows([_row(route) for route in routes], ("path", "source", "binding_key", "event"))


def source_of(route: Route) -> str:
    """A route's source as its key and value."""
    return next(f"{key} {value}" for key in SOURCES if (value := getattr(route, key)) is not None)


def _row(route: Route) -> Row:
    return {
        "path": route.path,
        "source": source_of(route),
        "binding_key": route.binding_key,
        "binding_headers": route.binding_headers,
        "event": route.event,
        "data": route.data,
    }
