"""The Dockerfile as data, and its build stage carried out without an engine.

Strategy: the instructions are read as they stand, and RUN and COPY of the build stage are done in a directory that
takes the place of ``/``; so a test without Docker still runs the very lines that the image is made by.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD_WITHIN = 300.0


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word, and the rest of its lines as one."""

    word: str
    rest: str

    @property
    def arguments(self) -> list[str]:
        """The words of an exec form (a JSON list), or those between spaces."""
        words: list[str] = json.loads(self.rest) if self.rest.startswith("[") else self.rest.split()
        return words


def instructions(text: str) -> Iterator[Instruction]:
    """The instructions of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        yield Instruction(word, " ".join(rest.split()))


def stages(text: str) -> list[list[Instruction]]:
    """The instructions of each stage, its FROM first; what stands before the first FROM is left out."""
    found: list[list[Instruction]] = []
    for instruction in instructions(text):
        if instruction.word == "FROM":
            found.append([])
        if found:
            found[-1].append(instruction)
    return found


def carry_out(stage: list[Instruction], root: Path) -> None:
    """Do the WORKDIR, COPY and RUN of a stage below ``root``; AssertionError with pip's words where one fails.

    ENV is left out: it keeps pip from filling a cache in the image, and the tests are glad of one.
    """
    work = root
    for instruction in stage:
        match instruction.word:
            case "WORKDIR":
                work = root / instruction.rest.lstrip("/")
                work.mkdir(parents=True)
            case "COPY":
                _copy(instruction.arguments, work)
            case "RUN":
                _run(instruction.rest, work, root)


def _copy(arguments: list[str], work: Path) -> None:
    *sources, target = arguments
    for source in map(ROOT.joinpath, sources):
        if source.is_dir():
            shutil.copytree(source, work / target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, work / target)


def _run(command: str, work: Path, root: Path) -> None:
    placed = command.replace("/opt/", f"{root}/opt/").replace("python -m venv", f"{sys.executable} -m venv")
    done = subprocess.run(
        ["/bin/sh", "-c", placed],
        cwd=work,
        capture_output=True,
        text=True,
        timeout=BUILD_WITHIN,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
