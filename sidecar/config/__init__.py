"""The configuration: YAML to checked values, every mistake with its place."""

from sidecar.config.load import load, parse
from sidecar.config.mistakes import ConfigError, Mistake
from sidecar.config.model import Config

__all__ = ["Config", "ConfigError", "Mistake", "load", "parse"]
