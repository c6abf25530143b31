"""What access settings and the rest of a route must be together: whose placeholders there are values for.

Strategy: one walk over the route's tree finds every placeholder with its location, whatever key it stands in, so a
source or an option that comes later is covered without a word here. A placeholder without a giver is a mistake of the
file: found at start it is a line for the operator, found at a request it would be an empty word in a binding key.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from sidecar.config.tree import Finding, Location, Mapping, Scalar, Tree
from sidecar.routing import PathPattern, PatternError
from sidecar.template import Template, TemplateError

_CLIENT: Location = ("access", "limit", "client")
_REQUIRE: Location = ("access", "jwt", "require")


def access_check(route: Mapping) -> Iterator[Finding]:
    """Every placeholder of a route that its access settings give no value for."""
    claims, taken, parameters = _within(route, "access", "jwt"), _taken(route), _parameters(route)
    for at, name in names_used(route):
        family, _, member = name.partition(".")
        if at[:3] == _REQUIRE:
            if name not in parameters and not name.startswith("query."):
                yield Finding(at, f"the path has no {{{name}}}", "a parameter of the path, or {query.NAME}")
        elif family == "claims" and claims is None:
            yield Finding(at, f"{{{name}}} is a token's claim, and no token is asked for", "add access.jwt")
        elif family == "auth" and member and member not in taken:
            yield Finding(at, f"nothing gives {{{name}}}", f"add access.forward.take.{member}")
        elif at == _CLIENT and family not in ("claims", "auth"):
            yield Finding(at, f"a client chooses {{{name}}} itself", "{claims.NAME} or {auth.NAME}")


def claims_used(route: Mapping) -> set[str]:
    """The claims that a route names anywhere: ``{claims.sub}`` is ``sub``."""
    return {name.removeprefix("claims.") for _, name in names_used(route) if name.startswith("claims.")}


def names_used(tree: Tree, at: Location = ()) -> Iterator[tuple[Location, str]]:
    """Every placeholder below a value, with the location of the text it stands in; the path's own are left out."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if (*at, key) != ("path",):
                yield from names_used(value, (*at, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from names_used(value, (*at, index))
    elif isinstance(tree, Scalar):
        yield from ((at, name) for name in _names(tree))


def _names(text: str) -> tuple[str, ...]:
    with suppress(TemplateError):
        return Template.parse(text).names
    return ()  # a text that is no template, such as an argument of the exchange


def _parameters(route: Mapping) -> tuple[str, ...]:
    path = route.get("path")
    with suppress(PatternError):
        return PathPattern.parse(path).parameters if isinstance(path, Scalar) else ()
    return ()


def _taken(route: Mapping) -> frozenset[str]:
    taken = _within(route, "access", "forward", "take")
    return frozenset(taken) if isinstance(taken, dict) else frozenset()


def _within(tree: Tree, *at: str) -> Tree:
    for key in at:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
