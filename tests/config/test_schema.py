"""The JSON Schema agrees with the loader about what a file may hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from sidecar.config import ConfigError, parse
from sidecar.config.schema import json_schema

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
VALIDATOR = Draft202012Validator(json_schema())


def properties(schema: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in schema.items() if isinstance(schema, dict) else ():
        if name == "properties":
            yield from ((f"{at}.{key}", each) for key, each in value.items())
        yield from properties(value, f"{at}/{name}")


def test_it_is_a_schema_of_its_draft() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert json_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_key_is_described() -> None:
    found = dict(properties(json_schema()))
    assert len(found) > 40
    assert [at for at, schema in found.items() if not schema.get("description")] == []


def test_the_example_follows_it() -> None:
    assert list(VALIDATOR.iter_errors(yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")))) == []


ROUTE = "routes: [{path: /e, exchange: x, "


@pytest.mark.parametrize(
    "text",
    [
        "broker: {url: amqp://h/, heartbeat: 30s, reconnect: {min: 500ms}, gather: 0s}",
        "broker: {url: ['amqp://h/', 'amqps://h/'], tls: {}}",
        "admin: {publish: '${P:-true}', bind: 'unix:/run/a.sock'}",
        "drain: {within: '${W:-1.5m}'}",
        f"{ROUTE} binding_key: a}}]",
        f"{ROUTE} binding_key: [a, '#'], binding_headers: {{x-match: any, n: 1}}}}]",
        f"{ROUTE} overload: 503}}]",
        f"{ROUTE} overload: '503'}}]",
        f"{ROUTE} overload: '${{O:-retry}}', data: '${{D:-body}}'}}]",
        f"{ROUTE} backlog: {{events: 5, bytes: 64KiB}}}}]",
        f"{ROUTE} backlog: {{events: '${{E:-5}}', bytes: 65536}}}}]",
        f"{ROUTE} retry: 2s-6s, max_age: 1h, heartbeat: 250ms}}]",
        f"{ROUTE} retry: 3s, max_age: null, where: {{type: a}}}}]",
        f"{ROUTE} heartbeat: {{every: 5s, event: true}}}}]",
        f"{ROUTE} heartbeat: {{event: '${{E:-true}}'}}}}]",
        "defaults: {heartbeat: 5s, declare: {type: topic, arguments: {a: [1, b]}}}",
    ],
)
def test_good_values_pass_both(text: str) -> None:
    parse(text, "x", Path(), {})
    assert list(VALIDATOR.iter_errors(yaml.safe_load(text))) == []


@pytest.mark.parametrize(
    "text",
    [
        "brokers: {}",
        "broker: {url: []}",
        "broker: {heartbeat: 30}",
        "listen: []",
        "listen: [{tls: {certificate: a}}]",
        "admin: {publish: perhaps}",
        "routes: [{path: /e}]",
        "defaults: {path: /e}",
        f"{ROUTE} heartbeat: 5 s}}]",
        f"{ROUTE} heartbeat: [5s]}}]",
        f"{ROUTE} heartbeat: {{every: 5}}}}]",
        f"{ROUTE} heartbeat: {{every: 5s, events: true}}}}]",
        f"{ROUTE} retry: 2-6}}]",
        f"{ROUTE} overload: 500}}]",
        f"{ROUTE} data: json}}]",
        f"{ROUTE} backlog: {{events: 0}}}}]",
        f"{ROUTE} backlog: {{bytes: 64kib}}}}]",
        f"{ROUTE} declare: {{durable: true}}}}]",
        f"{ROUTE} binding_key: {{id: null}}}}]",
    ],
)
def test_bad_values_fail_both(text: str) -> None:
    assert list(VALIDATOR.iter_errors(yaml.safe_load(text)))
    with pytest.raises(ConfigError):
        parse(text, "x", Path(), {})
