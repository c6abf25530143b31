"""Either side fails, at each point: what the other gets, and that nothing is left behind."""

from __future__ import annotations

import socket
import struct

import pytest
import trio
import trio.testing

from tests.proxy.conftest import Beginning, Beside
from tests.proxy.origin import Conversation, Left, answering, ok

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"


async def settled(sidecar: Beside) -> None:
    """Wait until no exchange is left and every connection is given back; TooSlowError where one is not."""
    proxy = sidecar.service._proxy
    assert proxy is not None
    with trio.fail_after(5):
        while proxy.open or proxy.upstream.open != len(proxy.upstream._idle):
            await trio.lowlevel.checkpoint()


async def test_nobody_listens(beside: Beginning) -> None:
    sidecar = await beside(answering(ok()), away=True)
    async with await sidecar.client() as client:
        for request in (GET, GET.replace(b"GET", b"HEAD")):
            await client.send(request)
            status, fields, _ = await client.answer(bodiless=request is not GET)
            assert (status, fields["content-type"]) == (502, "text/plain; charset=utf-8")
    assert sidecar.codes == {502: 2}
    await settled(sidecar)


async def test_no_socket_file(beside: Beginning) -> None:
    sidecar = await beside(answering(ok()), away=True, unix=True)
    assert b" 502 " in await sidecar.ask(GET.replace(b"1.1", b"1.0"))


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 103 Early Hints\r\n\r\n"],
    ids=["nothing", "half a status line", "half a head", "an interim answer only"],
)
@pytest.mark.parametrize("request_", [GET, POST + b"hello"], ids=["GET", "POST"])
async def test_it_dies_before_the_answer(beside: Beginning, said: bytes, request_: bytes) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(said)

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(request_)
        while (head := await client.head())[0] == 103:
            pass
        assert head[0] == 502
    await settled(sidecar)
    assert sidecar.codes == {502: 1}


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n5\r\nha",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ],
    ids=["length", "between chunks", "within a chunk", "a broken chunk"],
)
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_it_dies_within_the_answer(beside: Beginning, said: bytes, version: bytes) -> None:
    """The client must be able to see that it has half an answer only."""

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(said)

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(GET.replace(b"1.1", version))
        _, fields = await client.head()
        try:
            rest = await client.rest()
        except trio.BrokenResourceError:
            rest = b"reset"
    whole = len(rest) == int(fields.get("content-length", -1)) or rest.endswith(b"0\r\n\r\n")
    ended_like_a_whole = version == b"1.0" and "content-length" not in fields and rest != b"reset"
    assert not whole
    assert not ended_like_a_whole
    assert sidecar.codes == {200: 1}
    await settled(sidecar)


async def test_it_answers_early_and_takes_no_body(beside: Beginning) -> None:
    """413 before the body is complete: the client gets it, and the rest is not waited for (RFC 9112 §9.3)."""

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(POST.replace(b"5", b"5000000") + b"x" * 100_000)
        status, fields = await client.head()
        assert (status, fields["connection"]) == (413, "close")
    await settled(sidecar)


