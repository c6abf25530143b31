"""``${NAME}``, ``${NAME:-default}``, ``${file:PATH}`` and ``$$`` in the configuration's texts (SPEC §2).

Strategy: one regular expression finds the references; braces inside a reference must be balanced, so that a default may
hold a ``{placeholder}`` or another reference. A ``$`` before anything else is itself: passwords hold such.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from sidecar.config.values import GrammarError

_REFERENCE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<inside>(?:[^{}]|\{[^{}]*\})*)\}|(?P<open>\{))")
_INSIDE = re.compile(r"file:(?P<file>.+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


def interpolate(text: str, environ: Mapping[str, str], folder: Path) -> str:
    """The text with its references replaced; raises `GrammarError`. Relative files are taken from `folder`."""

    def replacement(reference: re.Match[str]) -> str:
        if reference["dollar"]:
            return "$"
        inside = _INSIDE.fullmatch(reference["inside"] or "")
        if not inside:
            raise GrammarError("${ begins no reference", "${NAME}, ${NAME:-default} or ${file:PATH}; $$ is a dollar")
        if inside["file"]:
            return _content(folder, inside["file"])
        # As in a shell, an empty variable counts as none where there is a default.
        if inside["default"] is not None:
            return environ.get(inside["name"]) or interpolate(inside["default"], environ, folder)
        return _variable(inside["name"], environ)

    return _REFERENCE.sub(replacement, text)


def referenced_files(text: str, folder: Path) -> set[Path]:
    """The files that a text of a configuration refers to by ``${file:PATH}``, in comments too."""
    inside = (_INSIDE.fullmatch(reference["inside"] or "") for reference in _REFERENCE.finditer(text))
    return {folder / found["file"] for found in inside if found and found["file"]}


def _variable(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise GrammarError(f"the environment has no {name}", f"set it, or write ${{{name}:-default}}")
    return environ[name]


def _content(folder: Path, name: str) -> str:
    try:
        text = (folder / name).read_text(encoding="utf-8")
    except OSError as error:
        raise GrammarError(
            f"cannot read the file {name}: {error.strerror}", f"relative paths begin at {folder.resolve()}"
        ) from None
    except UnicodeDecodeError:
        raise GrammarError(f"the file {name} is not UTF-8 text", "binary values cannot be used here") from None
    return text.removesuffix("\n").removesuffix("\r")
