"""h2spec, the conformance suite for HTTP/2 and HPACK, against a listener in clear text and one with TLS.

It asks twice: for a path that the application answers (the proxy), and for one that nobody does (404). Event streams
are no target for it: many of its tests wait for the end of a response.

Strategy: what fails is a value, compared with what is known to fail and why. v2.2.1 is the newest version that
`go list -m -versions` knows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_through_the_proxy import behind_nginx
from tests.lab.certificates import Certificates
from tests.lab.process import Service, running

VERSION = "v2.2.1+incompatible"
FOLDER = Path(__file__).resolve().parents[2] / ".lab" / "h2spec" / VERSION

ON_TCP = {
    # The same port serves HTTP/1.1, and what is no preface of HTTP/2 is a request of HTTP/1.1 for it: it is answered
    # by 400 in that language, and the connection closed. The tool takes any byte but a frame for a failure.
    "Sends invalid connection preface",
}


@pytest.fixture(scope="session")
def h2spec() -> Path:
    """The tool, fetched and built where it is missing."""
    program = FOLDER / "h2spec"
    if not program.exists():
        assert shutil.which("go"), "there is no Go here, which builds h2spec; see https://go.dev/doc/install"
        package = f"github.com/summerwind/h2spec/cmd/h2spec@{VERSION}"
        FOLDER.mkdir(parents=True, exist_ok=True)
        subprocess.run(["go", "install", package], env={**os.environ, "GOBIN": str(FOLDER)}, check=True, timeout=300)
    return program


@pytest.fixture(params=["the application answers", "nobody answers"])
def service(request: pytest.FixtureRequest, certificates: Certificates, tmp_path: Path) -> Iterator[Service]:
    """A sidecar with an application, and one without."""
    if request.param == "the application answers":
        with behind_nginx(tmp_path, 100_000, certificates) as service:
            yield service
    else:
        tls = {"certificate": str(certificates.certificate), "key": str(certificates.key)}
        with running(tmp_path, {"broker": {"url": "memory://"}}, tls=tls) as service:
            yield service


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
def test_conformance(h2spec: Path, service: Service, tmp_path: Path, secure: bool) -> None:
    address = service.https if secure else service.http
    assert address is not None
    report = tmp_path / "report.xml"
    arguments = ["--host", "127.0.0.1", "--port", str(address[1]), "--path", "/large", "--timeout", "15", "--strict"]
    tls = ["--tls", "--insecure"] if secure else []
    subprocess.run([h2spec, *arguments, *tls, "--junit-report", report], check=False, timeout=300)
    cases = list(ET.parse(report).iter("testcase"))
    failed = {
        case.attrib["classname"] for case in cases if case.find("failure") is not None or case.find("error") is not None
    }
    assert len(cases) > 140
    assert failed == (set() if secure else ON_TCP)
    errors = [line for line in service.sidecar.log.lines if line.get("level") == "error"]
    assert not errors
