"""Both clients are checked themselves before they may judge anybody: known bytes, known faults, what they must count.

Strategy: a one-shot server on a thread plays a script of bytes, whole or byte by byte; HTTP/2 is answered by the h2
library, which refuses a request that is not RFC 9113's. The client's report must name exactly the faults put in.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import h2.config
import h2.connection
import h2.events

from bench.client import Load, Shape, ask
from bench.process import BenchError
from bench.servers import Place

PATIENCE = 10.0
COUNT = 4
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
TAIL = b'","state":"paid","order":4711,"total":"129.90 EUR","customer":"c-20817","note":"ok"}'

Play = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Case:
    """A stream of events, and what the client must have counted; what is not named must be 0."""

    name: str
    blocks: list[bytes]
    counted: dict[str, int] = field(default_factory=dict)


def _message(number: int) -> bytes:
    return b'{"n":"%012d","t":"%019d' % (number, time.monotonic_ns()) + TAIL


def _block(number: int) -> bytes:
    return b"data: " + _message(number) + b"\n\n"


def _cases() -> list[Case]:
    good = [_block(number) for number in range(COUNT)]
    first, second, third, last = good
    mixed = _message(1)[:40] + _message(2)[41:]
    whole = {"events": COUNT, "finished": 1}
    return [
        Case("good", good, whole),
        Case("other fields", [b"retry: 9\n:\n\n", *(b"id: 7\r\n" + block for block in good)], {**whole, "comments": 1}),
        Case("CR LF", [block.replace(b"\n", b"\r\n") for block in good], whole),
        Case("a gap", [first, third, last], {"events": 3, "lost": 1, "finished": 1}),
        Case("twice", [first, first, second, third, last], {**whole, "duplicated": 1}),
        Case("disorder", [first, third, second, last], {"events": 3, "lost": 1, "out_of_order": 1, "finished": 1}),
        Case("mixed", [first, b"data: " + mixed + b"\n\n", third, last], {"events": 3, "torn": 1, "lost": 1}),
        Case("two in one", [first[:-1] + second, third, last], {"events": 3, "torn": 1, "lost": 1}),
        Case("cut off", good[:2], {"events": 2, "missing": 2, "closed": 1}),
    ]


def _h1(case: Case, cut: int) -> Play:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(block), block) for block in case.blocks)
    return lambda client: _h1_play(client, HEAD + chunks + b"0\r\n\r\n", cut)


def _h1_play(client: socket.socket, whole: bytes, cut: int) -> None:
    client.recv(65536)
    for part in _parts(whole, cut):
        client.sendall(part)


def _h2(case: Case, cut: int) -> Play:
    return lambda client: _h2_play(client, b"".join(case.blocks), cut)


def _h2_play(client: socket.socket, whole: bytes, cut: int) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    connection.initiate_connection()
    for stream in _requests(client, connection):
        connection.send_headers(stream, [(":status", "200"), ("content-type", "text/event-stream")])
        for part in _parts(whole, cut):
            connection.send_data(stream, part)
        connection.end_stream(stream)
        for byte in _parts(connection.data_to_send(), cut):
            client.sendall(byte)
    client.recv(65536)


def _requests(client: socket.socket, connection: h2.connection.H2Connection) -> Iterable[int]:
    """The streams opened on a connection, as soon as there is one."""
    while True:
        events = connection.receive_data(client.recv(65536))
        if opened := [event.stream_id for event in events if isinstance(event, h2.events.RequestReceived)]:
            return [stream for stream in opened if stream]


def _parts(whole: bytes, cut: int) -> Iterable[bytes]:
    return (whole[at : at + cut] for at in range(0, len(whole), cut))


def _serve_one(listener: socket.socket, play: Play) -> None:
    client, _ = listener.accept()
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with client, contextlib.suppress(ConnectionError):  # the client leaves once it has the last event
        client.settimeout(PATIENCE)
        play(client)


def _counted(protocol: str, play: Play) -> dict[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=_serve_one, args=(listener, play), daemon=True)
        thread.start()
        place = Place(Path(), protocol, listener.getsockname()[1], 0, 0, 0)
        with Load(place, Shape(1), count=COUNT) as load:
            load.opened()
            result = load.result(PATIENCE)
        thread.join(PATIENCE)
    return {key: result[key] for key in result if isinstance(result[key], int)}


# The second answer of an otherwise good connection, and what the asking client must call it.
ANSWERS: dict[str, tuple[Callable[[int], bytes], str | None]] = {
    "good": (lambda number: _answer(number), None),
    "in other letters": (lambda number: _answer(number).replace(b"Content-L", b"x: y\r\ncontent-l"), None),
    "another's": (lambda number: _answer(number + 1), "wrong"),
    "torn": (lambda number: _answer(number).replace(b"4711", b"4712"), "wrong"),
    "an error": (lambda number: _answer(number).replace(b"200 OK", b"502 Bad"), "wrong"),
    "without a length": (lambda number: _answer(number).replace(b"Content-Length", b"Content-Strength"), "wrong"),
    "too long": (lambda number: _answer(number) + b"}", "wrong"),
    "cut off": (lambda number: _answer(number)[:-1], "broken"),
    "cut off in its head": (lambda number: _answer(number)[:20], "broken"),
    "silent": (lambda number: b"", "unanswered"),
}
ASK_SECONDS = 0.2


def _answer(number: int) -> bytes:
    message = _message(number)
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(message), message)


def _answers(second: Callable[[int], bytes], cut: int) -> Play:
    def play(client: socket.socket) -> None:
        for count, number in enumerate(_asked(client)):
            whole = second(number) if count == 1 else _answer(number)
            for part in _parts(whole, cut):
                client.sendall(part)
            if count == 1 and whole and len(whole) < len(_answer(number)):
                return

    return play


def _asked(client: socket.socket) -> Iterable[int]:
    """The number of each request on a connection."""
    heard = b""
    while data := client.recv(65536):
        heard += data
        if heard.endswith(b"\r\n\r\n"):
            yield int(heard.removeprefix(b"GET /orders/")[:12])
            heard = b""


def _judged(play: Play) -> dict[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        thread = threading.Thread(target=_serve_one, args=(listener, play), daemon=True)
        thread.start()
        result = ask(listener.getsockname()[1], 1, ASK_SECONDS)
        thread.join(PATIENCE)
    return {key: result[key] for key in ("wrong", "broken", "unanswered") if result[key]}


def _check_answer(name: str, cut: int) -> None:
    second, fault = ANSWERS[name]
    judged, wanted = _judged(_answers(second, cut)), {fault: 1} if fault else {}
    if judged != wanted:
        raise BenchError(f"the asking client misjudges an answer that is {name!r}: {judged}, not {wanted}")


def check_clients() -> None:
    """Play every case, whole and byte by byte, streams over both protocols. Raises `BenchError` on a wrong count."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda case: _check_answer(*case), [(name, cut) for name in ANSWERS for cut in (1, 16_000)]))
    _check_load()


def _check_load() -> None:
    faults = ("lost", "duplicated", "out_of_order", "torn")
    for case in _cases():
        for protocol, script in (("h1", _h1), ("h2", _h2)):
            for cut in (1, 16_000):
                counted = _counted(protocol, script(case, cut))
                wanted = dict.fromkeys(faults, 0) | case.counted
                if wrong := {key: counted[key] for key in wanted if counted[key] != wanted[key]}:
                    raise BenchError(f"the load client miscounts {case.name!r} over {protocol}: {wrong}, not {wanted}")
