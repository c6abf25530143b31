"""The reference pages that the code itself tells: `python docs/generate.py` writes them, `--check` compares them.

Strategy: nothing is said here that the code does not say. Keys come from the JSON Schema, commands from their options
and docstrings, metrics from a scrape of a process that has served nothing, log lines from the calls that write them.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from sidecar.cli import COMMANDS, HIDDEN, load_command
from sidecar.config import access, model
from sidecar.config.model import Listener, Route, RouteOptions
from sidecar.config.schema import json_schema
from sidecar.config.settings import Settings
from sidecar.observe.metrics import Metrics
from sidecar.observe.reasons import CloseReason, DropReason, Reason, ResetReason

HERE: Final = Path(__file__).parent
NOTE: Final = "<!-- Written by docs/generate.py out of the code: a change belongs there. -->\n\n"
LEVELS: Final = ("info", "warning", "error")

Schema = dict[str, Any]

MODELS: Final = {
    name: each
    for name, each in {**vars(access), **vars(model)}.items()
    if isinstance(each, type) and issubclass(each, Settings)
}
"""The classes behind the sections of the schema, by their names."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |\n" for line in lines
    )


# ---------------------------------------------------------------------- the configuration

CONFIGURATION: Final = """\
# Configuration

One YAML file (1.1, as PyYAML's safe loader reads it), named by `-c`, `config.yaml` without. `sidecar check` tells every
mistake of it at once. An unknown or repeated key is a mistake; a key with nothing behind it is as if it was not there.
[config.example.yaml](../../config.example.yaml) has every key with a comment, and `sidecar schema` prints the JSON
Schema for your editor.

- A **duration** is `250ms`, `15s`, `5m`, `24h` or `7d`; a **size** `64KiB`, `10MB`, or a plain number of bytes.
- `${NAME}` is an environment variable, `${NAME:-default}` one with a default, `${file:PATH}` a file's text without its
  last newline (a mounted secret), `$$` a dollar. They stand in any value.
- A **template** is a text with `{placeholders}`; `{{` and `}}` are braces. In binding keys and queue names a
  placeholder is a parameter of the path, `{query.NAME}`, `{claims.NAME}` of the token or `{auth.NAME}` of
  [forward authentication](../how-to/forward-authentication.md); its value must be one word of a routing key. In `event`
  it is a field of the message or a parameter of the path.
- Relative file names begin at the configuration's folder.
- A route's keys may stand in `defaults` too, for all routes; mappings are merged key by key.

"""


def configuration() -> str:
    """Every key, section by section, from the JSON Schema."""
    return NOTE + CONFIGURATION + "\n".join(_sections("Config", ""))


@cache
def _section(name: str) -> Schema:
    """The schema of a mapping, by its model's name."""
    schema = json_schema()
    found = (schema["$defs"] | {"Config": schema})[name]
    mapping: Schema = next(each for each in (found, *found.get("anyOf", ())) if "properties" in each)
    return mapping | {"short": _type(found["anyOf"][0]) if "anyOf" in found else None}


def _sections(name: str, path: str) -> Iterator[str]:
    section, model = _section(name), MODELS[name]
    shared = set(RouteOptions.written()) if issubclass(model, RouteOptions) and model is not Route else set()
    keys = [key for key in section["properties"] if key not in shared]
    head = f"## {path}\n\n{section.get('description', '')}" if path else "## The top level"
    more = "\nBesides these, the keys of [a route](#routes) that say how it is served.\n" if shared else ""
    yield f"{head}\n\n" + _keys(model, section, keys) + more
    for key in keys:
        inner, listed = _reference(section["properties"][key]), section["properties"][key].get("type") == "array"
        if inner and inner != "RouteOptions":  # `defaults`: its keys are told as a route's
            yield from _sections(inner, f"{path}.{key}".removeprefix(".") + "[]" * listed)


def _keys(model: type[Settings], section: Schema, keys: Sequence[str]) -> str:
    properties, needed = section["properties"], section.get("required", ())
    own_first = sorted(keys, key=lambda key: model is Route and key in RouteOptions.written())
    rows = []
    for key in own_first:
        default = "*needed*" if key in needed else _default(model.written()[key], properties[key])
        rows.append((f"`{key}`", _type(properties[key]), default, properties[key].get("description", "")))
    return table(("key", "value", "default", "meaning"), rows)


