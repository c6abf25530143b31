"""What a reload leaves in the process itself: tasks, deadlines, subscriptions, bindings."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import trio

from sidecar.config import Config
from sidecar.http.routes import CompiledRoute
from sidecar.service import Service
from tests.lab import wire
from tests.operation.changes import memory, route

LOCAL = {"listen": [{"bind": "127.0.0.1:0"}], "admin": {"bind": "127.0.0.1:0"}, "drain": {"within": "0s"}}


def configuration(*routes: dict[str, Any], **options: Any) -> Config:
    """A configuration on free ports whose streams end at once."""
    return Config.model_validate({**memory(*routes), **LOCAL, **options})


def living() -> tuple[int, int]:
    """The tasks and the compiled routes there are."""
    gc.collect()
    routes = sum(isinstance(each, CompiledRoute) for each in gc.get_objects())
    return trio.lowlevel.current_statistics().tasks_living, routes


@pytest.mark.parametrize("replay", [None, {"memory": 10}])
async def test_nothing_of_a_route_that_has_gone_stays(nursery: trio.Nursery, replay: dict[str, int] | None) -> None:
    def numbered(number: int) -> Config:
        return configuration(route("/kept/{name}"), route("/other/{name}", event=f"e{number}", replay=replay))

    service = Service(numbered(0))
    await nursery.start(service.run)
    address = "127.0.0.1", int(service.addresses[0].rpartition(":")[2])
    await (await wire.open_http1(nursery, address, "/kept/a")).response.until_open()
    found = set()
    for number in range(1, 31):
        other = await wire.open_http1(nursery, address, "/other/a")
        await other.response.until_open()
        await service.apply(numbered(number))
        assert await other.response.until_end() == "clean"
        await other.aclose()
        await trio.testing.wait_all_tasks_blocked(0.02)
        if number in (6, 18, 30):
            found.add((*living(), len(service._hub.subscriptions), len(service._deadlines)))
    assert len(found) == 1, found
    (_, routes, subscriptions, _), *_ = found
    assert (routes, subscriptions) == (2, 1)
    nursery.cancel_scope.cancel()


async def test_a_configuration_that_cannot_be_taken_leaves_nothing(nursery: trio.Nursery) -> None:
    service = Service(configuration(route("/kept/{name}")))
    await nursery.start(service.run)
    bad = {"listen": [{"bind": "127.0.0.1:0"}, {"bind": service.addresses[0].removeprefix("http://")}]}
    await trio.testing.wait_all_tasks_blocked(0.02)
    before, addresses = living(), service.addresses
    for _ in range(20):
        with pytest.raises(OSError, match="cannot listen"):
            await service.apply(configuration(**bad))
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert (living(), service.addresses) == (before, addresses)
    nursery.cancel_scope.cancel()
