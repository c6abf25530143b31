"""The access settings of a file: every mistake with its place in it, and what is right is taken as it is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, SecretStr, ValidationError

from sidecar.access import TokenSource
from sidecar.config.access import Access, unix_socket
from sidecar.config.access_checks import access_check, claims_used
from sidecar.config.tree import Mapping, read
from sidecar.config.verdicts import findings
from tests.access.requests import SECRET, ec_key, private_pem, public_pem, rsa_key

PEM = public_pem(rsa_key()).decode()
JWT = "jwt: {keys: {url: 'https://i.example/jwks'}, algorithms: [RS256]"
HMAC = f"jwt: {{keys: {{secret: '{SECRET}'}}, algorithms: [HS256]"


class Holder(BaseModel):
    """What holds the settings, as a route will."""

    access: Access


def tree(text: str) -> Mapping:
    read_tree, problems = read(text, lambda scalar: scalar)
    assert problems == []
    return read_tree


def settings(text: str, folder: Path) -> Access:
    return Holder.model_validate(tree("access: {" + text + "}"), context={"folder": folder}).access


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with keys of every kind."""
    for name, content in {
        "rsa.pem": public_pem(rsa_key()),
        "ec.pem": public_pem(ec_key()),
        "k256.pem": public_pem(ec_key(ec.SECP256K1)),
        "short.pem": public_pem(rsa_key(9, 1024)),
        "private.pem": private_pem(rsa_key()),
        "none.pem": b"hello",
        "cut.pem": public_pem(rsa_key())[:100],
    }.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_the_example_of_the_contract(folder: Path) -> None:
    access = settings(
        """
        jwt: {
          keys: {url: "https://issuer.example/.well-known/jwks.json"}, algorithms: [RS256],
          issuer: https://issuer.example, audience: events, from: [header, cookie:session],
          require: {scope: "orders:read"}},
        forward: {url: "http://127.0.0.1:3000/internal/may-read", pass: [authorization, cookie],
          take: {user: x-user-id}},
        cors: {origins: ["https://app.example"], credentials: true},
        limit: {streams: 10000, per_client: 20, client: "{claims.sub}"}
        """,
        folder,
    )
    assert access.jwt is not None
    assert (access.jwt.issuer, access.jwt.audience) == ("https://issuer.example", ["events"])
    assert access.jwt.token_sources == (TokenSource("header"), TokenSource("cookie", "session"))
    assert (access.jwt.required, access.jwt.leeway) == ({"scope": "orders:read"}, 30.0)
    assert access.forward is not None
    assert (access.forward.within, access.forward.take) == (2.0, {"user": "x-user-id"})
    assert access.limit is not None
    assert (access.limit.streams, access.limit.per_client) == (10000, 20)


def test_defaults(folder: Path) -> None:
    access = settings(f"{JWT}}}, forward: {{url: 'http://app/x'}}", folder)
    assert access.jwt is not None
    assert access.jwt.token_sources == (TokenSource("header"),)
    assert access.jwt.secret_parameters == frozenset()
    assert access.forward is not None
    assert access.forward.passed == ["authorization", "cookie"]
    assert settings("", folder) == Access()


def test_requirements_keep_the_types_of_yaml(folder: Path) -> None:
    jwt = settings(JWT + ", require: {admin: true, level: 3, name: '3', tenant: '{tenant}'}}", folder).jwt
    assert jwt is not None
    assert jwt.required == {"admin": True, "level": 3, "name": "3", "tenant": "{tenant}"}


def test_a_secret_does_not_show(folder: Path) -> None:
    access = settings(HMAC + "}", folder)
    assert SECRET not in repr(access) + str(access.model_dump()) + access.model_dump_json()
    assert access.jwt is not None
    assert access.jwt.keys.secret == SecretStr(SECRET)


