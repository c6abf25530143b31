"""What an operator types: the ``sidecar`` command (SPEC §1).

Strategy: the commands' names stand here and a command's module is imported when it is called or asked for its help, so
that ``sidecar --help`` waits for no web server to be imported. A command is the function of its name in the module of
its name, with typer's annotations; its docstring is its help.

Exit codes: 0 for success, 2 for a configuration or a command line that cannot be used, 1 for any other failure.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from sidecar import __version__

COMMANDS = {
    "run": ("Serve until told to stop.", "sidecar run -c config.yaml"),
    "check": ("Show every mistake of the configuration; without one, its routes.", "sidecar check -c config.yaml"),
    "demo": ("Serve sample routes with live traffic, without file or broker.", "sidecar demo --port 8080"),
    "tail": ("Read an event stream, reconnecting as a browser does.", "sidecar tail http://localhost:8080/events/news"),
    "publish": ("Publish messages, confirmed by the broker.", "sidecar publish orders order.7.paid '{\"total\": 12}'"),
    "explain": ("Show which route a path meets, and what it subscribes to.", "sidecar explain /events/orders/7"),
    "schema": ("Print the configuration's JSON Schema.", "sidecar schema > sidecar.schema.json"),
    "live": ("Ask whether the sidecar in this container lives.", "sidecar live"),
}
"""Each command's summary and an example of its use."""

HIDDEN = {"live"}
"""Commands that are for machines: a container's health check."""


class _Commands(TyperGroup):
    """A group that lists its commands from `COMMANDS` and imports one only when it is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (summary, _) in COMMANDS.items():
            self.add_command(TyperCommand(name, help=summary, hidden=name in HIDDEN))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, listed, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name in COMMANDS else listed, rest


def load_command(name: str) -> Any:
    """The command itself, with its options; imports its module."""
    single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    function = getattr(importlib.import_module(f"{__name__}.{name}"), name)
    single.command(name, epilog=f"Example: {COMMANDS[name][1]}")(function)
    return typer.main.get_command(single)


# No pretty tracebacks: they show local variables, and those hold secrets.
app = typer.Typer(cls=_Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sidecar {__version__}")
        raise typer.Exit


@app.callback(epilog="Example: sidecar demo")
def _sidecar(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Turn RabbitMQ exchanges into Server-Sent Events, beside the application they belong to."""


def main() -> None:
    """Run the command line and exit with its code."""
    app(prog_name="sidecar")
