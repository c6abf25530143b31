"""From pydantic's errors to findings: the fact and the way out in this program's words.

Strategy: one table from pydantic's error types to sentences. Values are quoted by `shown` only, so that no secret gets
into a report; pydantic's own messages are not used for known types, for they speak of Python's types.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sidecar.config.model import Config
from sidecar.config.settings import Settings
from sidecar.config.tree import Finding, Items, Location, Mapping
from sidecar.config.values import GrammarError, shown

_QUOTE = "quote a text that begins with { or ["


def findings(error: ValidationError) -> Iterator[Finding]:
    """Each error of a validation of the whole document as a finding."""
    for details in error.errors(include_url=False):
        at = tuple(part for part in details["loc"] if part != "[key]")
        yield Finding(at, *_verdict(details, at), on_key=details["type"] == "extra_forbidden")


def _verdict(details: ErrorDetails, at: Location) -> tuple[str, str]:
    value, context, kind = details["input"], details.get("ctx", {}), details["type"]
    if isinstance(wrong := context.get("error"), GrammarError):
        return wrong.fact, wrong.way_out
    if kind == "missing":
        return "missing", _description(at)
    if kind == "extra_forbidden":
        return "unknown key", _suggestion(str(at[-1]), list(_model(at[:-1]).written()))
    if kind == "literal_error":
        return _choice(value, context["expected"])
    if kind == "greater_than_equal":
        return f"{shown(value)} is too small", f"at least {context['ge']}"
    if kind == "too_short":
        return "an empty list", "leave the key out for its default"
    return _form(kind, value) or (details["msg"].lower(), "")


def _form(kind: str, value: object) -> tuple[str, str] | None:
    """A value of the wrong form altogether."""
    what = "a mapping" if isinstance(value, Mapping) else "a list" if isinstance(value, Items) else shown(value)
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"must be a mapping of keys, not {what}", "indent its keys below it"
    if kind == "list_type":
        return f"must be a list, not {what}", "begin each item with a dash"
    if kind.startswith("bool_"):
        return f"{what} is neither true nor false", "true or false"
    if kind.startswith("int_") and not isinstance(value, Mapping | Items):
        return f"{what} is no whole number", "digits only"
    if kind.split("_")[0] in ("string", "int", "float", "tuple"):
        return f"must be one value, not {what}", _QUOTE
    return None


def _choice(value: object, expected: str) -> tuple[str, str]:
    """`expected` is pydantic's list of the literals: ``'a', 'b' or 'c'``."""
    choices = expected.replace("'", "").replace(" or ", ", ").split(", ")
    if isinstance(value, Mapping | Items):
        return f"must be one of {', '.join(choices)}", _QUOTE
    return f"{shown(value)} is none of {', '.join(choices)}", _suggestion(str(value), choices, listing=False)


def _suggestion(word: str, known: list[str], *, listing: bool = True) -> str:
    near = get_close_matches(word, known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"known here: {', '.join(known)}" if listing else ""


def _description(at: Location) -> str:
    text = (_model(at[:-1]).written()[str(at[-1])].description or "").rstrip(".")
    return text if text[:2].isupper() else text[:1].lower() + text[1:]


def _model(at: Location) -> type[Settings]:
    """The model of the mapping at a location."""
    model: type[Settings] = Config
    for part in at:
        if isinstance(part, str):
            model = next(_models(model.written()[part].annotation))
    return model


def _models(annotation: Any) -> Iterator[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
