"""Whose scripts may read: preflights, and every kind of answer."""

from __future__ import annotations

import time

import pytest

from tests.access.requests import claims, signed
from tests.e2e.access.conftest import ACCEPT, APP, OTHER, bearer, token
from tests.e2e.conftest import Client

PREFLIGHT = [
    ("origin", APP),
    ("access-control-request-method", "GET"),
    ("access-control-request-headers", "last-event-id,authorization"),
]


async def test_a_preflight_needs_no_token_and_allows_what_a_client_sends(both: Client) -> None:
    response = await both.get("/mine", method="OPTIONS", headers=PREFLIGHT)
    assert response.status == 204
    assert response.header("access-control-allow-origin") == APP
    assert response.header("access-control-allow-credentials") == "true"
    assert "last-event-id" in (response.header("access-control-allow-headers") or "").lower()
    assert "GET" in (response.header("access-control-allow-methods") or "")
    assert response.header("vary") == "Origin"


@pytest.mark.parametrize(
    "changed",
    [
        {"origin": OTHER},
        {"origin": APP.upper()},
        {"origin": f"{APP}.evil.example"},
        {"origin": f"{APP}:443"},
        {"origin": "null"},
        {"access-control-request-method": "DELETE"},
    ],
)
async def test_a_preflight_of_somebody_else_s(both: Client, changed: dict[str, str]) -> None:
    response = await both.get("/mine", method="OPTIONS", headers=list({**dict(PREFLIGHT), **changed}.items()))
    assert response.status == 403
    assert response.header("access-control-allow-methods") is None


async def test_every_answer_says_whose_scripts_may_read_it(both: Client, name: str) -> None:
    """The stream itself, each error, and each of the two ways to be turned away."""
    held = [await both.listen("/few", headers=bearer(token(name))) for _ in range(2)]
    held += [await both.listen("/few/honest", headers=bearer(token(name))) for _ in range(2)]
    for path, headers, status in (
        ("/mine", bearer(token(name)), 200),
        ("/mine", [("accept", "text/html")], 406),
        ("/mine", [ACCEPT], 401),
        ("/mine", bearer(token("a.b")), 400),
        ("/mine", bearer(signed(claims(sub=None, exp=time.time() + 60))), 403),
        ("/few", bearer(token(name)), 200),
        ("/few/honest", bearer(token(name)), 503),
    ):
        for origin, allowed in ((APP, APP), (OTHER, None)):
            response = await both.get(path, headers=[*headers, ("origin", origin)])
            assert response.status == status, (path, response)
            assert response.header("access-control-allow-origin") == allowed, (path, status)
            assert response.header("access-control-allow-credentials") == ("true" if allowed else None)
            assert response.header("vary") == "Origin"
    everybody = await both.get("/open", headers=[ACCEPT, ("origin", OTHER), ("x-forwarded-for", "203.0.113.9")])
    assert everybody.header("access-control-allow-origin") == "*"
    assert everybody.header("access-control-allow-credentials") is None
    assert all(stream.end is None for stream in held)
