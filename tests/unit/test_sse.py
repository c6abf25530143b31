"""Blocks and the parser: what goes in comes out, whatever the bytes, and as the web-platform-tests say."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar import sse
from sidecar.sse import Event, Parser

ANYTHING = st.text(st.characters() | st.sampled_from("\r\n\0: ")) | st.text("\r\n: \0a")
STREAM = st.lists(
    st.sampled_from([b"data", b"id", b"event", b"retry", b":", b" ", b"\r", b"\n", b"\0", b"1", b"\xc3\xa9", b"\xff"])
).map(b"".join)


def parse(stream: bytes) -> list[Event]:
    return Parser().feed(stream)


def data(stream: bytes) -> list[str]:
    return [event.data for event in parse(stream)]


def in_lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def cleaned(text: str) -> str:
    return re.sub("[\r\n\0]", "", text).encode("utf-8", "replace").decode()


@given(ANYTHING, st.none() | ANYTHING, st.none() | ANYTHING)
def test_a_parser_finds_in_a_block_what_was_put_into_it(body: str, event: str | None, name: str | None) -> None:
    payload = body.encode("utf-8", "replace")
    block = sse.encode(payload, event=event, id=name)
    assert block.endswith(b"\n\n")
    expected = Event(cleaned(event or "") or "message", in_lf(payload.decode()), cleaned(name or ""))
    assert parse(b"id: before\n\n" * (name is not None) + block) == [expected]


@given(st.binary(), ANYTHING)
def test_no_body_and_no_name_can_end_a_block_or_start_a_field(body: bytes, name: str) -> None:
    *lines, last, end = sse.encode(body, event=name, id=name).split(b"\n")
    assert (last, end) == (b"", b"")
    fields = [line.split(b": ")[0] for line in lines]
    assert [field for field in fields if field != b"data"] in ([b"id"], [b"event", b"id"])
    assert b"\r" not in b"".join(lines)


def test_blocks_are_as_plain_as_they_can_be() -> None:
    assert sse.encode(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert sse.encode(b"") == b"data: \n\n"
    assert sse.encode(b"a\r\nb\rc\nd") == b"data: a\ndata: b\ndata: c\ndata: d\n\n"
    assert sse.encode(b"x", event="order.created", id="7.ab") == b"event: order.created\nid: 7.ab\ndata: x\n\n"
    assert sse.encode(b"x", event="\r\n\0") == b"data: x\n\n"
    assert sse.event_prefix("a\nb") == b"event: ab\n"
    assert sse.event_prefix(None) == b""


def test_what_is_no_event_dispatches_nothing() -> None:
    parser = Parser("5")
    quiet = [sse.HEARTBEAT, sse.retry(2500), sse.comment("hello\r\nworld"), sse.comment(""), sse.id_block("9~\n.a")]
    assert parser.feed(b"".join(quiet)) == []
    assert (parser.retry, parser.last_event_id) == (2500, "9~.a")


def test_a_reset_is_an_event_that_keeps_the_id() -> None:
    assert sse.reset("truncated") == b'event: sidecar.reset\ndata: {"reason": "truncated"}\n\n'
    assert Parser("7").feed(sse.reset("slow")) == [Event("sidecar.reset", '{"reason": "slow"}', "7")]


# The web-platform-tests (eventsource/), by the names they have there.


def test_format_bom() -> None:
    assert data(b"\xef\xbb\xbfdata:1\n\n\xef\xbb\xbfdata:2\n\ndata:3\n\n") == ["1", "3"]


def test_format_bom_2() -> None:
    assert data(b"\xef\xbb\xbf\xef\xbb\xbfdata:1\n\ndata:2\n\ndata:3\n\n") == ["2", "3"]


def test_format_comments() -> None:
    long = b"x" * 2048
    assert data(b"data:1\r:\0\n:\r\ndata:2\n:" + long + b"\rdata:3\n:data:fail\r:" + long + b"\ndata:4\n\n") == [
        "1\n2\n3\n4"
    ]


def test_format_data_before_final_empty_line() -> None:
    assert data(b"retry:1000\ndata:test1\n\nid:test\ndata:test2") == ["test1"]


def test_format_field_data() -> None:
    assert data(b"data:\n\ndata\ndata\n\ndata:test\n\n") == ["", "\n", "test"]


def test_format_field_event() -> None:
    assert [event.type for event in parse(b"event:test\ndata:x\n\ndata:x\n\n")] == ["test", "message"]


def test_format_field_event_empty() -> None:
    assert [event.type for event in parse(b"event: \ndata:data\n\n")] == ["message"]


@pytest.mark.parametrize("value", [b"\0", b"\0x", b"x\0"])
def test_format_field_id_null(value: bytes) -> None:
    parser = Parser()
    assert [event.id for event in parser.feed(b"id: " + value + b"\ndata: hello\n\n")] == [""]
    assert parser.last_event_id == ""


def test_format_field_id() -> None:
    assert [event.id for event in parse(b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\n")] == ["1", "1", ""]


def test_format_field_parsing() -> None:
    stream = (
        b"data:\0\ndata:  2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n"
    )
    assert data(stream) == ["\0\n 2\n1\n3\n\n4"]


@pytest.mark.parametrize("value", [b"  1000", b"1000x", b"-1000", b"+1", b"", b"1e3", "١".encode(), b"1.5"])
def test_format_field_retry_bogus(value: bytes) -> None:
    parser = Parser()
    parser.feed(b"retry:3000\nretry:" + value + b"\ndata:x\n\n")
    assert parser.retry == 3000


def test_format_field_retry() -> None:
    parser = Parser()
    parser.feed(b"retry:03000\ndata:x\n\n")
    assert parser.retry == 3000
    parser.feed(b"retry:" + b"9" * 10_000 + b"\nretry\n")
    assert parser.retry is not None
    assert parser.retry > 10**12


def test_format_field_unknown() -> None:
    assert data(b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n") == [
        "test\n\ntest"
    ]


def test_format_leading_space() -> None:
    assert data(b"data:\ttest\rdata: \ndata:test\n\n") == ["\ttest\n\ntest"]


def test_format_newlines() -> None:
    assert data(b"data:test\r\ndata\ndata:test\r\n\r") == ["test\n\ntest"]


def test_format_null_character() -> None:
    assert data(b"data:\0\n\n\n\n") == ["\0"]


def test_format_utf_8() -> None:
    assert data("data:ok…\n\n".encode()) == ["ok…"]
    assert data(b"data:a\xffb\xe2\x82\n\n") == ["a\ufffdb\ufffd"]


def test_event_data() -> None:
    stream = "data:msg\ndata: msg\n\n:\nfalsefield:msg\n\nfalsefield:msg\nData:data\n\ndata\n\ndata:end\n\n"
    assert data(stream.encode()) == ["msg\nmsg", "", "end"]


# What a browser cannot be asked, but a reader of ours relies on.


@given(STREAM, st.lists(st.integers(0, 200)))
@example(b"data:a\r\n\r\ndata:b\r\r", [7, 8, 9, 10])
@example(b"\xef\xbb\xbfdata:1\n\n", [1, 2])
def test_chunks_make_no_difference(stream: bytes, cuts: list[int]) -> None:
    whole, pieces, single = Parser(), Parser(), Parser()
    places = [0, *sorted(cuts), len(stream)]
    expected = whole.feed(stream)
    assert [e for start, end in pairwise(places) for e in pieces.feed(stream[start:end])] == expected
    assert [e for byte in stream for e in single.feed(bytes([byte]))] == expected
    states = [(parser.last_event_id, parser.retry) for parser in (whole, pieces, single)]
    assert states[0] == states[1] == states[2]


@given(STREAM)
def test_the_parser_does_what_the_standard_says_step_by_step(stream: bytes) -> None:
    assert parse(stream) == standard(stream)


def standard(stream: bytes) -> list[Event]:
    """§9.2.6 as it is written: decode, split into lines by the grammar, then the steps, one by one."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    complete = re.findall("([^\r\n]*)(?:\r\n|\n|\r)", text)
    data, type_, last_id, events = "", "", "", []
    for line in complete:
        if line == "":
            if data:
                events.append(Event(type_ or "message", data.removesuffix("\n"), last_id))
            data, type_ = "", ""
            continue
        name, colon, value = line.partition(":")
        if colon and not name:
            continue
        value = value.removeprefix(" ")
        if name == "event":
            type_ = value
        elif name == "data":
            data += value + "\n"
        elif name == "id" and "\0" not in value:
            last_id = value
    return events


def test_a_lone_cr_ends_a_line_at_once() -> None:
    parser = Parser()
    assert parser.feed(b"data: now\r\r") == [Event("message", "now", "")]
    assert parser.feed(b"\ndata: then\n\n") == [Event("message", "then", "")]


def test_an_id_counts_only_once_its_block_is_complete() -> None:
    parser = Parser("1")
    parser.feed(b"id: 2\ndata: torn\n")
    assert parser.last_event_id == "1"
    parser.feed(b"\n")
    assert parser.last_event_id == "2"


def test_an_event_has_a_bound() -> None:
    parser = Parser(max_event=20)
    assert parser.feed(b"data: 0123456789\n\n" * 5) == [Event("message", "0123456789", "")] * 5
    parser.feed(b"data: 0123456789")
    with pytest.raises(sse.EventTooLongError, match="20 bytes"):
        parser.feed(b"0123456789")
