"""The small grammars: what is written is what is read, and everything else is refused with a way out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.interpolate import interpolate
from sidecar.config.values import GrammarError, bind_address, octets, seconds, seconds_range, shown

SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {"": 1, "B": 1, "kB": 10**3, "KiB": 2**10, "MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30, "TiB": 2**40}
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="${}"))


@given(st.integers(0, 10**6), st.sampled_from(sorted(SECONDS)))
def test_durations(number: int, unit: str) -> None:
    assert seconds(f"{number}{unit}") == pytest.approx(number * SECONDS[unit])
    assert seconds(f"{number}.5{unit}") == pytest.approx((number + 0.5) * SECONDS[unit])


@given(st.integers(0, 10**12), st.sampled_from(sorted(BYTES)))
def test_sizes(number: int, unit: str) -> None:
    assert octets(f"{number}{unit}") == number * BYTES[unit]
    assert octets(f"{number} {unit}".strip()) == number * BYTES[unit]


def test_parts_of_a_size() -> None:
    assert octets("1.5KiB") == 1536


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_ranges(low: int, more: int) -> None:
    assert seconds_range(f"{low}s-{low + more}s") == (low, low + more)
    assert seconds_range(f"{low}s - {low + more}s") == (low, low + more)
    assert seconds_range(f"{low}s") == (low, low)
    if more:
        with pytest.raises(GrammarError, match="begins above its end") as caught:
            seconds_range(f"{low + more}s-{low}s")
        assert caught.value.way_out == f"write {low}s-{low + more}s"


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "-5s", "+5s", "5S", "1h30m", ".5s", "5.s", "1e3s", "٥s", "5s\n"])
def test_no_durations(text: str) -> None:
    with pytest.raises(GrammarError, match="is no duration"):
        seconds(text)


@pytest.mark.parametrize("text", ["", "B", "-1", "1kib", "1 K B", "0x10", "1_000", "٥", "1MB\n", "1.KiB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(GrammarError, match="is no size"):
        octets(text)


@pytest.mark.parametrize(
    "text", ["", ":80", "a:", "a:b", "a:-1", "a:65536", "::1:80", "[::1]", "unix:", "unix:a", "a b:1"]
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(GrammarError, match="is no "):
        bind_address(text)


@given(st.text())
def test_grammars_refuse_in_one_way(text: str) -> None:
    for grammar in (seconds, octets, seconds_range, bind_address):
        try:
            grammar(text)
        except GrammarError as error:
            fact, way_out = error.fact, error.way_out
            assert fact
            assert way_out


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", ""),
        ("plain {name} $ $x 5$", "plain {name} $ $x 5$"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("${A}", "a"),
        ("x${A}y${A}z", "xayaz"),
        ("${NONE:-}", ""),
        ("${NONE:-d:-e}", "d:-e"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""),
        ("${A:-d}", "a"),
        ("${NONE:-order.{order}.*}", "order.{order}.*"),
        ("${A:-order.{order}}", "a"),
        ("${NONE:-${A}}", "a"),
        ("${NONE:-$$}", "$"),
        ("${DOLLARS}", "$$${A}"),
    ],
)
def test_interpolation(text: str, result: str) -> None:
    environ = {"A": "a", "EMPTY": "", "DOLLARS": "$$${A}"}
    assert interpolate(text, environ, Path()) == result


@pytest.mark.parametrize("text", ["${", "${}", "${A", "${ A}", "${A-b}", "${1}", "${file:}", "${A:b}", "a${{A}}"])
def test_no_references(text: str) -> None:
    with pytest.raises(GrammarError, match="begins no reference"):
        interpolate(text, {"A": "a"}, Path())


@given(WORDS, WORDS)
def test_values_and_defaults_arrive_as_they_are(value: str, default: str) -> None:
    assert interpolate("${A}|${B:-" + default + "}", {"A": value}, Path()) == f"{value}|{default}"


@given(st.text())
def test_dollars_can_always_be_written(text: str) -> None:
    assert interpolate(text.replace("$", "$$"), {}, Path()) == text


@pytest.mark.parametrize(
    ("content", "text"), [("secret", "secret"), ("secret\n", "secret"), ("a\n\n", "a\n"), (" a \n", " a "), ("", "")]
)
def test_a_file_without_its_last_newline(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "secret").write_text(content)
    assert interpolate("${file:secret}", {}, tmp_path) == text
    assert interpolate(f"${{file:{tmp_path}/secret}}", {}, Path("/nowhere")) == text


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("15", "15"),
        ("amqp://u:hunter2@h/", "amqp://…@h/"),
        ("amqp://u:hun/ter2@h/", "amqp://…@h/"),
        ("${A:-amqp://u:hunter2@h/}", "${A:-amqp://…@h/}"),
        ("x" * 100, "x" * 59 + "…"),
        ("", "an empty text"),
    ],
)
def test_what_a_mistake_quotes(text: str, quoted: str) -> None:
    assert shown(text) == quoted
