"""What `sidecar/server` uses of the insides of hypercorn and h2. A failure here says what has moved.

The upper bounds in pyproject.toml stand until this file, and the rest of the suite, have passed with a later version.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import h2.stream
import h11
import pytest
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import filter_pseudo_headers, parse_socket_addr, wrap_app

from sidecar.server.listener import HypercornLog
from sidecar.server.protocol import STREAMS_PER_CONNECTION, Ground, settings

ARGUMENTS = ["app", "config", "context", "task_group", "connection_state", "ssl", "client", "server", "send"]


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


async def nothing(*_: object) -> None: ...


def protocol(kind: type) -> Any:
    config = settings(HypercornLog)
    return kind(
        wrap_app(nothing, 0, "asgi"), config, WorkerContext(None), TaskGroup(), ConnectionState({}), False, None, None,
        nothing,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [H11Protocol, H2Protocol])
def test_the_arguments_of_the_protocols(kind: type) -> None:
    assert parameters(kind) == ARGUMENTS, "Ground.arguments gives them by position"
    assert len(inspect.signature(Ground.arguments).parameters) == 1


@pytest.mark.parametrize(
    ("kind", "method", "expected", "is_async"),
    [
        (H11Protocol, "initiate", [], True),
        (H11Protocol, "handle", ["event"], True),
        (H11Protocol, "_check_protocol", ["event"], True),
        (H11Protocol, "_create_stream", ["request"], True),
        (H11Protocol, "_maybe_recycle", [], True),
        (H11Protocol, "_close_stream", [], True),
        (H2Protocol, "initiate", ["headers", "settings"], True),
        (H2Protocol, "handle", ["event"], True),
        (H2Protocol, "_handle_events", ["events"], True),
        (H2Protocol, "_create_stream", ["request"], True),
        (H2Protocol, "_priority_updated", ["event"], True),
        (H2Protocol, "stream_send", ["event"], True),
        (TaskGroup, "spawn", ["func", "args"], False),
    ],
)
def test_the_methods_that_are_overridden_or_called(
    kind: type, method: str, expected: list[str], is_async: bool
) -> None:
    found = getattr(kind, method, None)
    assert found is not None, f"{kind.__name__}.{method} is gone"
    assert parameters(found) == expected, f"{kind.__name__}.{method} takes other arguments"
    assert inspect.iscoroutinefunction(found) is is_async, f"{kind.__name__}.{method} was a coroutine, or is one now"


def test_the_fields_of_the_http_1_protocol() -> None:
    one = protocol(H11Protocol)
    assert isinstance(one.connection, h11.Connection)
    assert one.stream is None
    assert one.keep_alive_requests == 0
    assert one.task_group is not None


def test_the_fields_of_the_http_2_protocol() -> None:
    two = protocol(H2Protocol)
    assert isinstance(two.connection, h2.connection.H2Connection)
    assert two.streams == {}, "requests that a route has taken are put there"
    assert two.stream_buffers == {}
    assert two.keep_alive_requests == 0
    assert two.idle is True
    assert two.connection.local_settings.max_concurrent_streams == STREAMS_PER_CONNECTION


def test_http_1_asks_for_another_protocol_in_one_place_only() -> None:
    assert "_check_protocol(event)" in inspect.getsource(H11Protocol._handle_events)
    assert "101" not in inspect.getsource(H11Protocol._create_stream)


@pytest.mark.parametrize("kind", [H11Protocol, H2Protocol])
def test_both_make_their_streams_in_create_stream(kind: type) -> None:
    assert "_create_stream(event)" in inspect.getsource(
        kind._handle_events  # type: ignore[attr-defined]
    ), f"{kind.__name__} no longer makes its streams where we step in"


class Place:
    """What stands for a request: only these two are asked for."""

    idle = False

    def __init__(self) -> None:
        self.told: list[str] = []

    async def handle(self, event: object) -> None:
        self.told.append(type(event).__name__)


async def test_the_end_of_an_http_2_stream_reaches_what_stands_for_it() -> None:
    two, place, told = protocol(H2Protocol), Place(), []

    async def send(event: Updated) -> None:
        told.append(event.idle)

    two.send = send
    two.streams[1] = place
    assert two.idle is False
    await two.stream_send(StreamClosed(stream_id=1))
    assert (place.told, told, two.streams) == (["StreamClosed"], [True], {})


async def test_recycling_closes_the_stream_before_the_connection_is_used_again() -> None:
    one, place = protocol(H11Protocol), Place()

    async def send(event: object) -> None:
        place.told.append(type(event).__name__)

    one.send = send
    one.connection.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert isinstance(one.connection.next_event(), h11.Request)
    assert isinstance(one.connection.next_event(), h11.EndOfMessage)
    one.stream = place
    one.connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
    one.connection.send(h11.EndOfMessage())
    await one._maybe_recycle()
    assert place.told == ["StreamClosed", "Updated"]
    assert one.stream is None
    assert one.connection.our_state is h11.IDLE


def test_the_task_group_is_a_nursery() -> None:
    assert TaskGroup()._nursery is None, "Connection ends it by TaskGroup._nursery"
    assert "self._nursery.start_soon(func, *args)" in inspect.getsource(TaskGroup.spawn)


def test_the_events_and_errors_between_connection_and_protocol() -> None:
    assert RawData(b"x").data == b"x"
    assert Updated(idle=True).idle is True
    Closed()
    assert H2ProtocolAssumedError(b"x").data == b"x"


@pytest.mark.parametrize(
    "name",
    [
        "h2_max_concurrent_streams", "keep_alive_max_requests", "h11_max_incomplete_size", "include_server_header",
        "logger_class", "response_headers", "h2_max_inbound_frame_size", "h2_max_header_list_size",
    ],
)  # fmt: skip
def test_the_settings_that_are_raised_or_read(name: str) -> None:
    assert hasattr(Config(), name), f"hypercorn's Config.{name} is gone"


def test_the_utilities() -> None:
    assert filter_pseudo_headers([(b":authority", b"x"), (b":path", b"/"), (b"a", b"b")]) == [
        (b"host", b"x"),
        (b"a", b"b"),
    ]
    assert parse_socket_addr(2, ("127.0.0.1", 5)) == ("127.0.0.1", 5)


# h2: windows that are counted down from outside (sidecar/server/http2.py)


def peers() -> tuple[h2.connection.H2Connection, h2.connection.H2Connection]:
    client = h2.connection.H2Connection()
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    client.initiate_connection()
    server.initiate_connection()
    client.send_headers(
        1, [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/")], end_stream=True
    )
    server.receive_data(client.data_to_send())
    client.receive_data(server.data_to_send())
    server.send_headers(1, [(b":status", b"200")])
    client.receive_data(server.data_to_send())
    return client, server


def test_the_windows_are_plain_integers() -> None:
    _, server = peers()
    stream = server.streams[1]
    assert isinstance(stream, h2.stream.H2Stream)
    for owner in (server, stream):
        assert type(owner.outbound_flow_control_window) is int
        assert not isinstance(getattr(type(owner), "outbound_flow_control_window", None), property)


def test_h2_counts_on_from_where_we_have_counted() -> None:
    _, server = peers()
    stream = server.streams[1]
    stream.outbound_flow_control_window -= 65_000
    server.outbound_flow_control_window -= 65_100
    assert server.local_flow_control_window(1) == 435
    server.send_data(1, b"x" * 400)
    assert (stream.outbound_flow_control_window, server.outbound_flow_control_window) == (135, 35)
    with pytest.raises(h2.exceptions.FlowControlError):
        server.send_data(1, b"x" * 36)


def test_h2_adds_what_the_client_gives_back() -> None:
    client, server = peers()
    stream = server.streams[1]
    stream.outbound_flow_control_window -= 65_535
    server.outbound_flow_control_window -= 65_535
    client.increment_flow_control_window(1000, 1)
    client.increment_flow_control_window(2000)
    client.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65_000})
    server.receive_data(client.data_to_send())
    assert (stream.outbound_flow_control_window, server.outbound_flow_control_window) == (1000 - 535, 2000)


def test_frames_written_beside_h2_leave_it_able_to_end_or_reset_the_stream() -> None:
    for ends in (True, False):
        client, server = peers()
        frame = b"\x00\x00\x05\x00\x00\x00\x00\x00\x01hello"
        server.streams[1].outbound_flow_control_window -= 5
        server.outbound_flow_control_window -= 5
        events = client.receive_data(frame)
        assert isinstance(events[0], h2.events.DataReceived)
        if ends:
            server.end_stream(1)
        else:
            server.reset_stream(1, 8)
        ended = client.receive_data(server.data_to_send())[-1]
        assert isinstance(ended, h2.events.StreamEnded | h2.events.StreamReset)


def test_what_h2_says_of_a_stream_that_is_over() -> None:
    client, server = peers()
    client.reset_stream(1)
    server.receive_data(client.data_to_send())
    with pytest.raises(h2.exceptions.ProtocolError):
        server.end_stream(1)
    with pytest.raises(h2.exceptions.ProtocolError):
        server.send_headers(1, [(b"a", b"b")])


def test_the_versions_are_those_that_were_tried() -> None:
    assert version("hypercorn").startswith("0.18."), "pyproject.toml's bound and this file belong together"
    assert version("h2").split(".")[:2] in (["4", "3"], ["4", "4"])
