"""Requests and tokens as the tests want them, good ones and bad ones."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

NOW = 1_800_000_000.0
SECRET = "a secret of more than thirty-two bytes!"
ISSUER = "https://issuer.example"
AUDIENCE = "events"


@dataclass(frozen=True)
class AnyRequest:
    """What `sidecar.http.access.Request` asks for."""

    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    query: bytes = b""
    path: bytes = b"/events/orders/7"
    method: str = "GET"
    scheme: str = "http"
    client: tuple[str, int] | None = ("192.0.2.1", 50000)


def bearer(token: str | bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a request that brings a token."""
    return [(b"authorization", b"Bearer " + (token.encode() if isinstance(token, str) else token))]


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key by number; made once."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key(curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve())


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def public_pem(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def private_pem(key: Any) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def jwk(key: Any, algorithm: str, **more: object) -> dict[str, Any]:
    """The public key as a JSON Web Key."""
    made = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return {**made, **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def claims(**more: object) -> dict[str, object]:
    """The claims of a good token; None leaves one out."""
    usual: dict[str, object] = {"sub": "ada", "iss": ISSUER, "aud": AUDIENCE, "exp": NOW + 60, "scope": "orders:read"}
    return {name: value for name, value in {**usual, **more}.items() if value is not None}


def signed(
    payload: dict[str, object] | None = None, key: Any = None, algorithm: str = "RS256", **header: object
) -> str:
    """A token; by default a good one."""
    return jwt.encode(
        claims() if payload is None else payload, key or rsa_key(), algorithm=algorithm, headers=dict(header)
    )


def part(value: object) -> str:
    """One part of a token, as base64url without padding."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
