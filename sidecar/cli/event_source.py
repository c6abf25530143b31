"""An event stream's reader that keeps the rules of a browser's EventSource (WHATWG HTML §9.2), as an async iterator.

Strategy: the parser knows what bytes mean; this class knows only what to do when a response begins, ends or fails. It
reads one response at a time, in the task that iterates; there is nothing beside it, so cancelling that task ends all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final

import httpx
import trio

from sidecar.cli.output import reason
from sidecar.sse import CONTENT_TYPE, Event, EventTooLongError, Parser

RETRY: Final = 3.0
"""Seconds between a lost connection and the next, until the server says another ``retry`` (browsers take 2 to 5)."""

RETRY_AT_LEAST: Final = 0.1
"""Seconds waited whatever the server says (§9.2.3 allows to wait longer than asked)."""

CONNECT_WITHIN: Final = 10.0
"""Seconds for one connection to be made, and for a request to be written."""

SILENCE: Final = 300.0
"""Seconds without a byte, heartbeats included, after which a connection is taken for dead and made again."""

CLOSE_WITHIN: Final = 1.0
"""Seconds for the goodbye to a server, or for its reason; then the connection is just dropped."""

REASON: Final = 300
"""Characters of a reason that are shown at most."""

_FIELDS: Final = (("Accept", CONTENT_TYPE), ("Cache-Control", "no-store"), ("Accept-Encoding", "identity"))


class EventSourceError(Exception):
    """The stream failed for good: connecting again would be against the standard. The text is one line."""


class EventSource:
    """Iterates over the events at a URL, connecting again as often as it takes.

    Any status but 200 and any content type but ``text/event-stream`` raise `EventSourceError`; 204 ends the iteration;
    a network error or the end of a response is followed by another request after `retry` seconds (§9.2.3).
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        last_event_id: str = "",
        http2: bool = False,
        told: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Prepare; nothing is sent before the first event is asked for.

        ``http2`` speaks nothing else, by prior knowledge where the URL is plain http. ``told`` hears a line for
        people whenever the state of the connection changes.
        """
        self.url = url
        self.retry = RETRY
        self.connected = False
        self._headers = headers
        self._http2 = http2
        self._told = told
        self._parser = Parser(last_event_id)
        self._ready: deque[Event] = deque()
        self._exits = AsyncExitStack()
        self._response: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None

    @property
    def last_event_id(self) -> str:
        """What the next connection will send as Last-Event-ID; empty for none."""
        return self._parser.last_event_id

    async def __aenter__(self) -> EventSource:
        timeout = httpx.Timeout(CONNECT_WITHIN, read=SILENCE)
        client = httpx.AsyncClient(
            http1=not self._http2, http2=self._http2, timeout=timeout, follow_redirects=True, max_redirects=20
        )
        self._client = await self._exits.enter_async_context(client)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with trio.move_on_after(CLOSE_WITHIN, shield=True):
            await self._close()
            await self._exits.__aexit__(kind, error, trace)

    def __aiter__(self) -> EventSource:
        return self

    async def __anext__(self) -> Event:
        """Return the next event. Raises `EventSourceError`; StopAsyncIteration at a 204."""
        while not self._ready:
            try:
                await self._advance()
            except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.TooManyRedirects, EventTooLongError) as error:
                raise EventSourceError(f"{self.url}: {error}") from error
            except httpx.RequestError as error:
                await self._wait(_text(error))
        return self._ready.popleft()

    async def _advance(self) -> None:
        """Take one step: a connection, the events of the next bytes, or the wait after the last."""
        if self._chunks is None:
            self._chunks = await self._connect()
            return
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            await self._wait("the server ended the stream")
            return
        self._ready += self._parser.feed(chunk)
        self.retry = self.retry if self._parser.retry is None else self._parser.retry / 1000

    async def _connect(self) -> AsyncIterator[bytes]:
        self._told("connecting")
        request = self._client.build_request("GET", self.url, headers=self._request_fields())
        self._response = await self._client.send(request, stream=True)
        self._announce(self._response, await _first_line(self._response))
        # An unfinished event of the last response is forgotten, its last complete id is not.
        self._parser = Parser(self._parser.last_event_id)
        self.connected = True
        self._told(f"connected by {self._response.http_version}")
        return self._response.aiter_bytes().__aiter__()

    def _announce(self, response: httpx.Response, reason: str) -> None:
        """Decide as §9.2.3 does whether a response is an event stream."""
        if response.status_code == httpx.codes.NO_CONTENT:
            raise StopAsyncIteration
        if response.status_code != httpx.codes.OK:
            answer = f"{self.url}: the answer is {response.status_code} {response.reason_phrase}".rstrip()
            raise EventSourceError(f"{answer}: {reason}" if reason else answer)
        content_type = response.headers.get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != CONTENT_TYPE:
            raise EventSourceError(f"{self.url}: the answer is {content_type or 'of no type'}, not {CONTENT_TYPE}")

    def _request_fields(self) -> list[tuple[bytes, bytes]]:
        own = {name.lower() for name, _ in self._headers}
        fields = [*(pair for pair in _FIELDS if pair[0].lower() not in own), *self._headers]
        if self.last_event_id:
            fields.append(("Last-Event-ID", self.last_event_id.strip(" \t")))
        return [(name.encode(), value.encode()) for name, value in fields]

    async def _wait(self, why: str) -> None:
        await self._close()
        pause = max(self.retry, RETRY_AT_LEAST)
        self._told(f"{why}; connecting again in {pause:g} s")
        await trio.sleep(pause)

    async def _close(self) -> None:
        self.connected = False
        response, self._response, self._chunks = self._response, None, None
        if response is not None:
            await response.aclose()


async def _first_line(response: httpx.Response) -> str:
    """What an answer that is no event stream says for itself, where it is plain text: its first line."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if response.status_code == httpx.codes.OK or kind != "text/plain":
        return ""
    with trio.move_on_after(CLOSE_WITHIN):
        async for text in response.aiter_text(REASON):
            return text.strip().partition("\n")[0].strip()
    return ""


def _text(error: httpx.RequestError) -> str:
    if isinstance(error, httpx.ReadTimeout):
        return f"not a byte for {SILENCE:g} s"
    return reason(error)