MISTAKES: list[tuple[str, tuple[str | int, ...], str]] = [
    ("jwt: {algorithms: [RS256]}", ("jwt", "keys"), "missing"),
    ("jwt: {keys: {url: 'https://i.example'}}", ("jwt", "algorithms"), "missing"),
    ("jwt: {keys: {}, algorithms: [RS256]}", ("jwt", "keys"), "exactly one"),
    ("jwt: {keys: {url: 'https://i', pem: rsa.pem}, algorithms: [RS256]}", ("jwt", "keys"), "exactly one"),
    ("jwt: {keys: {url: 'ftp://i/x'}, algorithms: [RS256]}", ("jwt", "keys", "url"), "no URL"),
    ("jwt: {keys: {url: 'https:///x'}, algorithms: [RS256]}", ("jwt", "keys", "url"), "no URL"),
    ("jwt: {keys: {url: 'https://i/x#y'}, algorithms: [RS256]}", ("jwt", "keys", "url"), "no URL"),
    ("jwt: {keys: {url: 'https://i:99999/'}, algorithms: [RS256]}", ("jwt", "keys", "url"), "no URL"),
    ("jwt: {keys: {url: 'https://a:hidden@i/'}, algorithms: [RS256]}", ("jwt", "keys", "url"), "user or a password"),
    ("jwt: {keys: {pem: absent.pem}, algorithms: [RS256]}", ("jwt", "keys", "pem"), "there is no file"),
    ("jwt: {keys: {pem: private.pem}, algorithms: [RS256]}", ("jwt", "keys", "pem"), "a private key"),
    ("jwt: {keys: {pem: none.pem}, algorithms: [RS256]}", ("jwt", "keys", "pem"), "no public key"),
    ("jwt: {keys: {pem: cut.pem}, algorithms: [RS256]}", ("jwt", "keys", "pem"), "no public key"),
    ("jwt: {keys: {pem: short.pem}, algorithms: [RS256]}", ("jwt", "keys", "pem"), "1024 bits"),
    ("jwt: {keys: {pem: ec.pem}, algorithms: [RS256]}", ("jwt", "algorithms"), "does not go with the key in ec.pem"),
    ("jwt: {keys: {pem: ec.pem}, algorithms: [ES384]}", ("jwt", "algorithms"), "does not go with the key in ec.pem"),
    ("jwt: {keys: {pem: k256.pem}, algorithms: [ES256]}", ("jwt", "algorithms"), "does not go with the key"),
    ("jwt: {keys: {pem: rsa.pem}, algorithms: [RS256, HS256]}", ("jwt", "algorithms"), "HS256 needs a secret"),
    ("jwt: {keys: {url: 'https://i'}, algorithms: [RS256, HS256]}", ("jwt", "algorithms"), "HS256 needs a secret"),
    (f"jwt: {{keys: {{secret: '{SECRET}'}}, algorithms: [RS256]}}", ("jwt", "algorithms"), "RS256 needs a public key"),
    ("jwt: {keys: {secret: short}, algorithms: [HS256]}", ("jwt", "algorithms"), "a secret of 32 bytes, and this one"),
    (f"jwt: {{keys: {{secret: '{SECRET}'}}, algorithms: [HS512]}}", ("jwt", "algorithms"), "a secret of 64 bytes"),
    ("jwt: {keys: {url: 'https://i'}, algorithms: []}", ("jwt", "algorithms"), "at least 1"),
    ("jwt: {keys: {url: 'https://i'}, algorithms: [none]}", ("jwt", "algorithms", 0), "without a signature"),
    ("jwt: {keys: {url: 'https://i'}, algorithms: [RS256, NONE]}", ("jwt", "algorithms", 1), "without a signature"),
    ("jwt: {keys: {url: 'https://i'}, algorithms: [rs256]}", ("jwt", "algorithms", 0), "rs256 is no algorithm"),
    (JWT + ", from: []}", ("jwt", "from"), "at least 1"),
    (JWT + ", from: [headers]}", ("jwt", "from", 0), "no place for a token"),
    (JWT + ", from: [cookie]}", ("jwt", "from", 0), "no place for a token"),
    (JWT + ", from: ['cookie:']}", ("jwt", "from", 0), "no place for a token"),
    (JWT + ", from: ['cookie:a b']}", ("jwt", "from", 0), "no place for a token"),
    (JWT + ", from: ['header:x']}", ("jwt", "from", 0), "no place for a token"),
    (JWT + ", from: [header, header]}", ("jwt", "from"), "stands twice"),
    (JWT + ", require: {a: ''}}", ("jwt", "require"), "what no claim can be"),
    (JWT + ", require: {scope: ' '}}", ("jwt", "require"), "what no claim can be"),
    (JWT + ", require: {a: [x]}}", ("jwt", "require"), "what no claim can be"),
    (JWT + ", require: {a: 1.5}}", ("jwt", "require"), "what no claim can be"),
    (JWT + ", require: {a: '{b'}}", ("jwt", "require"), "a lone {"),
    (JWT + ", leeway: 30}", ("jwt", "leeway"), "no duration"),
    (JWT + ", secret: x}", ("jwt", "secret"), "not permitted"),
    (JWT + ", audience: []}", ("jwt", "audience"), "at least 1"),
    (JWT + ", audience: {a: b}}", ("jwt", "audience", 0), "valid string"),
    ("forward: {}", ("forward", "url"), "missing"),
    ("forward: {url: 'unix:/run/app.sock'}", ("forward", "url"), "no URL"),
    ("forward: {url: 'http://unix:/run/app.sock'}", ("forward", "url"), "names no socket and path"),
    ("forward: {url: 'http://app/', pass: [Host]}", ("forward", "pass", 0), "not passed on"),
    ("forward: {url: 'http://app/', pass: [X-Forwarded-For]}", ("forward", "pass", 0), "not passed on"),
    ("forward: {url: 'http://app/', pass: [Transfer-Encoding]}", ("forward", "pass", 0), "not passed on"),
    ("forward: {url: 'http://app/', pass: ['a b']}", ("forward", "pass", 0), "no header's name"),
    ("forward: {url: 'http://app/', pass: [A, a]}", ("forward", "pass"), "stands twice"),
    ("forward: {url: 'http://app/', take: {user: 'x user'}}", ("forward", "take", "user"), "no header's name"),
    ("forward: {url: 'http://app/', take: {'a.b': x}}", ("forward", "take", "a.b"), "no placeholder's name"),
    ("forward: {url: 'http://app/', within: 0s}", ("forward", "within"), "above zero"),
    ("cors: {}", ("cors", "origins"), "missing"),
    ("cors: {origins: []}", ("cors", "origins"), "at least 1"),
    ("cors: {origins: ['https://app.example/']}", ("cors", "origins", 0), "no origin"),
    ("cors: {origins: ['https://App.example']}", ("cors", "origins", 0), "no origin"),
    ("cors: {origins: ['app.example']}", ("cors", "origins", 0), "no origin"),
    ("cors: {origins: ['https://*.app.example']}", ("cors", "origins", 0), "no origin"),
    ("cors: {origins: ['null']}", ("cors", "origins", 0), "no origin"),
    ("cors: {origins: ['https://app.example:443']}", ("cors", "origins", 0), "never sent so"),
    ("cors: {origins: ['http://app.example:80']}", ("cors", "origins", 0), "never sent so"),
    ("cors: {origins: ['https://žluť.example']}", ("cors", "origins", 0), "no origin"),
    ("cors: {origins: ['*'], credentials: true}", ("cors", "credentials"), "everybody's scripts"),
    ("cors: {origins: ['*', 'https://a.example']}", ("cors", "origins"), "beside other origins"),
    ("cors: {origins: ['https://a', 'https://a']}", ("cors", "origins"), "stands twice"),
    ("limit: {}", ("limit",), "a limit of nothing"),
    ("limit: {streams: 0}", ("limit", "streams"), "greater than or equal to 1"),
    ("limit: {streams: 1, client: '{claims.sub}'}", ("limit",), "does nothing without per_client"),
    ("limit: {per_client: 1, client: '{claims.sub'}", ("limit", "client"), "a lone {"),
    ("limits: {streams: 1}", ("limits",), "not permitted"),
]


