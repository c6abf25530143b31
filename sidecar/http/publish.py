"""An HTTP request read as one message: POST /publish/{exchange}/{routing_key}.

Strategy: the body is the message's body; what a message has besides is said in the query (``type``, ``message_id``,
``header.NAME``) and in Content-Type. Exchange and routing key are percent-decoded one by one, after the path was
split, so that they may hold a slash. Whatever is not understood is refused, not ignored.
"""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

from sidecar.amqp import FieldValue, Properties
from sidecar.http.answer import Receive, Refusal, Scope, header, read_body

BODY_LIMIT = 16 * 1024 * 1024  # bytes
BODY_WITHIN = 30.0  # seconds
OPTIONS_LIMIT = 100  # parameters in one query
SHORT_STRING = 255  # bytes, AMQP 0-9-1 §4.2.5.3

_PLAIN = ("type", "message_id")
_PARAMETERS = (*_PLAIN, "header.NAME")


@dataclass(frozen=True, slots=True)
class Publication:
    """One message and where it goes."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Properties


async def read_publication(scope: Scope, receive: Receive) -> Publication:
    """Read the request. Raises `Refusal` with 400, 404, 408 or 413."""
    exchange, routing_key = _address(scope)
    properties = _properties(scope)
    body = await read_body(scope, receive, limit=BODY_LIMIT, within=BODY_WITHIN)
    return Publication(exchange, routing_key, body, properties)


def _address(scope: Scope) -> tuple[str, str]:
    # "", "publish", exchange, routing key; the last two may be empty: the default exchange, a fanout exchange's key.
    segments = scope["raw_path"].split(b"/")
    if len(segments) != 4:
        raise Refusal(404, "the path is /publish/{exchange}/{routing_key}; a / inside of them is written %2F")
    return _short("the exchange", _decoded(segments[2])), _short("the routing key", _decoded(segments[3]))


def _decoded(segment: bytes) -> str:
    try:
        return unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        raise Refusal(
            400, f"{segment.decode('latin-1')} is not UTF-8; write characters as %XX of their UTF-8"
        ) from None


def _short(what: str, value: str) -> str:
    if len(value.encode()) > SHORT_STRING:
        raise Refusal(400, f"{what} is longer than {SHORT_STRING} bytes, which is the most AMQP knows")
    return value


def _properties(scope: Scope) -> Properties:
    given = _query(scope["query_string"])
    headers: dict[str, FieldValue] = {
        _short("a header's name", name.removeprefix("header.")): value
        for name, value in given.items()
        if name.startswith("header.")
    }
    described = {"content_type": header(scope, b"content-type")} | {name: given.get(name) for name in _PLAIN}
    short = {name: value and _short(name, value) for name, value in described.items()}
    return Properties(
        content_type=short["content_type"], type=short["type"], message_id=short["message_id"], headers=headers
    )


def _query(query: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=OPTIONS_LIMIT)
    except UnicodeError:
        raise Refusal(400, "the query is not UTF-8; write characters as %XX of their UTF-8") from None
    except ValueError:
        raise Refusal(400, f"the query has more than {OPTIONS_LIMIT} parameters") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        _check_parameter(name, given)
        given[name] = value
    return given


def _check_parameter(name: str, given: Mapping[str, str]) -> None:
    if name in given:
        raise Refusal(400, f"the parameter {name!a} stands twice; give it once")
    if name not in _PLAIN and not (name.startswith("header.") and name != "header."):
        near = difflib.get_close_matches(name, _PARAMETERS, n=1)
        way_out = f"did you mean {near[0]}?" if near else f"there are {', '.join(_PARAMETERS)}"
        raise Refusal(400, f"unknown parameter {name!a}; {way_out}")


def refuse_strangers(scope: Mapping[str, Any]) -> None:
    """Refuse (403) a request that a page of another site has made a browser send.

    Programs send neither field and pass. A page passes when it was served from here, under an address or a local
    name: under a public name it may be somebody's who pointed that name at this address (DNS rebinding).
    """
    if header(scope, b"sec-fetch-site") not in (None, "same-origin", "none"):
        raise Refusal(403, "a page of another site may not do this")
    origin = header(scope, b"origin")
    if origin is not None and not _is_ours(origin, header(scope, b"host") or ""):
        raise Refusal(403, "a page of another origin may not do this; open this listener's own page by its IP address")


def refuse_strange_readers(scope: Mapping[str, Any]) -> None:
    """Refuse (403) a page of another site that reads what is for this listener's own page; programs pass.

    As `refuse_strangers`, save that browsers leave the origin out where a page reads from its own: the name that the
    page was opened under stands for it.
    """
    host, fields = header(scope, b"host"), scope["headers"]
    # The first counts: an origin that is there stays in force.
    refuse_strangers({"headers": [*fields, (b"origin", b"http://" + host.encode("latin-1"))] if host else fields})


def _is_ours(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
        return parts.netloc.lower() == host.lower() and _is_local(parts.hostname or "")
    except ValueError:
        return False


def _is_local(hostname: str) -> bool:
    try:
        ipaddress.ip_address(hostname)
    except ValueError:
        # A name without a dot cannot be registered by anybody.
        return hostname.endswith(".localhost") or (hostname != "" and "." not in hostname)
    return True
