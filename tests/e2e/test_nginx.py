"""Behind nginx as it comes: each event arrives on its own, without a line that turns buffering off."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.lab import wire
from tests.lab.nginx import nginx
from tests.lab.process import PATIENCE, Service
from tests.lab.publisher import Publisher

LOCATIONS = {
    "the default, HTTP/1.0 to the sidecar": "proxy_pass http://{0}:{1}; proxy_http_version 1.0;",
    "nothing but proxy_pass": "proxy_pass http://{0}:{1};",
    "HTTP/1.1 to the sidecar": 'proxy_pass http://{0}:{1}; proxy_http_version 1.1; proxy_set_header Connection "";',
    "a Unix socket": "proxy_pass http://unix:{2};",
    "gzip for everything": "proxy_pass http://{0}:{1}; gzip on; gzip_types *; gzip_proxied any;",
}


@pytest.fixture(params=list(LOCATIONS.values()), ids=list(LOCATIONS))
def proxy(request: pytest.FixtureRequest, tmp_path: Path, service: Service) -> Iterator[tuple[str, int]]:
    """Nginx before the shared process."""
    with nginx(tmp_path, request.param.format(*service.http, service.unix)) as address:
        yield address


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_each_event_arrives_on_its_own(
    nursery: trio.Nursery,
    proxy: tuple[str, int],
    service: Service,
    publisher: Publisher,
    name: str,
    version: str,
) -> None:
    left = partial(service.sidecar.metric, "sidecar_streams_closed_total", route="/plain/{name}", reason="client_left")
    before = await trio.to_thread.run_sync(left)
    client = await wire.open_http1(nursery, proxy, f"/plain/{name}", version=version)
    stream = await client.response.until_open()
    assert stream.status == 200
    for number in range(5):
        publisher.publish("e2e.topic", f"plain.{name}", str(number), mandatory=True)
        await stream.until_events(number + 1)  # before the next one is published
    assert stream.data == ["0", "1", "2", "3", "4"]
    await client.aclose()
    # Not "nobody is left": tests before this one may have left streams that are still on their way out.
    with trio.fail_after(PATIENCE):
        while await trio.to_thread.run_sync(left) <= before:  # noqa: ASYNC110 - the counter of another process
            await trio.sleep(0.05)


async def test_heartbeats_pass(nursery: trio.Nursery, proxy: tuple[str, int], name: str) -> None:
    stream = (await wire.open_http1(nursery, proxy, f"/quick/{name}")).response
    await stream.until(lambda self: len(self.stream.comments) >= 4)


async def test_a_server_side_end_is_a_clean_end(nursery: trio.Nursery, proxy: tuple[str, int], name: str) -> None:
    stream = (await wire.open_http1(nursery, proxy, f"/aged/{name}")).response
    assert await stream.until_end() == "clean"
