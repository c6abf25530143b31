"""What went wrong inside of a process is shown with the test that failed."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.lab.process import Sidecar


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure, show what the processes of the test wrote at last."""
    report = yield
    if report.failed:
        for number, sidecar in enumerate(getattr(item, "sidecars", []), 1):
            report.sections.append((f"the last lines of process {number}", str(sidecar.log)))
    return report


@pytest.fixture(autouse=True)
def every_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Note every process that a test starts."""
    begin, item = Sidecar.__init__, request.node
    item.sidecars = []

    def noted(self: Sidecar, *arguments: object, **options: object) -> None:
        item.sidecars.append(self)
        begin(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Sidecar, "__init__", noted)
