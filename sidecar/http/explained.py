"""Which route a path meets and what a client there would read, in words: for ``sidecar explain`` and the debug page.

Strategy: ask the very objects that answer requests (`sidecar.http.routes`), so that this cannot tell another story.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias
from urllib.parse import parse_qsl

from sidecar.config.access import Access
from sidecar.config.values import shown
from sidecar.http.routes import BadValueError, CompiledRoute
from sidecar.routing import Match
from sidecar.template import Template

Row: TypeAlias = Mapping[str, object]


def explained(find: Callable[[str], Match[CompiledRoute] | None], path: str) -> Row | None:
    """Explain a request's path, with its query if it has one; ``find`` matches raw paths, None where no route does."""
    raw_path, _, query = path.partition("?")
    match = find(raw_path)
    if match is None:
        return None
    # Of a repeated name the first counts, as in a request.
    fields = dict(reversed(parse_qsl(query, keep_blank_values=True)))
    return _explained(match, match.parameters | {f"query.{name}": fields[name] for name in sorted(fields)})


def _explained(match: Match[CompiledRoute], parameters: Mapping[str, str]) -> Row:
    def value(name: str) -> str:
        if name.startswith(("claims.", "auth.")):
            return "{" + name.replace(".", ":") + "}"  # one word, as the real value must be
        if name not in parameters:
            raise BadValueError(f"the query must name {name.removeprefix('query.')}")
        return parameters[name]

    route, settings = match.value, match.value.settings
    met = {"route": settings.path, "parameters": _printable(parameters), route.source_kind: route.source_name}
    try:
        wanted = match.value.wanted(match.parameters, value)
    except BadValueError as error:
        return {**met, "answer": f"400: {error}"}
    return {
        **met,
        "binding_key": [binding.key for binding in wanted.bindings if not binding.headers],
        "binding_headers": {name: text for binding in wanted.bindings for name, text in binding.headers},
        **({"stream_filter": wanted.filters} if wanted.filters else {}),
        "event": settings.event,
        "where": _rendered(settings.where, value),
        "readers": _readers(settings.access),
    }


def _readers(access: Access | None) -> str:
    """Who may read, in words."""
    asked = []
    if access is not None and access.jwt is not None:
        asked.append(f"a token ({', '.join(access.jwt.algorithms)}) in {' or '.join(access.jwt.sources)}")
    if access is not None and access.forward is not None:
        asked.append(f"the application's consent ({shown(access.forward.url)})")
    return f"whoever has {' and '.join(asked)}" if asked else "anybody"


def _rendered(texts: Mapping[str, str], value: Callable[[str], str]) -> dict[str, str]:
    return {name: Template.parse(text).render(value) for name, text in texts.items()}


def _printable(parameters: Mapping[str, str]) -> dict[str, str]:
    # Bytes that are not UTF-8 are lone surrogates here, which no output takes.
    return {name: value.encode("utf-8", "replace").decode() for name, value in parameters.items()}
