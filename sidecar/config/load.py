"""A file to a `Config`, or to all its mistakes at once.

Strategy: text → tree with places → defaults merged into the routes → model and cross-checks side by side, neither
waiting for the other. All findings are collected first and written down at the end, in the order of the file. A value
that could not even be read (a variable that is not set, say) is reported for that and not again for what it is not.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from collections.abc import Mapping as Environment
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from sidecar.config.checks import cross_check
from sidecar.config.interpolate import interpolate
from sidecar.config.mistakes import ConfigError, Mistake
from sidecar.config.model import DECIDED, Config, RouteOptions
from sidecar.config.tree import Finding, Items, Mapping, Place, Tree, find, read
from sidecar.config.verdicts import findings


def load(path: Path | str, environ: Environment[str, str] = os.environ) -> Config:
    """The configuration in a file; relative paths in it are taken from its folder.

    Raises `ConfigError` with every mistake, a file that cannot be read included.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise _unreadable(
            path, Place(1, 1), f"cannot be read: {error.strerror}", "name another with -c; sidecar demo needs none"
        ) from None
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8", "replace")
        place = Place(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise _unreadable(path, place, "a byte that is not UTF-8", "save the file as UTF-8") from None
    return parse(text, str(path), path.parent, environ)


def parse(text: str, name: str, folder: Path, environ: Environment[str, str] = os.environ) -> Config:
    """The configuration in a text; `name` stands in the mistakes, `folder` is where relative paths begin.

    Raises `ConfigError`.
    """
    tree, unread = read(text, partial(interpolate, environ=environ, folder=folder))
    merge_defaults(tree)
    config, found = _validated(tree, folder)
    found += cross_check(tree, folder)
    mistakes = [_mistake(finding, tree, name) for finding in unread]
    places = {each.place for each in mistakes}
    mistakes += [each for finding in found if (each := _mistake(finding, tree, name)).place not in places]
    if mistakes or config is None:
        raise ConfigError(mistakes)
    return config


def merge_defaults(root: Mapping) -> None:
    """Put what `defaults` says into each route that does not say it itself; mappings are merged key by key.

    An empty value in a route (``max_age:``) takes a default away. What the application may give out has the same
    defaults, save what it decides itself.
    """
    defaults, upstream = root.get("defaults"), root.get("upstream")
    if isinstance(defaults, Mapping):
        _merge_into(root.get("routes"), defaults, without=())
        if isinstance(upstream, Mapping):
            _merge_into(upstream.get("subscribe"), defaults, without=DECIDED)


def _merge_into(items: Tree, defaults: Mapping, without: Collection[str]) -> None:
    known = Mapping(defaults.place)
    for key, value in defaults.items():
        if key in RouteOptions.written() and key not in without:
            known.put(defaults.keys_at[key], value)
    if isinstance(items, Items):
        items[:] = [_merged(item, known) for item in items]


def _merged(own: Tree, default: Tree) -> Tree:
    if not isinstance(own, Mapping) or not isinstance(default, Mapping):
        return own
    merged = Mapping(own.place)
    for key, value in own.items():
        merged.put(own.keys_at[key], _merged(value, default.get(key)))
    for key, value in default.items():
        if key not in own:
            merged.put(default.keys_at[key], value)
    return merged


def _validated(tree: Mapping, folder: Path) -> tuple[Config | None, list[Finding]]:
    try:
        return Config.model_validate(tree, context={"folder": folder}), []
    except ValidationError as error:
        return None, list(findings(error))


def _mistake(finding: Finding, tree: Mapping, name: str) -> Mistake:
    place, path = find(tree, finding.at, on_key=finding.on_key)
    place = finding.place or place
    return Mistake(name, place.line, place.column, path, finding.fact, finding.way_out)


def _unreadable(path: Path, place: Place, fact: str, way_out: str) -> ConfigError:
    return ConfigError([Mistake(str(path), place.line, place.column, "", fact, way_out)])
