"""The ground of all models of the configuration."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.fields import FieldInfo


class Settings(BaseModel):
    """Frozen, and an unknown key is a mistake; the docstring under a key describes it in the JSON Schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, given: object) -> object:
        """``key:`` with nothing behind it is as if the key was not there."""
        if not isinstance(given, dict):
            return given
        return {key: value for key, value in given.items() if value is not None or key not in cls.written()}

    @classmethod
    def written(cls) -> dict[str, FieldInfo]:
        """The keys as they are written in a file; where a name is a word of Python's, by the field's alias."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}
