"""A corpus of broken files, each with the report it gets, word for word.

``python -m tests.config.test_broken`` writes the reports anew after a change of words; read the difference then.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.config import ConfigError, load

FOLDER = Path(__file__).parent / "broken"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
ENVIRON = {"SECRET": "hunter2", "EMPTY": ""}


def report(name: str) -> str:
    """What `load` says about a file of the corpus, with the corpus's folder as the working directory."""
    with pytest.raises(ConfigError) as caught:
        load(Path(f"{name}.yaml"), ENVIRON)
    return f"{caught.value}\n".replace(str(FOLDER), "FOLDER")


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_file_gets_its_report(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    assert report(name) == (FOLDER / f"{name}.expected").read_text(encoding="utf-8")


def test_the_corpus_is_whole() -> None:
    assert len(NAMES) >= 40
    assert {path.stem for path in FOLDER.glob("*.expected")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_no_report_tells_a_secret(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    assert "hunter2" not in report(name)


if __name__ == "__main__":
    os.chdir(FOLDER)
    for each in NAMES:
        Path(f"{each}.expected").write_text(report(each), encoding="utf-8")
