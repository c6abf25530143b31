"""Requests that two readers could read differently: each is refused, or reaches the application in one form only."""

from __future__ import annotations

import pytest

from tests.proxy.conftest import Beginning
from tests.proxy.origin import Conversation, Left, ok

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
INNER = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

REFUSED = [
    pytest.param(400, HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="CL.TE"),
    pytest.param(400, HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", id="TE.CL"),
    pytest.param(400, HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", id="two lengths"),
    pytest.param(400, HEAD + b"Content-Length: 5, 6\r\n\r\nhello", id="a list of lengths"),
    pytest.param(400, HEAD + b"Content-Length: +5\r\n\r\nhello", id="a signed length"),
    pytest.param(400, HEAD + b"Content-Length: 0x5\r\n\r\nhello", id="a hexadecimal length"),
    pytest.param(400, HEAD + b"Content-Length: 5 5\r\n\r\nhello", id="a length with a space"),
    pytest.param(400, HEAD + b"Content-Length: -1\r\n\r\n", id="a negative length"),
    pytest.param(400, HEAD + b"Content-Length : 5\r\n\r\nhello", id="a space before the colon"),
    pytest.param(400, HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", id="TE with a space before the colon"),
    pytest.param(501, HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", id="two codings"),
    pytest.param(501, HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", id="an unknown coding"),
    pytest.param(
        501, HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", id="two TE fields"
    ),
    pytest.param(400, HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n", id="TE behind a vertical tab"),
    pytest.param(
        400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="TE in HTTP/1.0"
    ),
    pytest.param(400, HEAD + b"X: a\rContent-Length: 5\r\n\r\n", id="a bare CR"),
    pytest.param(400, HEAD + b"X: a\x00b\r\n\r\n", id="NUL in a value"),
    pytest.param(400, HEAD + b"X\x00: a\r\n\r\n", id="NUL in a name"),
    pytest.param(400, HEAD + b"no colon\r\n\r\n", id="a line without a colon"),
    pytest.param(400, HEAD + b": empty\r\n\r\n", id="an empty name"),
    pytest.param(400, b"GET / HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n", id="a fold before the first field"),
    pytest.param(400, b"GET / HTTP/1.1\r\n\r\n", id="no host"),
    pytest.param(400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two hosts"),
    pytest.param(400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", id="a host with a path"),
    pytest.param(400, b"GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", id="an absolute form with a user"),
    pytest.param(400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", id="two spaces"),
    pytest.param(400, b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", id="a space in the target"),
    pytest.param(400, b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", id="raw UTF-8 in the target"),
    pytest.param(400, b"GET /a\thttp HTTP/1.1\r\nHost: a\r\n\r\n", id="a tab in the target"),
    pytest.param(400, b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", id="a fragment"),
    pytest.param(400, b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", id="a method that is no token"),
    pytest.param(501, b"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", id="CONNECT"),
    pytest.param(400, b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", id="a space behind the version"),
]


@pytest.mark.parametrize(("status", "request_"), REFUSED)
async def test_refused(beside: Beginning, status: int, request_: bytes) -> None:
    async def script(conversation: Conversation) -> None:
        reached.append((await conversation.head()).line)
        await conversation.send(ok())

    reached: list[str] = []
    sidecar = await beside(script)
    answers = await sidecar.ask(request_ + INNER)
    assert answers.startswith(b"HTTP/1.1 %d " % status), answers
    assert answers.count(b"HTTP/1.1 ") == 1, "what stood behind it must not be served"
    assert not reached


async def test_a_broken_chunk_ends_the_connections(beside: Beginning) -> None:
    """The head is on its way already; the body never becomes complete, on either side."""

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        try:
            await conversation.chunks()
        except Left:
            outcomes.append("broken")

    outcomes: list[str] = []
    for chunk in (b"5\nhello\r\n0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"-1\r\n\r\n"):
        sidecar = await beside(script)
        answer = await sidecar.ask(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + INNER)
        assert answer.count(b"HTTP/1.1 ") <= 1, answer
        assert b"HTTP/1.1 200" not in answer
        assert all("smuggled" not in str(talk.raw) for talk in sidecar.application.conversations)
    assert set(outcomes) <= {"broken"}


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: a\r\nX: one\r\n  two\r\n\r\n", b"\r\nx: one two\r\n", id="a fold becomes a space"
        ),
        pytest.param(b"GET / HTTP/1.1\nHost: a\nX: y\n\n", b"\r\nx: y\r\n", id="bare LF is written as CRLF"),
        pytest.param(
            b"GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /x HTTP/1.1\r\nhost: b\r\n", id="absolute form wins"
        ),
        pytest.param(HEAD + b"Content-Length: 1, 1\r\n\r\nx", b"\r\ncontent-length: 1\r\n", id="one length said twice"),
        pytest.param(
            HEAD + b"Transfer-Encoding: CHUNKED\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            b"\r\ntransfer-encoding: chunked\r\n",
            id="one spelling of chunked",
        ),
        pytest.param(
            HEAD + b"Connection: content-length\r\nContent-Length: 1\r\n\r\nx",
            b"\r\ncontent-length: 1\r\n",
            id="Connection cannot name the length",
        ),
    ],
)
async def test_one_form_only(beside: Beginning, request_: bytes, expected: bytes) -> None:
    """RFC 9112 allows these (§2.2, §5.2, §3.2.2, §6.3); the application gets them in the one form nobody misreads."""

    async def script(conversation: Conversation) -> None:
        asked = await conversation.head()
        if "transfer-encoding" in asked:
            await conversation.chunks()
        elif "content-length" in asked:
            await conversation.exactly(int(asked["content-length"]))
        await conversation.send(ok())
        lines = bytes(conversation.raw).partition(b"\r\n\r\n")[0].split(b"\r\n")
        assert not any(b"\n" in line or b"\r" in line for line in lines)

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(request_)
        assert (await client.answer())[0] == 200
    assert expected in sidecar.application.conversations[0].raw


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", id="two codings"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", id="no number"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n", id="a bare CR"),
        pytest.param(b"HTTP/1.1 20 OK\r\n\r\n", id="a status of two digits"),
        pytest.param(b"ICY 200 OK\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000, id="a head without an end"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", id="101 out of nowhere"),
    ],
)
async def test_an_answer_that_could_be_misread_is_none(beside: Beginning, answer: bytes) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(answer)
        await conversation.gone()

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer())[0] == 502


async def test_bytes_behind_an_answer_are_no_answer_to_the_next(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(ok(b"first") + ok(b"poison"))
        await conversation.gone()

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        for _ in range(2):
            await client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await client.answer())[2] == b"first"
    assert len(sidecar.application.conversations) == 2
