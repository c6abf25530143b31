"""What every test may use: the lab's fixtures. Async tests run under trio (pytest-trio's trio mode)."""

from __future__ import annotations

pytest_plugins = ["tests.lab.certificates", "tests.lab.chromium", "tests.lab.rabbitmq"]
