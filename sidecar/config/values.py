"""The small grammars inside the configuration's values: durations, sizes, ranges, addresses, keys, templates.

Strategy: each grammar is one function from text to value that raises `GrammarError` with a fact and a way out, and one
annotated type made of it, which brings along its JSON Schema. From YAML every scalar arrives as text (see
`sidecar.config.tree`); a value that is already of the right type passes, so models can be built in Python too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo, WithJsonSchema

from sidecar.forwarded import Proxies
from sidecar.routing import PathPattern, PatternError
from sidecar.template import Template, TemplateError

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{kind}": base**power
    for power, prefixes in enumerate(("kK", "M", "G", "T"), start=1)
    for prefix in prefixes
    for kind, base in (("B", 1000), ("iB", 1024))
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]*)", re.ASCII)
_BIND = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})", re.ASCII)
_HTTP = re.compile(r"http://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?/?", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_HIDDEN = re.compile(r"://\S*@")

INTERPOLATED = r"\$\{.+\}"

MOST_WORKERS = 256
MOST_GATHER = 0.1
"""Seconds."""


class GrammarError(ValueError):
    """A value is no good: what is wrong, and what would be right. Neither holds a secret."""

    def __init__(self, fact: str, way_out: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.way_out = way_out


def shown(value: object) -> str:
    """A value as a mistake may quote it: as it stands in the file, short, and without a URL's user and password."""
    text = str(getattr(value, "source", value))
    text = _HIDDEN.sub("://…@", text)
    return (text if len(text) <= 60 else text[:59] + "…") or "an empty text"


def seconds(text: str) -> float:
    """``250ms``, ``15s``, ``5m``, ``24h``, ``7d`` in seconds."""
    if not (match := _DURATION.fullmatch(text)):
        raise GrammarError(f"{shown(text)} is no duration", "a number with ms, s, m, h or d, like 15s")
    return float(match[1]) * _SECONDS[match[2]]


def octets(text: str) -> int:
    """``64KiB``, ``10MB`` or a plain number in bytes."""
    match = _SIZE.fullmatch(text)
    if not match or match[2] not in _UNITS:
        raise GrammarError(
            f"{shown(text)} is no size", "bytes, or a number with KiB, MiB, GiB, kB, MB or GB, like 64KiB"
        )
    return int(float(match[1]) * _UNITS[match[2]]) if "." in match[1] else int(match[1]) * _UNITS[match[2]]


def seconds_range(text: str) -> tuple[float, float]:
    """``2s-6s`` as two numbers of seconds; one duration alone is both ends."""
    low, dash, high = text.partition("-")
    ends = (seconds(low.strip()), seconds(high.strip()) if dash else seconds(low.strip()))
    if ends[0] > ends[1]:
        raise GrammarError(f"{shown(text)} begins above its end", f"write {high.strip()}-{low.strip()}")
    return ends


def worker_count(text: str) -> int | str:
    """``auto``, or how many processes."""
    if text == "auto":
        return text
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= MOST_WORKERS:
        raise GrammarError(f"{shown(text)} is no number of processes", f"1 to {MOST_WORKERS}, or auto")
    return int(text)


def bind_address(text: str) -> str:
    """``host:port``, ``[v6]:port`` or ``unix:/path``, checked and unchanged."""
    if text.startswith("unix:"):
        if not text.startswith("unix:/") or text.endswith("/"):
            raise GrammarError(
                f"{shown(text)} is no socket's path", "unix: and an absolute path, like unix:/run/sidecar.sock"
            )
        return text
    match = _BIND.fullmatch(text)
    if not match or int(match["port"]) > 65535:
        raise GrammarError(
            f"{shown(text)} is no address", "host:port, [v6 address]:port or unix:/path, like 0.0.0.0:8080"
        )
    return text


def broker_url(text: str) -> str:
    """An ``amqp``, ``amqps`` or ``memory`` URL, checked and unchanged. Never quoted: it holds a password."""
    scheme = text.partition("://")[0].lower()
    if scheme not in ("amqp", "amqps", "memory") or "://" not in text:
        raise GrammarError(
            "no broker's URL", "amqp://, amqps:// or memory://, like amqp://user:password@host:5672/vhost"
        )
    try:
        parts = urlsplit(text)
        complete = bool(parts.hostname) and parts.port != 0
    except ValueError:
        complete = False
    if scheme == "memory" and text != "memory://":
        raise GrammarError("the embedded broker has no address", "write memory://")
    if scheme != "memory" and not complete:
        raise GrammarError("a URL without a usable host and port", f"{scheme}://user:password@host:5672/vhost")
    return text


