"""Short requests and their short answers, over plain ASGI: for everything that is no event stream.

Strategy: a handler returns an `Answer`, or raises it wrapped in `Refusal` from however deep it noticed; who called it
sends it. Bodies are read whole, up to a bound of bytes and of seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import trio

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]

TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP response: status, body, its media type, and further header fields."""

    status: int
    body: bytes = b""
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()

    def fields(self) -> list[tuple[bytes, bytes]]:
        """Header fields as ASGI wants them; a 204 or 304 has no content to describe (RFC 9110 §8.6)."""
        described = [("content-type", self.content_type), ("content-length", str(len(self.body)))]
        fields = [*([] if self.status in (204, 304) else described), *self.headers]
        return [(name.encode("ascii"), value.encode("latin-1")) for name, value in fields]

    async def send(self, send: Send, *, head: bool = False) -> None:
        """Send it; ``head`` leaves out the body and nothing else (RFC 9110 §9.3.2)."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.fields()})
        await send({"type": "http.response.body", "body": b"" if head else self.body, "more_body": False})


class Refusal(Exception):  # noqa: N818  # it is an answer more than an error
    """A request that is answered otherwise than it hoped."""

    def __init__(self, status: int, text: str, **headers: str) -> None:
        """Answer with ``status`` and one line of text: what is wrong, and what would be right."""
        super().__init__(text)
        fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        self.answer = Answer(status, text.encode("utf-8", "backslashreplace") + b"\n", headers=fields)


def header(scope: Mapping[str, Any], name: bytes) -> str | None:
    """The value of a request's header field, the first where it stands twice; None where it is absent."""
    return next((value.decode("latin-1") for field, value in scope["headers"] if field == name), None)


async def read_body(scope: Scope, receive: Receive, *, limit: int, within: float) -> bytes:
    """The request's whole body, of at most ``limit`` bytes, arrived ``within`` seconds.

    Raises `Refusal`: 413 where it is larger, 408 where it is late, 400 where the client left in its midst.
    """
    too_large = Refusal(413, f"the body is larger than {limit} bytes")
    if int(header(scope, b"content-length") or 0) > limit:
        raise too_large
    body = bytearray()
    with trio.move_on_after(within):
        async for part in _parts(receive):
            body += part
            if len(body) > limit:
                raise too_large
        return bytes(body)
    raise Refusal(408, f"the body did not arrive within {within:g} seconds", connection="close")


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the client left before the body was complete")
        yield message.get("body", b"")
        more = message.get("more_body", False)
