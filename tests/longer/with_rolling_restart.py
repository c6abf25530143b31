"""Two sidecars behind nginx are replaced one after the other, under clients that reconnect as browsers do.

``python -m tests.longer.with_rolling_restart`` draws the picture of `docs/how-to/rolling-updates.md` as well.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio
import yaml

from tests.lab import wire
from tests.lab.nginx import nginx
from tests.lab.ports import free_port
from tests.lab.process import Sidecar
from tests.lab.publisher import publishing
from tests.lab.rabbitmq import RabbitNode
from tests.operation.changes import route
from tests.operation.test_drain import Counting

CLIENTS = 400
WITHIN = 6.0
PICTURE = Path(__file__).parents[2] / "docs" / "how-to" / "rolling-updates.svg"
BAR = 0.25
"""Seconds of one bar of the picture."""

UPSTREAM = "upstream sidecars {{ server 127.0.0.1:{} max_fails=0; server 127.0.0.1:{} max_fails=0; }}"
LOCATION = "proxy_pass http://sidecars; proxy_http_version 1.1; proxy_set_header Connection '';"


class Replica:
    """A sidecar that keeps its addresses when it is replaced."""

    def __init__(self, folder: Path, url: str) -> None:
        folder.mkdir()
        self.port, self._admin = free_port(), free_port()
        self._config = folder / "sidecar.yaml"
        config = {
            "broker": {"url": url},
            "listen": [{"bind": f"127.0.0.1:{self.port}"}],
            "admin": {"bind": f"127.0.0.1:{self._admin}"},
            "drain": {"within": f"{WITHIN:g}s"},
            "routes": [route("/numbers/{name}", replay={"stream": "operation.numbers"}, retry="500ms-3s")],
        }
        self._config.write_text(yaml.safe_dump(config))

    def start(self) -> None:
        """Start it; return once it is ready."""
        self.sidecar = Sidecar(["run", "-c", str(self._config)], self._admin)
        self.sidecar.wait_ready()

    def replace(self) -> None:
        """End it by SIGTERM, and start the next."""
        assert self.sidecar.terminate(WITHIN + 5) == 0
        self.start()


@contextlib.contextmanager
def replicas(folder: Path, url: str) -> Iterator[list[Replica]]:
    """Two of them, running."""
    both = [Replica(folder / name, url) for name in ("one", "two")]
    try:
        for replica in both:
            replica.start()
        yield both
    finally:
        for replica in both:
            replica.sidecar.process.kill()
            replica.sidecar.process.wait()


@dataclass
class Client:
    """What a browser's EventSource does (WHATWG HTML §9.2.3), and what its page hears."""

    address: tuple[str, int]
    data: list[str] = field(default_factory=list)
    connects: list[float] = field(default_factory=list)
    last_id: str = ""

    async def run(self) -> None:
        """Listen until the end is told; reconnect after the time it was told to wait."""
        while "the end" not in self.data[-1:]:
            async with trio.open_nursery() as nursery:
                retry = await self._listen(nursery)
                nursery.cancel_scope.cancel()
            await trio.sleep(retry)

    async def _listen(self, nursery: trio.Nursery) -> float:
        headers = [("Accept", "text/event-stream"), *([("Last-Event-ID", self.last_id)] if self.last_id else [])]
        self.connects.append(trio.current_time())
        response = (await wire.open_http1(nursery, self.address, "/numbers/a", headers=headers)).response
        await response.until(lambda self: self.end is not None or "the end" in self.data[-1:], 600)
        assert response.status == 200, response
        assert response.end in ("clean", None), response
        self.data += response.data
        self.last_id = response.stream.last_id or self.last_id
        return (response.stream.retry or 0) / 1000


@dataclass
class Story:
    """What happened, in seconds from the beginning."""

    connects: list[float]
    replacements: list[tuple[float, float]]


async def roll(folder: Path, url: str) -> Story:
    """Replace both replicas under load; every client hears every number, once and in order."""
    with replicas(folder, url) as both, publishing(url) as publisher:
        beside = UPSTREAM.format(*(replica.port for replica in both))
        with nginx(folder, LOCATION, beside) as address, Counting(publisher) as counting:
            clients, replacements, began = [Client(address) for _ in range(CLIENTS)], [], trio.current_time()
            async with trio.open_nursery() as nursery:
                for client in clients:
                    nursery.start_soon(client.run)
                await trio.sleep(4)
                for replica in both:
                    start = trio.current_time() - began
                    await trio.to_thread.run_sync(replica.replace)
                    replacements.append((start, trio.current_time() - began))
                    await trio.sleep(4)
                counting.stop()
                publisher.publish("operation", "a", "the end")
            for client in clients:
                first = int(client.data[0])
                assert client.data == [*map(str, range(first, counting.published)), "the end"]
                assert first < 10
            return Story(sorted(at - began for client in clients for at in client.connects), replacements)


async def test_every_number_arrives_and_reconnects_are_spread(tmp_path: Path, vhost_url: str) -> None:
    story = await roll(tmp_path, vhost_url)
    back = [at for at in story.connects if at > story.replacements[0][0]]
    assert len(back) > CLIENTS
    busiest = max(Counter(int(at / BAR) for at in back).values())
    assert busiest < CLIENTS / 5, busiest  # all at once it would be half of them, twice


# The picture.

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #57606a } .bar { fill: #0969da } .drain { fill: #8c959f; opacity: .25 }
  @media (prefers-color-scheme: dark) { text { fill: #9198a1 } .bar { fill: #4493f8 } }
"""
WIDTH, HEIGHT, FOOT = 720, 160, 24


def draw(story: Story) -> str:
    """Connections opened in each quarter of a second, and when each replica was replaced."""
    bars = Counter(int(at / BAR) for at in story.connects if at > story.replacements[0][0])
    end = story.replacements[-1][1] + 4
    scale, top = WIDTH / end, max(bars.values())
    shades = [_rect("drain", at * scale, 0, (until - at) * scale, HEIGHT) for at, until in story.replacements]
    drawn = [
        _rect("bar", number * BAR * scale, HEIGHT * (1 - count / top), BAR * scale - 1, HEIGHT * count / top)
        for number, count in sorted(bars.items())
    ]
    words = [f'<text x="{at * scale + 4:.1f}" y="14">one is replaced</text>' for at, _ in story.replacements]
    foot = (
        f"{CLIENTS} clients on two sidecars: reconnects in each quarter of a second, at most {top}; {end:.0f} seconds"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT + FOOT}" role="img">'
        f"<title>Reconnects while two sidecars are replaced</title><style>{STYLE}</style>"
        f'{"".join([*shades, *drawn, *words])}<text x="0" y="{HEIGHT + 16}">{foot}</text></svg>\n'
    )


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def main() -> None:
    """Draw the picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rabbitmq").mkdir()
        node = RabbitNode(folder / "rabbitmq")
        try:
            node.start()
            PICTURE.write_text(draw(trio.run(roll, folder, node.url())))
        finally:
            node.stop()


if __name__ == "__main__":
    main()
