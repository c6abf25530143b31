"""``sidecar explain``: which route a path meets, and what a client there would read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated
from urllib.parse import parse_qsl

import typer

from sidecar.cli.configuration import DEFAULT_PATH, ConfigPath, read_or_exit
from sidecar.cli.output import Row, show_one
from sidecar.config.model import Route
from sidecar.routing import Match, PathPattern, RouteTable
from sidecar.template import Template
from sidecar.topic import is_word


def explain(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A request's path, with its query if it has one.")],
    config: ConfigPath = DEFAULT_PATH,
) -> None:
    """Show which route a path meets, its parameters, exchange and binding keys, and who may read it.

    Exits with 1 when no route takes the path. A list on a terminal, one JSON object in a pipe.
    """
    routes = read_or_exit(config).routes
    raw_path, _, query = path.partition("?")
    match = RouteTable((PathPattern.parse(route.path), route) for route in routes).match(raw_path)
    if match is None:
        typer.echo(f"no route takes {raw_path}", err=True)
        raise typer.Exit(1)
    show_one(_explained(match, dict(parse_qsl(query, keep_blank_values=True))))


def _explained(match: Match[Route], query: Mapping[str, str]) -> Row:
    route = match.value
    parameters = match.parameters | {f"query.{name}": value for name, value in query.items()}
    refused = sorted(name for name in _used(route) if not is_word(parameters.get(name, "")))
    if refused:
        reason = f"400: not one word of a routing key: {', '.join(refused)}"
        return {"route": route.path, "parameters": _shown(parameters), "exchange": route.exchange, "answer": reason}
    return {
        "route": route.path,
        "parameters": _shown(parameters),
        "exchange": route.exchange,
        "binding_key": [Template.parse(key).render(parameters.__getitem__) for key in route.binding_key],
        "binding_headers": _rendered(route.binding_headers or {}, parameters.__getitem__),
        "event": route.event,
        "where": _rendered(route.where, lambda name: parameters.get(name, "")),
        "readers": "anybody",
    }


def _used(route: Route) -> set[str]:
    """The parameters that bindings are made of, and that must therefore be words."""
    headers = (value for value in (route.binding_headers or {}).values() if isinstance(value, str))
    return {name for text in (*route.binding_key, *headers) for name in Template.parse(text).names}


def _rendered(texts: Mapping[str, object], value: Callable[[str], str]) -> dict[str, object]:
    return {name: Template.parse(text).render(value) if isinstance(text, str) else text for name, text in texts.items()}


def _shown(parameters: Mapping[str, str]) -> dict[str, str]:
    # Bytes that are not UTF-8 are lone surrogates here, which no output takes.
    return {name: value.encode("utf-8", "replace").decode() for name, value in parameters.items()}
