"""50 000 numbered messages under a broker and sidecars that are killed: `tests/replay/test_chaos.py` at full length."""

from __future__ import annotations

from pathlib import Path

from tests.lab.rabbitmq import RabbitNode
from tests.replay.test_chaos import broker_and_sidecar_killed, node

__all__ = ["node"]


async def test_50_000_messages(tmp_path: Path, node: RabbitNode) -> None:
    await broker_and_sidecar_killed(tmp_path, node, 50_000, within=900)
