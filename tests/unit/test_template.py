"""Templates are fed whole classes of texts: whatever parses renders to what a plain reading of it gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.template import Template, TemplateError

NAMES = st.sampled_from(["order", "query.name", "claims.sub", "auth.user", "headers.x-tenant", "routing_key"])
LITERALS = st.text().filter(lambda text: "\0" not in text)


def test_names_literal_and_rendering() -> None:
    template = Template.parse("order.{order}.{query.name}.{order}")
    assert template.names == ("order", "query.name")
    assert template.literal is None
    assert template.render({"order": "7", "query.name": "x"}.__getitem__) == "order.7.x.7"


def test_a_text_without_placeholders_is_literal() -> None:
    assert Template.parse("orders.#").literal == "orders.#"
    assert Template.parse("").literal == ""
    assert Template.parse("{{a}}").literal == "{a}"


def test_escaped_braces_stand_for_themselves() -> None:
    assert Template.parse("{{{a}}}").render(str.upper) == "{A}"


@pytest.mark.parametrize(
    ("text", "offset", "fact"),
    [
        ("a.{b", 2, "a lone {"),
        ("a.b}", 3, "a lone }"),
        ("{}", 0, "without a name"),
        ("x{a b}", 1, "{a b} is no name"),
        ("{1}", 0, "{1} is no name"),
        ("{query.}", 0, "{query.} is no name"),
        ("{a{b}}", 0, "a lone {"),
    ],
)
def test_mistakes_have_a_place(text: str, offset: int, fact: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template.parse(text)
    assert caught.value.offset == offset
    assert fact in caught.value.fact


@pytest.mark.parametrize(
    ("text", "wide"),
    [
        ("order.{order}.*", "order.*.*"),
        ("{a}", "*"),
        ("a.x-{b}.c", "a.*.c"),
        ("{a}{b}.#", "*.#"),
        ("plain", "plain"),
        ("{query.a.b}.c", "*.c"),
    ],
)
def test_widening_takes_the_whole_word(text: str, wide: str) -> None:
    assert Template.parse(text).widen() == wide


@given(st.lists(st.one_of(LITERALS, NAMES.map(lambda name: (name,)))))
def test_what_is_written_is_what_is_rendered(parts: list[str | tuple[str]]) -> None:
    def escaped(text: str) -> str:
        return text.replace("{", "{{").replace("}", "}}")

    written = "".join(escaped(part) if isinstance(part, str) else f"{{{part[0]}}}" for part in parts)
    expected = "".join(part if isinstance(part, str) else f"<{part[0]}>" for part in parts)
    template = Template.parse(written)
    assert template.render(lambda name: f"<{name}>") == expected
    assert str(template) == written
    assert Template.parse(str(template)) == template


@given(st.text(alphabet="{}ab.-* \0"))
def test_any_text_parses_or_has_a_place(text: str) -> None:
    try:
        parsed: Template | TemplateError = Template.parse(text)
    except TemplateError as error:
        parsed = error
    if isinstance(parsed, TemplateError):
        assert 0 <= parsed.offset < len(text)
    else:
        assert len(parsed.texts) == len(parsed.holes) + 1