def _reference(value: Schema) -> str | None:
    """The name of the section that a key holds, alone or in a list."""
    for each in (value, value.get("items", {}), *value.get("anyOf", ())):
        if "$ref" in each:
            return str(each["$ref"]).rpartition("/")[2]
    return None


def _type(value: Schema) -> str:
    if (name := _reference(value)) is not None:
        short = _section(name)["short"]
        kind = "list of mappings" if value.get("type") == "array" else "mapping"
        return f"{short}, or a {kind}" if short else kind
    choices = [each for each in value.get("anyOf", ()) if each.get("type") != "null" and not _interpolated(each)]
    if choices and "examples" not in value:
        return " or ".join(dict.fromkeys(map(_type, choices)))
    if "enum" in value:
        return " or ".join(f"`{each}`" for each in value["enum"] if isinstance(each, str))
    if "oneOf" in value:
        return "text, or a list of them"
    examples = value.get("examples", ())
    return next((word for example, word in _GRAMMARS.items() if example in examples), _plain(value))


_GRAMMARS: Final = {"15s": "duration", "2s-6s": "duration, or a range of them", "64KiB": "size"}


def _interpolated(value: Schema) -> bool:
    return str(value.get("pattern", "")) == "\\$\\{.+\\}"


def _plain(value: Schema) -> str:
    low, high = value.get("minimum"), value.get("maximum")
    limits = f" from {low}" * (low is not None) + f" to {high}" * (high is not None)
    names = {"string": "text", "integer": "whole number", "object": "mapping", "array": "list"}
    names["boolean"] = "`true` or `false`"
    return names.get(str(value.get("type")), "any") + limits


def _default(field: FieldInfo, value: Schema) -> str:
    default, kind = field.get_default(call_default_factory=True, validated_data={}), _type(value)
    if default is None or isinstance(default, Settings) or default in ([], {}):
        return "–"
    if isinstance(default, list):
        return ", ".join(f"`{_text(each)}`" for each in default)
    if "duration" in kind:
        return f"`{'-'.join(map(_seconds, default)) if isinstance(default, tuple) else _seconds(default)}`"
    if kind == "size":
        return f"`{_size(default)}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _text(value: object) -> object:
    """A default in a list, as it would be written."""
    if isinstance(value, Listener):
        return f"bind: {value.bind}"
    return value.get_secret_value() if isinstance(value, SecretStr) else value  # the broker's well-known guest


def _seconds(value: float) -> str:
    return f"{value * 1000:g}ms" if value < 1 else f"{value:g}s"


def _size(value: int) -> str:
    return f"{value // 1024**2}MiB" if value % 1024**2 == 0 else str(value)


# ---------------------------------------------------------------------- the commands

COMMANDS_HEAD: Final = """\
# Commands

`sidecar COMMAND`, or `python -m sidecar COMMAND`. Each has `--help`. On a terminal commands speak to people, in a pipe
to machines: tables become lines of JSON, the log becomes JSON. `NO_COLOR` is honoured.

Exit status: 0 for success, 2 for a configuration or a command line that cannot be used, 1 for any other failure.

"""


def commands() -> str:
    """Every command with its arguments and options."""
    return NOTE + COMMANDS_HEAD + "\n".join(_command(name) for name in COMMANDS if name not in HIDDEN)