@pytest.mark.parametrize(
    ("limits", "point", "status"),
    [
        ({"answer": 0.1}, "head", 504),
        ({"answer": 0.1}, "interim", 504),
        ({"idle": 0.1}, "body", 200),
    ],
)
async def test_it_falls_silent(beside: Beginning, limits: dict[str, float], point: str, status: int) -> None:
    said = {
        "head": b"HTTP/1.1 2",
        "interim": b"HTTP/1.1 103 Early Hints\r\n\r\n",
        "body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    }[point]

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(said)
        assert await conversation.gone()

    sidecar = await beside(script, **limits)
    async with await sidecar.client() as client:
        await client.send(GET)
        while (head := await client.head())[0] == 103:
            pass
        assert head[0] == status
        if status == 200:
            assert await client.rest() == b"half"
    assert sidecar.codes == {status: 1}
    await settled(sidecar)


async def test_it_does_not_take_the_body(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await trio.sleep_forever()

    sidecar = await beside(script, idle=0.2)
    async with await sidecar.client() as client:
        with trio.move_on_after(0.5):
            await client.send(POST.replace(b"5", b"500000000"))
            while True:
                await client.stream.send_all(b"x" * 65536)
        assert (await client.head())[0] == 504
    await settled(sidecar)


async def test_it_does_not_accept(beside: Beginning) -> None:
    sidecar = await beside(answering(ok()), connect=0.1)
    proxy = sidecar.service._proxy
    assert proxy is not None

    async def never() -> None:
        await trio.sleep_forever()

    proxy.upstream._stream = never  # type: ignore[method-assign,assignment]  # a SYN into the void, in no time
    async with await sidecar.client() as client:
        await client.send(GET)
        status, _, body = await client.answer()
    assert (status, body) == (504, b"the application does not accept the connection\n")
    assert proxy.upstream.open == 0


async def test_the_client_does_not_send_its_body(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.exactly(5)

    sidecar = await beside(script, idle=0.1)
    async with await sidecar.client() as client:
        await client.send(POST + b"he")
        assert (await client.head())[0] == 408
    await settled(sidecar)


async def test_the_client_does_not_read(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n")
        try:
            while True:
                await conversation.stream.send_all(b"x" * 65536)
        except trio.BrokenResourceError:
            cut.set()
            raise

    cut = trio.Event()
    sidecar = await beside(script, idle=0.3)
    async with await sidecar.client() as client:
        await client.send(GET)
        await client.head()
        with trio.fail_after(5):
            await cut.wait()
    await settled(sidecar)


@pytest.mark.parametrize("point", ["before the answer", "within the answer", "within the request"])
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_the_client_leaves(beside: Beginning, point: str, how: str) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        if point == "within the answer":
            await conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        there.set()
        try:
            await conversation.some()
            await conversation.some()
        except (Left, trio.BrokenResourceError):
            cancelled.set()

    there, cancelled = trio.Event(), trio.Event()
    sidecar = await beside(script)
    client = await sidecar.client()
    await client.send(POST + b"he" if point == "within the request" else GET)
    with trio.fail_after(5):
        await there.wait()
        if point == "within the answer":
            await client.until(b"half")
        if how == "reset":
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.stream.aclose()
        await cancelled.wait()
    await settled(sidecar)
    assert sidecar.codes == {200 if point == "within the answer" else 499: 1}


async def test_connections_are_kept_and_used_again(beside: Beginning) -> None:
    sidecar = await beside(answering(ok()))
    for _ in range(3):
        async with await sidecar.client() as client:
            for _ in range(3):
                await client.send(GET)
                await client.answer()
    assert len(sidecar.application.conversations) == 1


async def test_no_more_connections_than_allowed(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        asked.set()
        await answer.wait()
        await conversation.send(ok())

    asked, answer = trio.Event(), trio.Event()
    sidecar = await beside(script, connections=1)
    async with await sidecar.client() as first, await sidecar.client() as second:
        await first.send(GET)
        await asked.wait()
        await second.send(GET)
        status, _, body = await second.answer()
        assert (status, body) == (503, b"too many requests at once; try again later\n")
        answer.set()
        assert (await first.answer())[0] == 200
    await settled(sidecar)


async def stale(beside: Beginning, request: bytes) -> tuple[int, int]:
    """Send two requests; the application leaves when the second comes. The status, and the connections there were."""

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(ok())
        if conversation.number == 0:
            await conversation.head()  # and leaves, as if its keep-alive time was over

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(GET)
        await client.answer()
        await client.send(request)
        status, *_ = await client.answer()
    await settled(sidecar)
    return status, len(sidecar.application.conversations)


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE", b"OPTIONS"])
async def test_a_stale_connection_costs_nothing_where_the_request_may_be_repeated(
    beside: Beginning, method: bytes
) -> None:
    assert await stale(beside, GET.replace(b"GET", method)) == (200, 2)


@pytest.mark.parametrize(
    "request_", [GET.replace(b"GET", b"POST"), POST + b"hello", POST.replace(b"POST", b"PUT") + b"hello"]
)
async def test_a_request_is_not_repeated_that_may_have_had_an_effect(beside: Beginning, request_: bytes) -> None:
    assert await stale(beside, request_) == (502, 1)


async def test_a_request_is_repeated_once_only(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        if conversation.number == 0:
            await conversation.send(ok())
            await conversation.head()

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        await client.send(GET)
        await client.answer()
        await client.send(GET)
        assert (await client.answer())[0] == 502
    assert len(sidecar.application.conversations) == 2


async def test_a_connection_closed_while_idle_is_not_used(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        await conversation.send(ok())

    sidecar = await beside(script)
    async with await sidecar.client() as client:
        for number in range(3):
            await client.send(GET.replace(b"GET", b"POST"))
            assert (await client.answer())[0] == 200
            await trio.testing.wait_all_tasks_blocked()
            assert len(sidecar.application.conversations) == number + 1


async def test_a_drain_waits_for_what_is_in_flight(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        asked.set()
        await answer.wait()
        await conversation.send(ok())

    asked, answer = trio.Event(), trio.Event()
    sidecar = await beside(script, within=5)
    async with await sidecar.client() as client:
        await client.send(GET)
        await asked.wait()
        sidecar.service.stop()
        await trio.testing.wait_all_tasks_blocked()
        answer.set()
        status, fields, _ = await client.answer()
        assert (status, fields["connection"]) == (200, "close")
        assert await client.rest() == b""
    with trio.fail_after(2):
        await sidecar.service.stopped.wait()


async def test_a_drain_has_an_end(beside: Beginning) -> None:
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        asked.set()
        await conversation.gone()

    asked = trio.Event()
    sidecar = await beside(script, within=0.1)
    async with await sidecar.client() as client:
        await client.send(GET)
        await asked.wait()
        sidecar.service.stop()
        with trio.fail_after(5):
            await client.rest()
            await sidecar.service.stopped.wait()


async def test_one_clients_mistake_is_counted_and_shown(beside: Beginning) -> None:
    sidecar = await beside(answering(ok()))
    await sidecar.ask(b"GET /#x HTTP/1.1\r\nHost: a\r\n\r\n")
    body, _ = sidecar.service.metrics.render()
    assert b'sidecar_upstream_requests_total{code="400"} 1.0' in body
