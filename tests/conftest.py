"""What every test may use: the lab's fixtures. Async tests run under trio (pytest-trio's trio mode)."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.lab.certificates", "tests.lab.chromium", "tests.lab.rabbitmq"]

# A slow machine is no mistake of the code: examples take as long as they take.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
