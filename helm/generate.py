"""Write the chart's values.schema.json and README.md from the comments of values.yaml.

Strategy: values.yaml is the one source. A comment ``# -- …`` above a key is its description, a comment
``# @schema {…}`` on its line refines the type that its default already shows, and a key without a description is a
mistake, so that nothing goes undocumented. What stands below ``config:`` is the program's own business: its schema is
asked of ``sidecar schema`` and rewritten for the oldest validator in use (Helm 3 knows draft 7, not 2020-12).

    python helm/generate.py           writes both files
    python helm/generate.py --check   exits 1 when one of them is not what would be written
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent
KEY = re.compile(r"^(?P<indent> *)(?P<name>[A-Za-z]\w*):(?P<rest>.*)$")
ANNOTATION = re.compile(r"# @schema (?P<schema>\{.*\})\s*$")
TYPES = {bool: "boolean", int: "integer", str: "string", list: "array", dict: "object"}
PROBE = {name: {"type": "integer", "minimum": 1} for name in ("periodSeconds", "failureThreshold", "timeoutSeconds")}

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Value:
    """One key of values.yaml: where it stands, its default, what is said of it."""

    path: tuple[str, ...]
    default: Any
    description: str
    annotation: dict[str, Any] | None

    @property
    def group(self) -> bool:
        """Whether it only holds other documented keys."""
        return isinstance(self.default, dict) and self.annotation is None


def read_values(text: str) -> Iterator[Value]:
    """The keys of values.yaml in their order, groups before their members.

    Raises `SystemExit` on a key without a description.
    """
    defaults = yaml.safe_load(text)
    path: list[str] = []
    opaque: int | None = None  # the depth of a value that is described as a whole; what is deeper is its default
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip()[1:].strip())
            continue
        key = KEY.match(line)
        depth = len(key["indent"]) // 2 if key else 99
        if key and (opaque is None or depth <= opaque):
            path[depth:] = [key["name"]]
            value = _value(tuple(path), defaults, comment, key["rest"])
            opaque = None if value.group else depth
            yield value
        comment = []


def _value(path: tuple[str, ...], defaults: Any, comment: list[str], rest: str) -> Value:
    default = defaults
    for name in path:
        default = default[name]
    found = ANNOTATION.search(rest)
    value = Value(path, default, _description(comment), yaml.safe_load(found["schema"]) if found else None)
    if not value.description and not value.group:
        raise SystemExit(f"helm/values.yaml: {'.'.join(path)} has no description: put a comment '# -- …' above it")
    return value


def _description(comment: list[str]) -> str:
    starts = [number for number, line in enumerate(comment) if line.startswith("-- ")]
    return " ".join(comment[starts[-1] :]).removeprefix("-- ") if starts else ""


def values_schema(values: list[Value], config: Schema) -> Schema:
    """The JSON Schema of all values (draft 7); every group refuses keys it does not know."""
    definitions = config.pop("definitions", {})
    root: Schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the sidecar chart",
        "type": "object",
        "additionalProperties": False,
        # Helm gives `global` to every chart that is a dependency.
        "properties": {"global": {"type": "object"}},
    }
    for value in values:
        parent = root
        for name in value.path[:-1]:
            parent = parent["properties"][name]
        parent["properties"][value.path[-1]] = _schema(value, config)
    return {**root, "definitions": definitions}


def _schema(value: Value, config: Schema) -> Schema:
    note = dict(value.annotation or {})
    described = {"description": value.description} if value.description else {}
    if value.group:
        return {"type": "object", "additionalProperties": False, "properties": {}}
    if note.pop("$config", False):
        return {**config, **described}
    if note.pop("$probe", False):
        return {"type": "object", "additionalProperties": False, "properties": PROBE, **described}
    if note.pop("$free", False):
        return {"type": "object", **described}
    if "$map" in note:
        return {"type": "object", "additionalProperties": note.pop("$map"), **note, **described}
    return {"type": TYPES.get(type(value.default), "string"), **note, **described}


def as_draft_7(schema: Any) -> Any:
    """A schema of draft 2020-12 in the words of draft 7, as far as pydantic writes it."""
    if isinstance(schema, list):
        return [as_draft_7(item) for item in schema]
    if not isinstance(schema, dict):
        return schema.replace("#/$defs/", "#/definitions/") if isinstance(schema, str) else schema
    names = {"$defs": "definitions", "prefixItems": "items"}
    kept = {name: value for name, value in schema.items() if name not in ("$schema", "$id", "discriminator")}
    if "prefixItems" in kept:
        kept.pop("items", None)
    if isinstance(kept.get("enum"), list):
        kept.update(_choices(kept.pop("enum")))
    return {names.get(name, name): as_draft_7(value) for name, value in kept.items()}


def _choices(choices: list[Any]) -> Schema:
    # Helm 4's validator takes "503" and 503 for the same choice, and refuses a schema that has one twice.
    texts = [choice for choice in choices if isinstance(choice, str)]
    others = [choice for choice in choices if not isinstance(choice, str)]
    return {"anyOf": [{"enum": texts}, {"enum": others}]} if texts and others else {"enum": choices}


def config_schema() -> Schema:
    """What ``sidecar schema`` prints, rewritten."""
    printed = subprocess.run([sys.executable, "-m", "sidecar", "schema"], check=True, capture_output=True, text=True)
    schema: Schema = as_draft_7(json.loads(printed.stdout))
    return schema


def readme(values: list[Value], template: str) -> str:
    """The README: the template's text with the table of values in the place of ``{{values}}``."""
    rows = ["| value | default | what it is |", "|---|---|---|"]
    rows += [_row(value) for value in values if not value.group]
    return template.replace("{{values}}", "\n".join(rows))


def _row(value: Value) -> str:
    default = json.dumps(value.default, ensure_ascii=False)
    shown = "see values.yaml" if len(default) > 60 else f"`{default}`"
    return f"| `{'.'.join(value.path)}` | {shown} | {value.description.replace('|', chr(92) + '|')} |"


def generated() -> dict[Path, str]:
    """The files and what must stand in them."""
    values = list(read_values((CHART / "values.yaml").read_text()))
    schema = values_schema(values, config_schema())
    return {
        CHART / "values.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        CHART / "README.md": readme(values, (CHART / "README.template.md").read_text()),
    }


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(description="Write the chart's schema and README.")
    parser.add_argument("--check", action="store_true", help="only say which file is out of date; exit 1 if one is")
    check = parser.parse_args().check
    stale = [path for path, text in generated().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if check:
            print(f"helm/{path.name} is out of date: run `make chart`")
        else:
            path.write_text(generated()[path])
    raise SystemExit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
