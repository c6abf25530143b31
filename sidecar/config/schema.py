"""The JSON Schema of the configuration, from the model itself (draft 2020-12).

Strategy: pydantic writes the schema; what it cannot know is what YAML and interpolation add: every value may also be a
text with a ``${reference}``, and a key may be left empty.
"""

from __future__ import annotations

from typing import Any

from sidecar.config.model import Config
from sidecar.config.values import INTERPOLATED

_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
_REFERENCE = {"type": "string", "pattern": INTERPOLATED}


def json_schema() -> dict[str, Any]:
    """The schema as plain JSON values."""
    written = Config.model_json_schema(mode="validation")
    schema: dict[str, Any] = _loosened(written)
    return {"$schema": _SCHEMA, **schema, "title": "sidecar's configuration"}


def _loosened(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_loosened(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    loosened = {key: _loosened(value) for key, value in schema.items() if key != "title" or not isinstance(value, str)}
    if loosened.get("type") in ("integer", "number", "boolean") or "enum" in loosened:
        return _with_reference(loosened)
    return loosened


def _with_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """A number, a boolean or a choice, or a reference to one; what describes the key stays outside."""
    told: dict[str, Any] = {key: schema.pop(key) for key in ("description", "default") if key in schema}
    if "enum" in schema:
        schema.pop("type", None)
        schema["enum"] = [*schema["enum"], *(int(choice) for choice in schema["enum"] if choice.isdigit())]
    return {"anyOf": [schema, _REFERENCE], **told}
