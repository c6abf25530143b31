"""``sidecar explain``: which route a path meets, and what a client there would read.

Strategy: what is told is worked out by `sidecar.http.explained`, from the very objects that answer requests.
"""

from __future__ import annotations

from typing import Annotated

import typer

from sidecar.cli.configuration import DEFAULT_PATH, ConfigPath, read_or_exit
from sidecar.cli.output import show_one, tell
from sidecar.config.model import UpstreamSettings
from sidecar.config.values import shown
from sidecar.forwarded import Proxies
from sidecar.http.explained import explained
from sidecar.http.gatehouse import Gatehouse
from sidecar.http.routes import compile_routes
from sidecar.observe.metrics import Metrics
from sidecar.routing import RouteTable


def explain(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A request's path, with its query if it has one.")],
    config: ConfigPath = DEFAULT_PATH,
) -> None:
    """Show which route a path meets, its parameters, exchange and binding keys, and who may read it.

    Exits with 1 when no route takes the path. A list on a terminal, one JSON object in a pipe.
    """
    settings, gatehouse, nobody = read_or_exit(config), Gatehouse(), Proxies.parse([])
    routes = compile_routes(settings.routes, Metrics(), lambda access: gatehouse.gate(access, nobody))
    row = explained(RouteTable((route.pattern, route) for route in routes).match, path)
    if row is None:
        tell(f"no route takes {path.partition('?')[0]}: {_instead(path, settings.upstream)}")
        raise typer.Exit(1)
    show_one(row)


def _instead(path: str, upstream: UpstreamSettings | None) -> str:
    if not path.startswith("/"):
        return "a path begins with /"
    return "the answer is 404" if upstream is None else f"it goes to the application, {shown(upstream.url)}"
