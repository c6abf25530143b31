"""The option ``-c``, and what happens when the file behind it is no good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli.output import show_mistakes
from sidecar.config import Config, ConfigError, load

ConfigPath = Annotated[Path, typer.Option("-c", "--config", help="The configuration file.")]
DEFAULT_PATH = Path("config.yaml")


def read_or_exit(path: Path, *, to_stdout: bool = False) -> Config:
    """The configuration; otherwise its mistakes, one a line on standard error, and exit code 2."""
    try:
        return load(path)
    except ConfigError as error:
        show_mistakes(error.mistakes, to_stdout=to_stdout)
        raise typer.Exit(2) from None
