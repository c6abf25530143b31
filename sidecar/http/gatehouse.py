"""What gates share and what has to outlive a reload: the issuers' keys, the connections to issuers and applications.

Strategy: an issuer is known by its URL and fetched once, however many routes name it. A reload builds new gates in the
same house and then says which ones it keeps; keys that are still needed were never let go of, so a reload while an
issuer is down costs nobody anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import cached_property

import httpx
import trio

from sidecar.config.access import Access, Jwt, unix_socket
from sidecar.forwarded import Proxies
from sidecar.http.access import Gate
from sidecar.http.forward import Application, new_client
from sidecar.http.jwks import FetchedKeys
from sidecar.http.tokens import Keys, fixed_key


class Gatehouse:
    """Builds gates. `run` it in a nursery; gates may be built before and after. `keep` is for reloads."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._issuers: dict[str, FetchedKeys] = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        self._sockets: dict[str, httpx.AsyncClient] = {}
        self._nursery: trio.Nursery | None = None

    def gate(self, settings: Access | None, proxies: Proxies) -> Gate:
        """A gate for a route with these settings. Raises OSError and ValueError for a key's file gone bad."""
        settings = settings or Access()
        keys = self._keys(settings.jwt) if settings.jwt else None
        forward = settings.forward
        application = Application(forward, self._client(forward.url), proxies) if forward else None
        return Gate(settings, proxies=proxies, keys=keys, application=application, clock=self._clock)

    def keep(self, gates: Collection[Gate]) -> None:
        """Forget the issuers that none of these gates needs."""
        needed = {gate.settings.jwt.keys.url for gate in gates if gate.settings.jwt}
        for url in self._issuers.keys() - needed:
            del self._issuers[url]
            if scope := self._scopes.pop(url, None):
                scope.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the issuers' keys fresh until cancelled; then close every connection."""
        try:
            async with trio.open_nursery() as self._nursery:
                for url in self._issuers:
                    self._nursery.start_soon(self._fresh, url)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                for client in (self._questions, self._fetches, *self._sockets.values()):
                    await client.aclose()

    def _keys(self, settings: Jwt) -> Keys:
        url = settings.keys.url
        if url is None:
            return fixed_key(settings)
        if url not in self._issuers:
            self._issuers[url] = FetchedKeys(url, self._fetches)
            if self._nursery is not None:
                self._nursery.start_soon(self._fresh, url)
        return self._issuers[url]

    async def _fresh(self, url: str) -> None:
        if issuer := self._issuers.get(url):
            with trio.CancelScope() as self._scopes[url]:
                await issuer.run()

    def _client(self, url: str) -> httpx.AsyncClient:
        socket = unix_socket(url)
        if socket is None:
            return self._questions
        if socket[0] not in self._sockets:
            self._sockets[socket[0]] = new_client(url)
        return self._sockets[socket[0]]

    @cached_property
    def _questions(self) -> httpx.AsyncClient:
        return new_client()

    @cached_property
    def _fetches(self) -> httpx.AsyncClient:
        return new_client(environment=True)
