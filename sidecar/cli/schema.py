"""``sidecar schema``: the JSON Schema of the configuration."""

from __future__ import annotations

import json

import typer

from sidecar.config.schema import json_schema


def schema() -> None:
    """Print the configuration's JSON Schema (draft 2020-12), for editors and for charts."""
    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
