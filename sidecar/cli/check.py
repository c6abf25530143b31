"""``sidecar check``: the mistakes of a configuration, or its routes."""

from __future__ import annotations

from sidecar.cli.configuration import DEFAULT_PATH, ConfigPath, read_or_exit
from sidecar.cli.output import Row, show_remark, show_rows
from sidecar.config.model import SOURCES, Route


def check(config: ConfigPath = DEFAULT_PATH) -> None:
    """Show every mistake of the configuration at once, and exit with 2; without one, show the routes.

    A mistake is file:line:column, the path in the file, what is wrong, and in parentheses what would be right: one
    line in a pipe. The routes are a table on a terminal and one JSON object a line in a pipe.
    """
    routes = read_or_exit(config, to_stdout=True).routes
    show_rows([_row(route) for route in routes], [_line(route) for route in routes])
    show_remark(f"{config}: {len(routes)} {'route' if len(routes) == 1 else 'routes'}, no mistakes")


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


def _line(route: Route) -> Row:
    return {"path": route.path, "source": source_of(route), "binding": _binding(route), "event": route.event}


def _binding(route: Route) -> object:
    """What selects the messages, in whichever way this source has."""
    if route.queue is not None:
        return [f"{bind.exchange} {bind.binding_key}" for bind in route.declare.bind] if route.declare else None
    return route.binding_headers or route.binding_key
