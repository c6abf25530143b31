"""What the image promises, read off its Dockerfile, its locks and what the engine is shown."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sidecar
from tests.image.dockerfile import ROOT, Instruction, instructions, stages

TEXT = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)", re.MULTILINE)


def final(word: str) -> list[Instruction]:
    return [instruction for instruction in stages(TEXT)[-1] if instruction.word == word]


def pins(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    return {canonicalize_name(found["name"]): found["version"] for found in PIN.finditer(text)}


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_the_user_is_a_number_and_not_root() -> None:
    (user,) = final("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user.rest)


@pytest.mark.parametrize("word", ["ENTRYPOINT", "CMD"])
def test_no_shell_stands_between_the_engine_and_the_program(word: str) -> None:
    (instruction,) = final(word)
    assert instruction.rest.startswith("[")
    assert not {"sh", "bash", "tini"} & set(instruction.arguments)


def test_the_base_is_an_argument_so_that_a_digest_can_pin_it() -> None:
    first = next(instructions(TEXT))
    assert first.word == "ARG"
    assert first.rest.startswith("PYTHON_IMAGE=")
    assert {stage[0].rest.split()[0] for stage in stages(TEXT)} == {"${PYTHON_IMAGE}"}


def test_the_label_has_the_programs_version() -> None:
    assert Instruction("ARG", f"VERSION={sidecar.__version__}") in final("ARG")


def test_the_image_gets_the_environment_and_nothing_else() -> None:
    (copied,) = final("COPY")
    assert copied.arguments == ["--from=build", "/opt/sidecar", "/opt/sidecar"]


def test_the_engine_is_shown_what_is_copied_and_nothing_else() -> None:
    shown = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = [name for each in stages(TEXT)[0] if each.word == "COPY" for name in each.arguments[:-1]]
    assert shown[0] == "*"
    assert sorted(line[1:] for line in shown if line.startswith("!")) == sorted(copied)


# the locks


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", PROJECT["project"]["dependencies"]),
        ("requirements.build.lock", PROJECT["build-system"]["requires"]),
    ],
)
def test_a_lock_has_every_requirement_within_its_bounds(lock: str, wanted: list[str]) -> None:
    locked = pins(lock)
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert name in locked, f"run `make lock`: {requirement} is not in {lock}"
        assert locked[name] in requirement.specifier, f"run `make lock`: {requirement} and {locked[name]}"


def test_the_lock_has_the_versions_that_the_suite_runs_with() -> None:
    tested = pins("constraints.txt")
    other = {
        name: (version, tested[name])
        for name, version in pins("requirements.lock").items()
        if tested.get(name, version) != version
    }
    assert other == {}, "run `make lock`"


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements.build.lock"])
def test_every_locked_version_has_its_hashes(lock: str) -> None:
    blocks = re.split(r"^(?=[A-Za-z0-9])", (ROOT / lock).read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins(lock))
    assert all("--hash=sha256:" in block for block in blocks)
    assert "index-url" not in "".join(blocks)