@pytest.mark.parametrize(("text", "at", "fact"), MISTAKES)
def test_mistakes(folder: Path, text: str, at: tuple[str | int, ...], fact: str) -> None:
    with pytest.raises(ValidationError) as caught:
        settings(text, folder)
    (error,) = caught.value.errors()
    assert error["loc"][: len(at) + 1] == ("access", *at)
    assert fact in error["msg"] or error["type"] == fact


def test_a_public_key_for_a_secret(folder: Path) -> None:
    with pytest.raises(ValidationError, match="a public key is no secret") as caught:
        Access.model_validate({"jwt": {"keys": {"secret": PEM}, "algorithms": ["HS256"]}}, context={"folder": folder})
    assert PEM.splitlines()[1] not in str(caught.value)


def test_the_mistakes_are_said_as_the_rest_of_the_file_says_them(folder: Path) -> None:
    with pytest.raises(ValidationError) as caught:
        settings("jwt: {keys: {secret: short}, algorithms: [HS256], from: [heder]}", folder)
    said = [(finding.at, finding.fact) for finding in findings(caught.value)]
    assert (("access", "jwt", "from", 0), "heder is no place for a token") in said
    assert not any("short" in fact for _, fact in said)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://unix:/run/app.sock:/may-read?x=1", ("/run/app.sock", "/may-read?x=1")),
        ("http://127.0.0.1:3000/may-read", None),
        ("https://app.example/", None),
    ],
)
def test_urls_of_an_application(folder: Path, url: str, expected: tuple[str, str] | None) -> None:
    forward = settings(f"forward: {{url: '{url}'}}", folder).forward
    assert forward is not None
    assert (forward.url, unix_socket(forward.url)) == (url, expected)