def upstream_url(text: str) -> str:
    """``http://host:port`` or ``unix:/path``, checked and unchanged."""
    if text.startswith("unix:"):
        return bind_address(text)
    match = _HTTP.fullmatch(text)
    if not match or int(match["port"] or 80) not in range(1, 65536):
        way_out = "http://host:port without a path, like http://127.0.0.1:3000, or unix:/path"
        raise GrammarError(f"{shown(text)} is no application's address", way_out)
    return text


def trusted_proxy(text: str) -> str:
    """An address, a network, or ``unix``; checked and unchanged."""
    try:
        Proxies.parse([text])
    except ValueError:
        way_out = "an address, a network without host bits like 10.0.0.0/8, or unix"
        raise GrammarError(f"{shown(text)} is no network", way_out) from None
    return text


def template(text: str) -> str:
    """A template (`sidecar.template`), checked and unchanged."""
    try:
        Template.parse(text)
    except TemplateError as error:
        raise GrammarError(
            f"character {error.offset + 1}: {error.fact}", "placeholders are {name}; {{ and }} are braces"
        ) from None
    return text


def path_pattern(text: str) -> str:
    """A route's path (`sidecar.routing`), checked and unchanged."""
    try:
        PathPattern.parse(text)
    except PatternError as error:
        raise GrammarError(f"character {error.offset + 1}: {error.fact}", "a path is like /events/{name}") from None
    return text


def binding_key(text: str) -> str:
    """A binding key (AMQP 0-9-1 §3.1.3.3) with placeholders, checked and unchanged."""
    # A placeholder gives at least one byte, so what stands around them may not fill a short string by itself.
    plain = Template.parse(template(text)).render(lambda _name: "x")
    _short_string(plain, "a binding key")
    if any(len(word) > 1 and ("*" in word or "#" in word) for word in plain.split(".")):
        raise GrammarError(f"{shown(text)} mixes a wildcard with text", "* and # are words of their own, like a.*.b")
    return text


def filter_value(text: str) -> str:
    """A value that a stream's publishers give their messages, with placeholders; checked and unchanged."""
    plain = Template.parse(template(text)).render(lambda _name: "x")
    if not plain:
        raise GrammarError("an empty filter value", "RabbitMQ takes it for none: leave it out")
    _short_string(plain, "a filter value")
    return text


def exchange_name(text: str) -> str:
    """An exchange that can be bound; no placeholders."""
    if not text:
        raise GrammarError("the default exchange cannot be bound", "name an exchange")
    if "{" in text:
        raise GrammarError("an exchange's name takes no placeholders", "put them into binding_key")
    _short_string(text, "an exchange's name")
    return text


def queue_name(text: str) -> str:
    """The name of a stream; no placeholders."""
    if "{" in text:
        raise GrammarError("a stream's name takes no placeholders", "put them into binding_key")
    return queue_template(text)


def queue_template(text: str) -> str:
    """A queue's name with placeholders, checked and unchanged."""
    if not text:
        raise GrammarError("a queue has a name", "write it")
    if text.startswith("amq."):
        raise GrammarError(f"{shown(text)} is the broker's to name", "choose a name without amq. in front")
    _short_string(Template.parse(template(text)).render(lambda _name: "x"), "a queue's name")
    return text


def _short_string(text: str, what: str) -> None:
    """AMQP 0-9-1 §4.2.5.3: short strings carry up to 255 octets. Control characters are nobody's wish."""
    if _CONTROL.search(text):
        raise GrammarError(f"{what} with a control character", "leave it out")
    if len(text.encode("utf-8", "surrogatepass")) > 255:
        raise GrammarError(f"{what} of more than 255 bytes", "AMQP allows no more")


def _file(name: object, info: ValidationInfo) -> Path:
    """An existing file; a relative path is taken from the configuration's folder."""
    if not isinstance(name, str | Path):
        raise GrammarError("must be a file's name")
    folder = Path((info.context or {}).get("folder", ""))
    path = folder / str(name)
    if not path.is_file():
        raise GrammarError(f"there is no file {shown(name)}", f"relative paths begin at {folder.resolve()}")
    return path


