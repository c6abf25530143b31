"""A request as the rest of this room sees it, whichever HTTP version carried it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl


@dataclass(slots=True, frozen=True)
class Request:
    """A request's head (RFC 9110 §6.2); bytes are as received, header names in lower case."""

    method: str
    path: bytes
    """Raw, not decoded, without the query."""
    query: bytes
    """Raw, without the question mark."""
    headers: list[tuple[bytes, bytes]]
    http_version: str
    """``1.0``, ``1.1`` or ``2``."""
    scheme: str
    client: tuple[str, int] | None
    """The peer's address; None on a unix socket."""

    def values(self, name: bytes) -> Iterator[bytes]:
        """Yield the values of every field of this name, in order."""
        return (value for own, value in self.headers if own == name)

    def header(self, name: bytes) -> str:
        """Return the fields of this name as one list (RFC 9110 §5.3), decoded as Latin-1; empty when absent."""
        return ", ".join(value.decode("latin-1") for value in self.values(name))

    def query_fields(self) -> dict[str, str]:
        """Return the query's fields, decoded as UTF-8; of a repeated one the first counts."""
        fields: dict[str, str] = {}
        for name, value in parse_qsl(
            self.query.decode("ascii", "surrogateescape"), keep_blank_values=True, errors="surrogateescape"
        ):
            fields.setdefault(name, value)
        return fields


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Split a request target (RFC 9112 §3.2) into raw path and query; absolute form loses scheme and authority."""
    if not target.startswith(b"/") and b"://" in target:
        _, _, rest = target.partition(b"://")
        slash = rest.find(b"/")
        target = rest[slash:] if slash >= 0 else b"/"
    path, _, query = target.partition(b"?")
    return path, query
