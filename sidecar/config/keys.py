"""The public key in a file, with which tokens are verified.

Strategy: read the key once while the configuration is checked, so that a wrong file is a mistake of the file and not
of the first request. What is no public key says what it is instead.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from sidecar.access import ALGORITHMS
from sidecar.config.values import GrammarError

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

RSA_BITS = 2048  # RFC 7518 §3.3: a key of 2048 bits or larger must be used

_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def read_public_key(path: Path) -> PublicKey:
    """The public key, or the key of the certificate, in a PEM file; raises `GrammarError`, and OSError."""
    pem = path.read_bytes()
    if b"PRIVATE KEY-----" in pem:
        raise GrammarError("a private key, and tokens are verified with the public one", "openssl pkey -pubout")
    try:
        key = x509.load_pem_x509_certificate(pem).public_key() if b"BEGIN CERT" in pem else load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise GrammarError("the file holds no public key in PEM", "-----BEGIN PUBLIC KEY-----") from None
    if not isinstance(key, PublicKey):
        raise GrammarError("no RSA, EC or Ed25519 key", "use a key of one of the algorithms allowed")
    if isinstance(key, RSAPublicKey) and key.key_size < RSA_BITS:
        raise GrammarError(f"an RSA key of {key.key_size} bits", f"{RSA_BITS} bits or more (RFC 7518 §3.3)")
    return key


def fitting(key: PublicKey) -> frozenset[str]:
    """The names of the algorithms whose signatures this key can verify."""
    return frozenset(name for name, algorithm in ALGORITHMS.items() if (algorithm.kty, algorithm.crv) == _form(key))


def _form(key: PublicKey) -> tuple[str, str | None]:
    if isinstance(key, RSAPublicKey):
        return "RSA", None
    if isinstance(key, Ed25519PublicKey):
        return "OKP", "Ed25519"
    return "EC", _CURVES.get(key.curve.name)
