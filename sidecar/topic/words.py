"""Routing keys and binding keys as words, and what a topic exchange makes of them (AMQP 0-9-1 §3.1.3.3)."""

from __future__ import annotations

import re
from typing import Final

MAX_WORD: Final = 255
"""Bytes of a routing key, hence of a word of one (AMQP 0-9-1 §4.2.5.3, short strings)."""

_NOT_IN_A_WORD: Final = re.compile(r"[.*#\x00-\x1f\x7f-\x9f]")


def is_word(value: str) -> bool:
    """Return whether a value can be one whole word of a routing key, and so can never widen a binding (SPEC §2)."""
    if not value or _NOT_IN_A_WORD.search(value):
        return False
    try:
        return len(value.encode()) <= MAX_WORD
    except UnicodeEncodeError:  # the surrogates that stand for bytes that were not UTF-8
        return False


def topic_matches(binding_key: str, routing_key: str) -> bool:
    """Return whether a topic exchange sends a routing key to a binding: the definition, for one binding at a time."""
    return _words_match(words_of(binding_key), words_of(routing_key))


def _words_match(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_words_match(pattern[1:], words[start:]) for start in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _words_match(pattern[1:], words[1:])


def words_of(key: str) -> list[str]:
    return key.split(".") if key else []