def _command(name: str) -> str:
    command = load_command(name)
    words = " ".join(_argument(each) for each in command.params if each.param_type_name == "argument")
    text = inspect.cleandoc(command.help)
    rows = [(_names(each), _told(each)) for each in command.params if getattr(each, "help", None)]
    options = table(("", ""), rows) + "\n" if rows else ""
    usage = " ".join(filter(None, ("sidecar", name, "[OPTIONS]" * bool(rows), words)))
    return f"## sidecar {name}\n\n`{usage}`\n\n{text}\n\n{options}"


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper())
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{_argument(parameter)}`"
    return ", ".join(f"`{each}`" for each in parameter.opts)


def _told(parameter: Any) -> str:
    default = parameter.default
    shown = default is not None and default is not False and default != "" and not callable(default)
    return parameter.help + (f" Default: `{default}`." if shown else "")


# ---------------------------------------------------------------------- metrics and reasons

METRICS_HEAD: Final = """\
# Metrics and reasons

`GET /metrics` of the admin listener, for Prometheus: its text format, or OpenMetrics where that is asked for. A label
`route` holds the path as the configuration writes it, never a value of its parameters. Counters of reasons are there
from the start, at 0. Beside these stand prometheus-client's own of the process and of Python (`process_*`,
`python_info`). [Alerts](../how-to/alerts.md) shows what to watch.

"""


def metrics() -> str:
    """Every metric family, and every reason with its meaning."""
    counted = Metrics()
    counted.route("/example")
    counted.upstream_request(200)
    families = table(("name", "type", "labels", "meaning"), (_family(each) for each in counted.collect()))
    return NOTE + METRICS_HEAD + families + "".join(_reasons(*each) for each in REASONS)


REASONS: Final[tuple[tuple[str, str, type[Reason]], ...]] = (
    (
        "Why a stream closed",
        "`sidecar_streams_closed_total`, and `reason` in the log line `stream closed`",
        CloseReason,
    ),
    ("Why a stream was reset", "`sidecar_resets_total`, and the data of the event `sidecar.reset`", ResetReason),
    ("Why an event was dropped", "`sidecar_events_dropped_total`", DropReason),
)


def _family(family: Any) -> Sequence[str]:
    labels = sorted({name for sample in family.samples for name in sample.labels} - {"le"})
    name = family.name + ("_total" if family.type == "counter" else "")
    return f"`{name}`", family.type, ", ".join(f"`{each}`" for each in labels) or "–", family.documentation


def _reasons(title: str, where: str, reasons: type[Reason]) -> str:
    rows = ((f"`{each.value}`", each.meaning) for each in reasons)
    return f"\n## {title}\n\nIn {where}.\n\n" + table(("reason", "meaning"), rows)


# ---------------------------------------------------------------------- the log

LOG_HEAD: Final = """\
# The log

On standard error: on a terminal lines for people, otherwise a JSON object a line with `timestamp` (ISO 8601, UTC),
`level`, `event`, and the event's own keys. There is no line for each message, each connection or each heartbeat; there
is one for each stream that ends. Secrets are replaced by `***`, and tokens in a query are cut out.

"""


def logs() -> str:
    """Every line that the code can write, by the calls that write it."""
    package = HERE.parent / "sidecar"
    rows = sorted({row for file in package.rglob("*.py") for row in _lines(ast.parse(file.read_text()))})
    ordered = sorted(rows, key=lambda row: (LEVELS.index(row[1].split(" ")[0]), row[0]))
    return NOTE + LOG_HEAD + table(("event", "level", "keys"), ordered)


def _lines(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func, [ast.Constant(str() as event)], keywords) if level := _level(func):
                keys = ", ".join(f"`{each.arg}`" for each in keywords if each.arg != "exc_info")
                yield f"`{event}`", level, keys or "–"


def _level(called: ast.expr) -> str | None:
    """The level of a call of the log; None for any other call."""
    if isinstance(called, ast.Name) and called.id == "level":  # a level chosen a line above
        return "info or warning"
    if isinstance(called, ast.Attribute) and called.attr in (*LEVELS, "exception"):
        owner = called.value
        name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
        level = "error" if called.attr == "exception" else called.attr
        return level if name == "_log" else None
    return None


PAGES: Final[dict[str, Callable[[], str]]] = {
    "configuration.md": configuration,
    "commands.md": commands,
    "metrics.md": metrics,
    "log.md": logs,
}


def stale() -> list[str]:
    """The pages that are not what the code says now."""
    folder = HERE / "reference"
    return [
        name for name, page in PAGES.items() if not (folder / name).exists() or (folder / name).read_text() != page()
    ]


def main(arguments: Sequence[str]) -> int:
    """Write the pages; with ``--check`` only name those that are not current, and return 1 for any."""
    if list(arguments) == ["--check"]:
        for name in (old := stale()):
            print(f"docs/reference/{name} is not current: python docs/generate.py", file=sys.stderr)
        return 1 if old else 0
    for name, page in PAGES.items():
        (HERE / "reference" / name).write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
