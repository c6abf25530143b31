"""A table of tokens that should not count, each with the answer it gets, asked of a whole gate."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from sidecar.access import TOKEN_BYTES
from sidecar.config.access import Access
from sidecar.forwarded import Proxies
from sidecar.http.access import Denied, Gate, Granted
from sidecar.http.gatehouse import Gatehouse
from tests.access.requests import (
    AUDIENCE,
    ISSUER,
    NOW,
    SECRET,
    AnyRequest,
    bearer,
    claims,
    ec_key,
    ed_key,
    jwk,
    part,
    private_pem,
    public_pem,
    rsa_key,
    signed,
)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """A gate that knows one RSA key, one issuer, one audience, two algorithms, and three places for a token."""
    return gate_with(tmp_path, **{"from": ["header", "cookie:session", "query:token"]})


def gate_with(tmp_path: Path, **more: Any) -> Gate:
    pem = tmp_path / "key.pem"
    pem.write_bytes(public_pem(rsa_key()))
    settings = {"keys": {"pem": pem}, "algorithms": ["RS256", "PS256"], "issuer": ISSUER, "audience": AUDIENCE}
    access = Access.model_validate({"jwt": {**settings, **more}})
    return Gatehouse(clock=lambda: NOW).gate(access, Proxies())


async def asked(gate: Gate, headers: list[tuple[bytes, bytes]], query: bytes = b"") -> Granted | Denied:
    answer = await gate.check(AnyRequest(headers, query), {})
    assert isinstance(answer, Granted | Denied)
    return answer


def said(answer: Granted | Denied) -> tuple[int, str]:
    """The status, and the challenge of a refusal."""
    if isinstance(answer, Granted):
        return 200, ""
    return answer.status, dict(answer.headers)[b"www-authenticate"].decode()


def forged(header: object, payload: object = None, secret: bytes | None = None, hash_name: str = "sha256") -> str:
    """A token by hand: any header, any payload, an HMAC over both or no signature."""
    head = f"{part(header)}.{part(claims() if payload is None else payload)}"
    return f"{head}.{part(hmac.digest(secret, head.encode(), hash_name)) if secret is not None else ''}"


def unsigned(alg: str) -> Callable[[], str]:
    return lambda: forged({"alg": alg, "typ": "JWT"})


def with_tail(text: str) -> str:
    """A good signature over something else."""
    return signed().rsplit(".", 1)[0] + text


MALFORMED = "the token is malformed"
NOT_ALLOWED = "the token's algorithm is not allowed"
BAD_SIGNATURE = "the token's signature is not the issuer's"

PUBLIC = public_pem(rsa_key())
DER = rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
OWN_JWK = {key: value for key, value in jwk(rsa_key(1), "RS256").items() if key in ("kty", "n", "e")}

HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    # the algorithm
    "alg none": (unsigned("none"), NOT_ALLOWED),
    "alg None": (unsigned("None"), NOT_ALLOWED),
    "alg NONE": (unsigned("NONE"), NOT_ALLOWED),
    "alg nOnE": (unsigned("nOnE"), NOT_ALLOWED),
    "alg empty": (unsigned(""), NOT_ALLOWED),
    "no alg": (lambda: forged({"typ": "JWT"}), NOT_ALLOWED),
    "alg a list": (lambda: forged({"alg": ["RS256"]}), NOT_ALLOWED),
    "alg a mapping": (lambda: forged({"alg": {"RS256": 1}}), NOT_ALLOWED),
    "alg null": (lambda: forged({"alg": None}), NOT_ALLOWED),
    "alg in lower case": (lambda: forged({"alg": "rs256"}, secret=b"x"), NOT_ALLOWED),
    "alg with a space": (lambda: forged({"alg": "RS256 "}, secret=b"x"), NOT_ALLOWED),
    "a good key's other algorithm": (lambda: signed(algorithm="RS512"), NOT_ALLOWED),
    "another kind of key": (lambda: signed(key=ec_key(), algorithm="ES256"), NOT_ALLOWED),
    # the public key as an HMAC secret (CVE-2015-9235 and its family)
    "HS256 with the public PEM": (lambda: forged({"alg": "HS256"}, secret=PUBLIC), NOT_ALLOWED),
    "HS256 with the PEM without its end": (lambda: forged({"alg": "HS256"}, secret=PUBLIC.strip()), NOT_ALLOWED),
    "HS256 with the public DER": (lambda: forged({"alg": "HS256"}, secret=DER), NOT_ALLOWED),
    "HS512 with the public PEM": (lambda: forged({"alg": "HS512"}, secret=PUBLIC, hash_name="sha512"), NOT_ALLOWED),
    "RS256 whose signature is an HMAC": (lambda: forged({"alg": "RS256"}, secret=PUBLIC), BAD_SIGNATURE),
    "PS256 whose signature is an HMAC": (lambda: forged({"alg": "PS256"}, secret=PUBLIC), BAD_SIGNATURE),
    # the signature
    "no signature": (lambda: with_tail("."), BAD_SIGNATURE),
    "two parts": (lambda: with_tail(""), MALFORMED),
    "one part": (lambda: signed().split(".")[0], MALFORMED),
    "four parts": (lambda: signed() + ".e30", MALFORMED),
    "five parts, as encrypted": (
        lambda: ".".join([part({"alg": "RSA-OAEP", "enc": "A128GCM"})] + ["e30"] * 4),
        MALFORMED,
    ),
    "cut": (lambda: signed()[:-6], BAD_SIGNATURE),
    "cut to a length no base64 has": (lambda: signed()[:-5], MALFORMED),
    "longer": (lambda: signed() + "AAAA", BAD_SIGNATURE),
    "another's signature": (lambda: signed(key=rsa_key(1)), BAD_SIGNATURE),
    "another payload under the signature": (
        lambda: ".".join([*signed().split(".")[:1], part(claims(sub="eve")), signed().split(".")[2]]),
        BAD_SIGNATURE,
    ),
    "only dots": (lambda: "..", MALFORMED),
    "PSS said to be PKCS1": (
        lambda: ".".join([part({"alg": "RS256"}), *signed(algorithm="PS256").split(".")[1:]]),
        BAD_SIGNATURE,
    ),
    # the header's other words
    "kid a path": (lambda: signed(key=rsa_key(1), kid="../../../../dev/null"), BAD_SIGNATURE),
    "kid SQL": (lambda: signed(key=rsa_key(1), kid="x' UNION SELECT 'secret'--"), BAD_SIGNATURE),
    "kid a command": (lambda: signed(key=rsa_key(1), kid="/etc/passwd; cat|"), BAD_SIGNATURE),
    "kid a number": (lambda: forged({"alg": "RS256", "kid": 7}, secret=b"x"), MALFORMED),
    "kid a list": (lambda: forged({"alg": "RS256", "kid": ["a"]}, secret=b"x"), MALFORMED),
    "jku of one's own": (lambda: signed(key=rsa_key(1), jku="http://127.0.0.1:1/keys"), BAD_SIGNATURE),
    "x5u of one's own": (lambda: signed(key=rsa_key(1), x5u="http://127.0.0.1:1/cert"), BAD_SIGNATURE),
    "jwk of one's own": (lambda: signed(key=rsa_key(1), jwk=OWN_JWK), BAD_SIGNATURE),
    "x5c of one's own": (lambda: signed(key=rsa_key(1), x5c=["MIIB"]), BAD_SIGNATURE),
    "crit unknown": (lambda: signed(crit=["exp"], exp=1), MALFORMED),
    "crit empty": (lambda: signed(crit=[]), MALFORMED),
    "crit no list": (lambda: signed(crit="b64"), MALFORMED),
    "b64 false": (lambda: forged({"alg": "RS256", "b64": False, "crit": ["b64"]}, secret=b"x"), MALFORMED),
    "header no JSON": (lambda: ".".join([part(b"{"), *signed().split(".")[1:]]), MALFORMED),
    "header a list": (lambda: ".".join([part(["RS256"]), *signed().split(".")[1:]]), MALFORMED),
    "header nested deeply": (lambda: ".".join([part(b'{"a":' * 900 + b"1" + b"}" * 900), "e30", "AAAA"]), NOT_ALLOWED),
    "header not UTF-8": (lambda: ".".join([part(b"\xff\xfe{"), *signed().split(".")[1:]]), MALFORMED),
    # the payload, under a good signature
    "payload a list": (lambda: jwt.PyJWS().encode(b"[1]", rsa_key(), "RS256"), MALFORMED),
    "payload a text": (lambda: jwt.PyJWS().encode(b'"admin"', rsa_key(), "RS256"), MALFORMED),
    "payload no JSON": (lambda: jwt.PyJWS().encode(b"sub=ada", rsa_key(), "RS256"), MALFORMED),
    "payload not UTF-8": (lambda: jwt.PyJWS().encode(b'{"sub":"\xff"}', rsa_key(), "RS256"), MALFORMED),
    "another issuer": (lambda: signed(claims(iss="https://evil.example")), "the token is of another issuer"),
    "the issuer with a slash": (lambda: signed(claims(iss=ISSUER + "/")), "the token is of another issuer"),
    "the issuer in upper case": (lambda: signed(claims(iss=ISSUER.upper())), "the token is of another issuer"),
    "the issuer in a list": (lambda: signed_raw(claims(iss=[ISSUER])), "the token is of another issuer"),
    "no issuer": (lambda: signed(claims(iss=None)), "the token lacks its issuer or audience"),
    "another audience": (lambda: signed(claims(aud="billing")), "the token is for another audience"),
    "an audience that begins so": (lambda: signed(claims(aud="events-admin")), "the token is for another audience"),
    "a list of other audiences": (lambda: signed(claims(aud=["a", "b"])), "the token is for another audience"),
    "an audience that is a mapping": (lambda: signed(claims(aud={"events": 1})), "the token is for another audience"),
    "no audience": (lambda: signed(claims(aud=None)), "the token lacks its issuer or audience"),
    "expired": (lambda: signed(claims(exp=NOW - 3600)), "the token has expired"),
    "expired by the leeway": (lambda: signed(claims(exp=NOW - 30)), "the token has expired"),
    "exp zero": (lambda: signed(claims(exp=0)), "the token has expired"),
    "exp negative": (lambda: signed(claims(exp=-1)), "the token has expired"),
    "exp a text": (lambda: signed_raw(claims(exp=str(int(NOW + 60)))), "exp is no time"),
    "exp true": (lambda: signed_raw(claims(exp=True)), "exp is no time"),
    "exp null": (lambda: signed_raw({**claims(), "exp": None}), "exp is no time"),
    "exp Infinity": (lambda: signed_raw(claims(exp=float("inf"))), "exp is no time"),
    "exp NaN": (lambda: signed_raw(claims(exp=float("nan"))), "exp is no time"),
    "exp beyond a float": (lambda: signed_raw(claims(exp=10**400)), "exp is no time"),
    "exp a list": (lambda: signed_raw(claims(exp=[NOW + 60])), "exp is no time"),
    "not yet": (lambda: signed(claims(nbf=NOW + 31)), "the token is not valid yet"),
    "nbf a text": (lambda: signed_raw(claims(nbf="now")), "nbf is no time"),
    # the text
    "too long": (lambda: signed(claims(pad="x" * TOKEN_BYTES)), "the token is too long"),
    "empty": (lambda: "", MALFORMED),
    "a word": (lambda: "null", MALFORMED),
    "spaces inside": (lambda: signed().replace(".", " .", 1), MALFORMED),
    "a comma and another": (lambda: f"{signed()},{signed()}", MALFORMED),
    "unicode": (lambda: "žluť.ŧøķeñ.♥", MALFORMED),
    "a look-alike dot": (lambda: signed().replace(".", "․"), MALFORMED),
    "a zero byte": (lambda: signed() + "\0", MALFORMED),
    "percent-encoded": (lambda: signed().replace(".", "%2E"), MALFORMED),
    "ordinary base64": (lambda: with_tail("." + "+/+/"), MALFORMED),
}


def signed_raw(payload: dict[str, object]) -> str:
    """Signed as it is: PyJWT would refuse to make some of these."""
    return jwt.PyJWS().encode(json.dumps(payload).encode(), rsa_key(), "RS256")


async def test_a_good_token_is_let_in_wherever_it_may_stand(gate: Gate) -> None:
    for headers, query in [
        (bearer(signed()), b""),
        ([(b"authorization", b"bEaReR   " + signed().encode())], b""),
        ([(b"cookie", b"a=b; session=" + signed().encode() + b"; c=d")], b""),
        ([(b"cookie", b"a=b"), (b"cookie", b'session="' + signed().encode() + b'"')], b""),
        ([], b"x=1&token=" + signed().encode()),
        ([], b"%74oken=" + signed().replace(".", "%2E").encode()),
    ]:
        answer = await asked(gate, headers, query)
        assert isinstance(answer, Granted)
        assert answer.claims["sub"] == "ada"
        assert answer.expires_at == NOW + 60


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("place", ["header", "cookie", "query"])
async def test_a_hostile_token_is_refused(gate: Gate, name: str, place: str) -> None:
    make, fact = HOSTILE[name]
    raw = make().encode()
    if place == "header":
        answer = await asked(gate, bearer(raw))
    elif place == "cookie":
        answer = await asked(gate, [(b"cookie", b"session=" + raw)])
    else:
        answer = await asked(gate, [], b"token=" + quote_from_bytes(raw).encode())
    status, challenge = said(answer)
    assert status == 401
    assert challenge == f'Bearer realm="sidecar", error="invalid_token", error_description="{fact}"'


async def test_who_brings_no_token_is_not_told_of_an_error(gate: Gate) -> None:
    for headers, query in [
        ([], b""),
        ([(b"authorization", b"Basic YTpi")], b""),
        ([(b"authorization", b"BearerX abc")], b""),
        ([(b"cookie", b"xsession=abc; sessionx=abc; SESSION=abc")], b""),
        ([], b"tokens=abc&Token=abc&access_token=abc"),
        ([(b"x-authorization", b"Bearer " + signed().encode())], b""),
    ]:
        assert said(await asked(gate, headers, query)) == (401, 'Bearer realm="sidecar"')


async def test_several_tokens_in_one_place_are_refused_even_when_all_are_good(gate: Gate) -> None:
    good = signed().encode()
    for headers, query in [
        (bearer(good) + bearer(good), b""),
        ([*bearer(good), (b"authorization", b"Basic YTpi")], b""),
        ([(b"cookie", b"session=" + good + b"; session=" + good)], b""),
        ([(b"cookie", b"session=" + good), (b"cookie", b"session=" + good)], b""),
        ([], b"token=" + good + b"&token=" + good),
        ([], b"token=" + good + b"&%74oken=x"),
    ]:
        status, challenge = said(await asked(gate, headers, query))
        assert (status, "several tokens in one place" in challenge) == (401, True)


async def test_the_first_place_that_has_a_token_decides(gate: Gate) -> None:
    """A bad token is not made good by another one elsewhere: the application may have looked at the first."""
    good, bad = signed().encode(), signed(key=rsa_key(1)).encode()
    in_cookie = [(b"cookie", b"session=" + good)]
    assert said(await asked(gate, bearer(bad) + in_cookie, b"token=" + good))[0] == 401
    assert said(await asked(gate, [*bearer(good), (b"cookie", b"session=" + bad)]))[0] == 200
    assert said(await asked(gate, [(b"authorization", b"Basic YTpi"), *in_cookie]))[0] == 200


async def test_only_the_places_that_are_named_count(tmp_path: Path) -> None:
    only_cookie = gate_with(tmp_path, **{"from": ["cookie:session"]})
    assert said(await asked(only_cookie, bearer(signed()), b"token=" + signed().encode()))[0] == 401
    assert said(await asked(gate_with(tmp_path), [(b"cookie", b"session=" + signed().encode())]))[0] == 401


@pytest.mark.parametrize(
    ("times", "expires_at"),
    [
        ({"exp": NOW + 1}, NOW + 1),
        ({"exp": NOW + 0.5}, NOW + 0.5),
        ({"exp": NOW}, NOW + 30),  # within the leeway, and then good until its end
        ({"exp": NOW - 29}, NOW + 1),
        ({"exp": None}, None),
        ({"exp": NOW + 60, "nbf": NOW + 30}, NOW + 60),
        ({"exp": NOW + 60, "iat": NOW + 5000}, NOW + 60),
        ({"exp": 1e308}, 1e308),
    ],
)
async def test_the_stream_ends_with_the_token(gate: Gate, times: dict[str, object], expires_at: float | None) -> None:
    answer = await asked(gate, bearer(signed(claims(**times))))
    assert isinstance(answer, Granted)
    assert answer.expires_at == expires_at


async def test_the_leeway_is_the_configurations(tmp_path: Path) -> None:
    strict = gate_with(tmp_path, leeway="0s")
    assert said(await asked(strict, bearer(signed(claims(exp=NOW)))))[0] == 401
    assert said(await asked(strict, bearer(signed(claims(nbf=NOW + 1)))))[0] == 401
    assert said(await asked(strict, bearer(signed(claims(exp=NOW + 1, nbf=NOW)))))[0] == 200


async def test_without_an_audience_in_the_file_none_is_looked_at(tmp_path: Path) -> None:
    gate = gate_with(tmp_path, audience=None, issuer=None)
    assert said(await asked(gate, bearer(signed(claims(aud="whatever", iss="whoever")))))[0] == 200
    gate = gate_with(tmp_path, audience=["a", AUDIENCE])
    assert said(await asked(gate, bearer(signed(claims(aud=["x", AUDIENCE])))))[0] == 200


@pytest.mark.parametrize(
    ("algorithm", "key"), [("RS256", rsa_key), ("PS384", rsa_key), ("ES256", ec_key), ("EdDSA", ed_key)]
)
async def test_each_kind_of_key_from_a_file(tmp_path: Path, algorithm: str, key: Callable[[], Any]) -> None:
    pem = tmp_path / "own.pem"
    pem.write_bytes(public_pem(key()))
    gate = gate_with(tmp_path, keys={"pem": pem}, algorithms=[algorithm])
    assert said(await asked(gate, bearer(signed(key=key(), algorithm=algorithm))))[0] == 200


async def test_a_certificate_is_a_key_too(tmp_path: Path, certificates: Any) -> None:
    """Whatever key the lab's certificate has, its own signature is good and another's is not."""
    key = load_pem_private_key(certificates.key.read_bytes(), None)
    algorithm = "RS256" if isinstance(key, RSAPrivateKey) else "ES256"
    assert x509.load_pem_x509_certificate(certificates.certificate.read_bytes()).public_key() == key.public_key()
    gate = gate_with(tmp_path, keys={"pem": certificates.certificate}, algorithms=[algorithm])
    assert said(await asked(gate, bearer(signed(key=key, algorithm=algorithm))))[0] == 200
    other = ec_key() if algorithm == "ES256" else rsa_key(1)
    assert said(await asked(gate, bearer(signed(key=other, algorithm=algorithm))))[0] == 401


async def test_a_secret(tmp_path: Path) -> None:
    gate = gate_with(tmp_path, keys={"secret": SECRET}, algorithms=["HS256"])
    assert said(await asked(gate, bearer(signed(key=SECRET, algorithm="HS256"))))[0] == 200
    for bad in (
        signed(key=SECRET + "x", algorithm="HS256"),
        signed(key=SECRET * 2, algorithm="HS512"),
        signed(),
        forged({"alg": "none"}),
        forged({"alg": "HS256"}, secret=b""),
        forged({"alg": "HS256"}, secret=hashlib.sha256(SECRET.encode()).digest()),
        forged({"alg": "HS256"}, secret=base64.b64decode(base64.b64encode(SECRET.encode())[:-4])),
    ):
        assert said(await asked(gate, bearer(bad)))[0] == 401


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    pem = tmp_path / "private.pem"
    pem.write_bytes(private_pem(rsa_key()))
    with pytest.raises(ValueError, match="a private key"):
        Access.model_validate({"jwt": {"keys": {"pem": pem}, "algorithms": ["RS256"]}})


async def test_nothing_of_a_token_is_repeated_in_an_answer(gate: Gate) -> None:
    for make, _ in HOSTILE.values():
        answer = await asked(gate, bearer(make().encode()))
        assert isinstance(answer, Denied)
        shown = answer.body + answer.reason.encode() + b"".join(value for _, value in answer.headers)
        assert not any(len(piece) > 8 and piece.encode() in shown for piece in make().split("."))
