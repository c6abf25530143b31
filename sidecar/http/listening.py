"""``/listen/…`` on the admin listener: every route of the public listeners, for the debug page.

Strategy: the path is cut and the request handed to the routes in force, so that what the page shows is what a client
gets: the same replay, access rules and limits. The page need not be of an origin that a route allows, and no page of
another site can read here: it has no CORS, and a name pointed at this address by somebody else is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from sidecar.http.answer import Refusal
from sidecar.http.dispatch import Dispatch, Spawn, Taken
from sidecar.http.outlet import StreamOutlet
from sidecar.http.publish import refuse_strange_readers
from sidecar.http.request import Request
from sidecar.http.routes import CompiledRoute
from sidecar.routing import Match

PREFIX: Final = b"/listen"


class Listening:
    """Stands where a listener expects its `Dispatch`."""

    proxy: Final = None
    """What is no route's is the admin application's."""

    def __init__(self, live: Callable[[], Dispatch]) -> None:
        """``live`` gives the routes in force."""
        self._live = live

    def match(self, path: bytes) -> Match[CompiledRoute] | None:
        """Which route takes a raw path under ``/listen``; None leaves it to the admin application."""
        return self._live().match(path.removeprefix(PREFIX)) if path.startswith(PREFIX + b"/") else None

    def take(self, match: Match[CompiledRoute], request: Request, outlet: StreamOutlet, spawn: Spawn) -> Taken:
        """Answer as the public listener would; pages from elsewhere get 403."""
        try:
            refuse_strange_readers({"headers": request.headers})
        except Refusal as refusal:
            outlet.reply(403, [(b"content-type", b"text/plain; charset=utf-8")], refusal.answer.body)
            return _Refused()
        return self._live().take(match, replace(request, path=request.path.removeprefix(PREFIX)), outlet, spawn)


class _Refused:
    """A page of another site was told so."""

    def gone(self) -> None:
        """Nothing is left to do."""