# What concerns the rest of the route

ROUTE = """
path: /events/{order}/{tenant}
exchange: orders
binding_key: ["order.{order}.*", "user.{claims.sub}"]
where: {headers.tenant: "{claims.org.id}", headers.user: "{auth.user}"}
binding_headers: {x-match: all, team: "{auth.team}"}
access:
"""


def found(route: str) -> list[tuple[Any, str]]:
    return [(finding.at, finding.fact) for finding in access_check(tree(route))]


def test_a_route_whose_placeholders_all_have_a_giver() -> None:
    access = """
  jwt: {require: {tenant: "{tenant}", region: "{query.region}"}}
  forward: {take: {user: x-user, team: x-team}}
  limit: {per_client: 1, client: "{claims.sub}"}
"""
    assert found(ROUTE + access) == []
    assert claims_used(tree(ROUTE + access)) == {"sub", "org.id"}


def test_a_claim_without_a_token_and_a_value_that_nobody_gives() -> None:
    access = """
  forward: {take: {user: x-user}}
  limit: {per_client: 1, client: "{claims.sub} {order}"}
"""
    assert found(ROUTE + access) == [
        (("binding_key", 1), "{claims.sub} is a token's claim, and no token is asked for"),
        (("where", "headers.tenant"), "{claims.org.id} is a token's claim, and no token is asked for"),
        (("binding_headers", "team"), "nothing gives {auth.team}"),
        (("access", "limit", "client"), "{claims.sub} is a token's claim, and no token is asked for"),
        (("access", "limit", "client"), "a client chooses {order} itself"),
    ]


def test_a_requirement_on_what_the_path_does_not_have() -> None:
    assert found(
        ROUTE + "  jwt: {require: {tenant: '{tenent}', user: '{claims.sub}'}}\n  forward: {take: {user: a, team: b}}"
    ) == [
        (("access", "jwt", "require", "tenant"), "the path has no {tenent}"),
        (("access", "jwt", "require", "user"), "the path has no {claims.sub}"),
    ]


@pytest.mark.parametrize(
    "route",
    [
        "path: 7",
        "path: no/slash\naccess: {jwt: {require: [x]}}",
        "binding_key: '{claims.'",
        "access: jwt",
        "access: {jwt: }\nevent: '{type}'",
        "access: {forward: {take: [x]}}",
        "declare: {arguments: {a: '{not a template'}}",
    ],
)
def test_a_check_passes_over_what_it_does_not_know(route: str) -> None:
    assert found(route) == []
