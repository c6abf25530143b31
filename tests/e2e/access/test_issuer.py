"""An issuer that is away when the process starts, comes, and leaves again: whom that keeps out, and whom not."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from pathlib import Path

import trio

from tests.access.requests import claims, jwk, key_set, rsa_key, signed
from tests.access.server import Asked, Reply, Server
from tests.e2e.access.conftest import bearer
from tests.lab import wire
from tests.lab.ports import free_port
from tests.lab.process import running


async def issuer(_: Asked) -> Reply:
    """The issuer's one answer."""
    return Reply(body=key_set(jwk(rsa_key(), "RS256", kid="one")))


async def is_turned_away(asked: Awaitable[wire.Response]) -> None:
    """Whether it is told to come back, as an EventSource understands it."""
    response = await asked
    assert (response.status, await response.until_end()) == (200, "clean")
    assert response.stream.retry is not None


async def is_told(asked: Awaitable[wire.Response]) -> None:
    """Whether it gets the honest status."""
    assert (await asked).status == 503


async def test_keys_are_fetched_and_kept(nursery: trio.Nursery, tmp_path: Path) -> None:
    port = free_port()
    jwt = {
        "keys": {"url": f"http://127.0.0.1:{port}/jwks.json"},
        "algorithms": ["RS256"],
        "issuer": "https://issuer.example",
    }
    source = {"exchange": "e", "declare": {"type": "topic"}, "binding_key": "user.{claims.sub}"}
    route = {"access": {"jwt": {**jwt, "audience": "events"}}, "retry": "50ms-100ms", **source}
    routes = [{"path": "/mine", **route}, {"path": "/honest", "overload": "503", **route}]
    with running(tmp_path, {"broker": {"url": "memory://"}, "routes": routes}) as service:

        async def ask(path: str, text: str) -> wire.Response:
            opened = await wire.open_http1(nursery, service.http, path, headers=bearer(text))
            return await opened.response.until_head()

        mine = claims(exp=time.time() + 60)
        good, forged = signed(mine, kid="one"), signed(mine, key=rsa_key(1), kid="one")
        async with trio.open_nursery() as asking:  # both wait for the same fetch
            asking.start_soon(is_turned_away, ask("/mine", good))
            asking.start_soon(is_told, ask("/honest", good))
        assert (await ask("/mine", "no token at all")).status == 401  # for that no key is needed

        server = Server(issuer)
        listening = await server.listen(nursery, port)
        with trio.fail_after(10):
            while (await ask("/honest", good)).status == 503:
                pass  # the process tries again after a second
        assert (await ask("/mine", forged)).status == 401

        listening.cancel()
        stream = await (await ask("/mine", good)).until_open()
        assert stream.end is None
        assert len(server.asked) == 1
        nursery.cancel_scope.cancel()
