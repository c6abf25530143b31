"""Templates: text with ``{name}`` placeholders, as in binding keys, event names and filters (SPEC §2).

Strategy: parse once into literal texts and the names between them; rendering is then one join. What a name means and
where its value comes from is the caller's business: a template knows only where the holes are. ``{{`` and ``}}`` stand
for the braces themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_TOKEN = re.compile(r"\{\{|\}\}|\{(?P<name>[^{}]*)\}|(?P<stray>[{}])")

# A name is a word, or a family and a member: `order`, `query.name`, `headers.x-tenant`. What stands behind the first
# dot is a header's or a query field's name and may hold nearly anything.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*(\.[^{}\s\x00-\x1f]+)?")


class TemplateError(ValueError):
    """A text is no template; `fact` says why, `offset` is the character (from 0) where it goes wrong."""

    def __init__(self, fact: str, offset: int) -> None:
        super().__init__(fact)
        self.fact = fact
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: `texts` are the literal pieces around the placeholders `holes`, one more than those."""

    texts: tuple[str, ...]
    holes: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Take a template apart; raises `TemplateError`."""
        texts, holes, start = [""], [], 0
        for token in _TOKEN.finditer(text):
            texts[-1] += text[start : token.start()]
            start = token.end()
            if token["stray"]:
                raise TemplateError(f"a lone {token[0]}", token.start())
            if token["name"] is None:
                texts[-1] += token[0][0]
            else:
                holes.append(_checked(token["name"], token.start()))
                texts.append("")
        texts[-1] += text[start:]
        return cls(tuple(texts), tuple(holes))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the placeholders, each once, in the order of their first use."""
        return tuple(dict.fromkeys(self.holes))

    @property
    def literal(self) -> str | None:
        """The whole text when there is no placeholder, else None."""
        return None if self.holes else self.texts[0]

    def render(self, value: Callable[[str], str]) -> str:
        """The text with each placeholder replaced by ``value(name)``; what `value` raises passes through."""
        pieces = [self.texts[0]]
        for name, text in zip(self.holes, self.texts[1:], strict=True):
            pieces += (value(name), text)
        return "".join(pieces)

    def widen(self) -> str:
        """The binding key that takes every value: each word with a placeholder in it becomes ``*``.

        The whole word, because a topic exchange knows ``*`` only as a word of its own (AMQP 0-9-1 §3.1.3.3).
        """
        marked = "\0".join(self.texts)
        return ".".join("*" if "\0" in word else word for word in marked.split("."))

    def __str__(self) -> str:
        escaped = [text.replace("{", "{{").replace("}", "}}") for text in self.texts]
        holes = [f"{{{name}}}" for name in self.holes]
        return "".join(piece for pair in zip(escaped, [*holes, ""], strict=True) for piece in pair)


def _checked(name: str, offset: int) -> str:
    if not name:
        raise TemplateError("a placeholder without a name", offset)
    if not _NAME.fullmatch(name):
        raise TemplateError(f"{{{name}}} is no name", offset)
    return name
