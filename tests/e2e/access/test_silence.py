"""What nobody gets to see, and what nobody gets by a trick."""

from __future__ import annotations

import pytest
import trio

from tests.access.requests import claims, signed
from tests.e2e.access.conftest import ACCEPT, bearer, token
from tests.e2e.conftest import Client
from tests.lab import wire
from tests.lab.process import LogLine


async def test_a_token_in_a_query_is_nowhere_to_be_found(both: Client, name: str) -> None:
    """Not in the log, on whatever way it was let in, refused or mistaken; nor on the operators' pages."""
    sidecar = both.service.sidecar
    secrets = [token(name), token("a.b"), signed(claims(exp=1)), f"{name}-no-token", token(f"{name}-again")]
    for secret in secrets:
        await both.get(f"/mine?ticket={secret}&since=never")
        await both.get(f"/mine?ticket={secret}&x=%zz")
        await both.get(f"/mine?t%69cket={secret}", method="POST")
        await both.get(f"/nowhere?ticket={secret}")
        await both.get(f"/orders/7?ticket={secret}&access_token={secret}")
    expires = await both.listen(f"/mine?ticket={secrets[0]}")
    before = sidecar.metric("sidecar_streams_closed_total", route="/mine", reason="client_left")
    opened = await wire.open_http1(both.nursery, both.service.http, f"/mine?ticket={secrets[0]}")
    await opened.response.until_open()
    await opened.aclose()
    await trio.to_thread.run_sync(
        lambda: sidecar.until(
            lambda: sidecar.metric("sidecar_streams_closed_total", route="/mine", reason="client_left") > before,
            "it left",
        )
    )
    assert expires.end is None
    pages = [sidecar.ask(path).body for path in ("/routes", "/metrics", "/", "/explain?path=/mine")]
    watching = await wire.open_http1(both.nursery, ("127.0.0.1", sidecar.admin_port), "/overview/stream")
    await watching.response.until_events(1)
    pages.append(watching.response.body.decode())
    assert "client_left" in pages[-1]
    assert _is_log_line(sidecar.log.lines)
    for secret in secrets:
        for piece in (secret, secret.rpartition(".")[2]):
            assert piece not in sidecar.log.text
            assert not [page for page in pages if piece in page]


def _is_log_line(lines: list[LogLine]) -> bool:
    """That denials are told at all, so that their silence means something."""
    return any(line.get("event") == "denied" for line in lines) and any(
        line.get("event") == "stream closed" for line in lines
    )


TRICKS = (
    [("x-original-url", "/open")],
    [("x-rewrite-url", "/open")],
    [("x-forwarded-uri", "/open"), ("x-forwarded-user", "ada")],
    [("x-http-method-override", "HEAD")],
    [("x-user-id", "ada"), ("x-remote-user", "ada"), ("remote-user", "ada")],
    [("x-forwarded-for", "127.0.0.1"), ("x-real-ip", "127.0.0.1")],
    [("forwarded", "for=127.0.0.1;by=127.0.0.1;host=localhost")],
    [("authorization", "Basic YWRhOmFkYQ=="), ("proxy-authorization", "Bearer {good}")],
    [("authentication", "Bearer {good}"), ("x-authorization", "Bearer {good}")],
    [("authorization", "Bearer: {good}")],
    [("authorization", "Token {good}")],
    [("authorization", "{good}")],
    [("authorization", "Bearer {good}"), ("authorization", "Bearer {good}")],
    [("cookie", "Session={good}; session2={good}; xsession={good}")],
    [("cookie", "session={good}; session={good}")],
    [("set-cookie", "session={good}")],
    [("last-event-id", "{good}")],
    [("origin", "https://app.example"), ("referer", "https://app.example/")],
)


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick[0][0] + " " + trick[-1][1][:20])
async def test_no_header_takes_the_place_of_a_token(both: Client, trick: list[tuple[str, str]]) -> None:
    good = token("ada")
    response = await both.get("/mine", headers=[ACCEPT, *((name, value.format(good=good)) for name, value in trick)])
    assert response.status == 401


PATHS = {
    "/mine": 401,
    "/mine?": 401,
    "/mine?x=/open": 401,
    "/%6dine": 401,
    "/mine/": 404,
    "//mine": 404,
    "/./mine": 404,
    "/open/../mine": 404,
    "/open/..%2fmine": 404,
    "/open%2f..%2fmine": 404,
    "/mine;/open": 404,
    "/mine%00": 404,
    "/mine%3f": 404,
    "/MINE": 404,
    "/m%C4%B1ne": 404,  # a dotless i
    "/mine%20": 404,
    "/orders/7/..%2f..%2fopen": 404,
    "/orders/..": 401,
    "/orders/%2e%2e": 401,
    "/orders/%2f": 401,
    "/orders/%ff": 401,
    "/orders/": 401,
}


@pytest.mark.parametrize("path", PATHS)
async def test_no_other_way_of_writing_a_path_leads_past_the_gate(both: Client, path: str) -> None:
    assert (await both.get(path)).status == PATHS[path]


@pytest.mark.parametrize("order", ["", "..", "%2e%2e", "%ff", "%00", "*", "%23", "7.8", "7%0d%0a", "%2a", "x" * 256])
async def test_a_token_for_everything_does_not_make_a_parameter_a_word(both: Client, order: str) -> None:
    everything = token("ada", orders=["", "..", "*", "#", "7.8", "7\r\n", "\0", "x" * 256])
    response = await both.get(f"/orders/{order}", headers=bearer(everything))
    assert response.status in (400, 403), response
