"""The debug page's files: what stands in ``sidecar/static``, with the header fields that keep it strict.

Strategy: the folder is the list. A name that is not in it does not exist, so no path can lead out of it. Files are
read once; a browser asks again each time and hears 304 while it has the right one (RFC 9110 §13.1.2), so that an
upgrade shows at once and a reload costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, Final

from sidecar.http.answer import Answer, Refusal, header

PAGE: Final = "debug.html"

MEDIA_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""Content Security Policy Level 3: only our own files, and no text ever becomes markup or script."""

STRICT: Final = (
    ("content-security-policy", POLICY),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
)


@dataclass(frozen=True, slots=True)
class File:
    """One file, as it is sent."""

    body: bytes
    media_type: str
    etag: str


@cache
def read(name: str) -> File | None:
    """A file of ``sidecar/static`` by its name; None where there is no such file."""
    media_type = MEDIA_TYPES.get(PurePosixPath(name).suffix)
    found = next((entry for entry in files("sidecar").joinpath("static").iterdir() if entry.name == name), None)
    if media_type is None or found is None:
        return None
    body = found.read_bytes()
    return File(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:20]}"')


def page() -> Answer:
    """The debug page itself; its files may be kept, it may not."""
    file = read(PAGE)
    assert file is not None, "the package is incomplete"
    return Answer(200, file.body, file.media_type, STRICT)


def static(scope: Mapping[str, Any]) -> Answer:
    """The file that ``/static/NAME`` names, or 304 where the browser has it. Raises `Refusal` with 404."""
    file = read(scope["raw_path"].decode("latin-1").removeprefix("/static/"))
    if file is None:
        raise Refusal(404, "there is no such file; GET / is the page")
    fields = (("etag", file.etag), ("cache-control", "no-cache"), *STRICT)
    known = (header(scope, b"if-none-match") or "").replace("W/", "").split(",")
    if file.etag in (tag.strip() for tag in known):
        return Answer(304, b"", file.media_type, fields)
    return Answer(200, file.body, file.media_type, fields)


def wants_text(accept: str) -> bool:
    """Whether a client of ``GET /`` asks for plain text and not for a page."""
    return "text/plain" in accept and "text/html" not in accept
