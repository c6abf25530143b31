"""A certificate authority of the session's own, and what it signed for localhost."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme


@dataclass(frozen=True)
class Certificates:
    """PEM files for a server, and the contexts of clients that trust it."""

    certificate: Path
    key: Path
    authority: Path

    def client(self, *protocols: str) -> ssl.SSLContext:
        """A client's context that offers these protocols by ALPN (RFC 7301), e.g. ``h2``."""
        context = ssl.create_default_context(cafile=str(self.authority))
        context.set_alpn_protocols(list(protocols))
        return context


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates for localhost and 127.0.0.1."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1", "::1")
    files = Certificates(directory / "server.pem", directory / "server.key", directory / "ca.pem")
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(files.certificate, append=number > 0)
    issued.private_key_pem.write_to_path(files.key)
    authority.cert_pem.write_to_path(files.authority)
    return files
