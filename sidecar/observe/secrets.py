"""Takes secrets out of text and values that are about to be shown: log lines, errors, pages.

Strategy: two nets. A value under a telling name (``password``, ``authorization``, ``access_token``) is never looked
at, only replaced; every other text is searched for the shapes in which secrets travel: a URL's user information
(RFC 3986 §3.2.1), a query parameter with a telling name, the header fields of RFC 9110 §11.6.2 and RFC 6265, and
tokens that are known by their look (RFC 7519 §3). When in doubt it hides. Repetitions are bounded, so that text made
by a stranger costs time in proportion to its length.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"

_NAME = (
    r"(?:token|jwt|secret|passw|pwd|api[_-]?key|access[_-]?key|private[_-]?key|auth(?!or(?!iz))|cookie|session|signature"
    r"|credential)"
)

_TELLING = re.compile(_NAME, re.IGNORECASE)

_SHAPES = (
    # amqp://user:PASSWORD@host, also when the password holds an unescaped "/", which makes it a mistake but no less
    # secret; host:8080/path@x is no password.
    (re.compile(r"(://[^\s/?#@:]{0,256}:)(?!\d{1,5}[/?#\s])\S{1,512}@"), rf"\1{HIDDEN}@"),
    # Authorization: …, Cookie: …, and the same in a printed list of pairs: all of the rest of the line.
    (re.compile(r"(?i)(\b(?:proxy-)?authorization|\b(?:set-)?cookie)(['\"]?\s?[:=,]\s?)[^\r\n]+"), rf"\1\2{HIDDEN}"),
    (re.compile(rf"(?i)({_NAME}[\w.%\[\]-]{{0,64}}=)(?:\"[^\"]*\"|'[^']*'|[^&;#\s\"'<>]+)"), rf"\1{HIDDEN}"),
    (re.compile(r"\b([Bb]earer|[Bb]asic|BEARER|BASIC) [\w.~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\beyJ[\w-]{4,}\.[\w-]+\.[\w-]*"), HIDDEN),
)


def hide_in_text(text: str) -> str:
    """The same text with ``***`` in the place of every secret that can be told by its surroundings or its look."""
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text


def hide_in_value(value: Any) -> Any:
    """The same value without secrets: containers are searched to their leaves, foreign objects become their repr.

    A pair whose first half is a telling name, as in a list of header fields, loses its second half.
    """
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return hide_in_text(value)
        case bytes():
            return hide_in_text(value.decode("utf-8", "backslashreplace"))
        case dict():
            return {key: hide_under_name(str(key), each) for key, each in value.items()}
        case (str() | bytes()) as name, secret if is_telling(name):
            return [hide_in_value(name), HIDDEN if secret else secret]
        case list() | tuple() | set() | frozenset():
            return [hide_in_value(each) for each in value]
        case _:
            return hide_in_text(repr(value))


def hide_under_name(name: str, value: Any) -> Any:
    """What may be shown of a value that stands under this name."""
    if is_telling(name) and isinstance(value, str | bytes | list | tuple | dict):
        return HIDDEN
    return hide_in_value(value)


def is_telling(name: str | bytes) -> bool:
    """Whether what stands under this name is likely to be secret."""
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    return _TELLING.search(text) is not None