def _table(value: object) -> object:
    """The plain values of a free mapping (an AMQP table), each typed as YAML 1.1 does."""
    if isinstance(value, Mapping):
        return {str(key): _table(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_table(item) for item in value]
    return _field(getattr(value, "value", value))


def _field(value: object) -> object:
    if isinstance(value, date) and not isinstance(value, datetime):
        raise GrammarError("a day, where AMQP knows points in time only", "quote it, or add the time")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise GrammarError("a number of more than 64 bits", "quote it")
    return value


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _read(parse: Any) -> BeforeValidator:
    """Parse what is text; leave alone what has its type already."""

    def read(value: object) -> object:
        if isinstance(value, list | dict):
            form = "list" if isinstance(value, list) else "mapping"
            raise GrammarError(f"must be one value, not a {form}", "quote a text that begins with { or [")
        return parse(value) if isinstance(value, str) else value

    return BeforeValidator(read)


def positive(value: float) -> float:
    """The number, unless it is zero or below."""
    if value <= 0:
        raise GrammarError("must be above zero")
    return value


def _heartbeat(value: float) -> float:
    if not 1 <= value <= 65535 or value % 1:
        raise GrammarError("AMQP counts heartbeats in whole seconds from 1s to 65535s")
    return value


def _gather(value: float) -> float:
    if value > MOST_GATHER:
        raise GrammarError(f"messages wait for each other {MOST_GATHER * 1000:g}ms at most (0s: not at all)")
    return value


def _text_schema(*, pattern: str | None = None, **more: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **({"pattern": pattern} if pattern else {}), **more})


DURATION_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": rf"^\d+(\.\d+)?(ms|s|m|h|d)$|{INTERPOLATED}",
    "examples": ["250ms", "15s", "24h"],
}
_DURATION_SCHEMA = WithJsonSchema(DURATION_SCHEMA)
_ONE_OR_MORE = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}

Duration = Annotated[float, _read(seconds), _DURATION_SCHEMA]
Period = Annotated[float, AfterValidator(positive), _read(seconds), _DURATION_SCHEMA]
BrokerHeartbeat = Annotated[float, AfterValidator(_heartbeat), _read(seconds), _DURATION_SCHEMA]
Gather = Annotated[float, AfterValidator(_gather), _read(seconds), _DURATION_SCHEMA]
DurationRange = Annotated[
    tuple[float, float],
    _read(seconds_range),
    _text_schema(pattern=rf"^[\d.]+(ms|s|m|h|d)( ?- ?[\d.]+(ms|s|m|h|d))?$|{INTERPOLATED}", examples=["2s-6s"]),
]
Size = Annotated[
    int,
    AfterValidator(positive),
    _read(octets),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": rf"^\d+(\.\d+)? ?([kK]|[KMGT]i|[MGT])?B?$|{INTERPOLATED}"},
            ],
            "examples": ["64KiB", "10MB"],
        }
    ),
]
Workers = Annotated[
    int | Literal["auto"],
    _read(worker_count),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MOST_WORKERS},
                {"type": "string", "pattern": rf"^auto$|^\d+$|{INTERPOLATED}"},
            ],
        }
    ),
]
Bind = Annotated[str, _read(bind_address), _text_schema(examples=["0.0.0.0:8080", "unix:/run/sidecar.sock"])]
UpstreamUrl = Annotated[
    str, _read(upstream_url), _text_schema(examples=["http://127.0.0.1:3000", "unix:/run/app.sock"])
]
TrustedProxies = Annotated[
    list[Annotated[str, _read(trusted_proxy)]], BeforeValidator(_listed), WithJsonSchema(_ONE_OR_MORE)
]
FileName = Annotated[Path, BeforeValidator(_file), _text_schema()]
PathText = Annotated[str, _read(path_pattern), _text_schema(examples=["/events/orders/{order}"])]
ExchangeName = Annotated[str, _read(exchange_name)]
QueueName = Annotated[str, _read(queue_name)]
QueueTemplate = Annotated[str, _read(queue_template)]
TemplateText = Annotated[str, _read(template)]
BindingKeys = Annotated[
    list[Annotated[str, _read(binding_key)]], BeforeValidator(_listed), WithJsonSchema(_ONE_OR_MORE)
]
FilterValues = Annotated[
    list[Annotated[str, _read(filter_value)]], BeforeValidator(_listed), WithJsonSchema(_ONE_OR_MORE)
]
BrokerUrls = Annotated[
    list[Annotated[SecretStr, _read(broker_url)]],
    BeforeValidator(_listed),
    WithJsonSchema(_ONE_OR_MORE),
]
Table = Annotated[dict[str, Annotated[Any, BeforeValidator(_table)]], WithJsonSchema({"type": "object"})]
