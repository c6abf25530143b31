"""Who may read a route (SPEC §6): tokens, the application's own word, origins, limits.

Strategy: as in `sidecar.config.model`, a key is a field. What concerns two keys of one mapping is checked at the later
of them, so that the mistake names the key that is to be changed. What concerns the rest of the route (which
placeholders it uses, which parameters its path has) stands in `sidecar.config.access_checks`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from sidecar.access import ALGORITHMS, TokenSource, Wanted
from sidecar.config.keys import fitting, read_public_key
from sidecar.config.settings import Settings
from sidecar.config.values import Duration, FileName, GrammarError, Period, Table, TemplateText, shown
from sidecar.template import Template, TemplateError

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token, RFC 9110 §5.6.2
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([1-9]\d{0,4}))?")
_SOCKET = re.compile(r"http://unix:(?P<socket>/[^:]+):(?P<path>/\S*)")
_ONE_OR_MORE = {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
_DEFAULT_PORTS = {"http": "80", "https": "443"}

# What the connection to the application is made of, and what says who asked (X-Forwarded-*): not the client's to set.
_OWN_FIELDS = re.compile(
    r"host|connection|content-length|transfer-encoding|te|trailer|upgrade|keep-alive|proxy-.*|x-forwarded-.*|forwarded"
)


def http_url(text: str) -> str:
    """An ``http`` or ``https`` URL without user and password, checked and unchanged."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not parts.fragment
    except ValueError:
        good = False
    if not good or any(character.isspace() for character in text):
        raise GrammarError(f"{shown(text)} is no URL of http or https", "like https://host/path")
    if parts.username is not None or parts.password is not None:
        raise GrammarError("a URL with a user or a password", "leave them out")
    return text


def application_url(text: str) -> str:
    """An ``http_url``, or ``http://unix:/run/app.sock:/path`` for a unix socket (as nginx writes it)."""
    if text.startswith("http://unix:") and not _SOCKET.fullmatch(text):
        raise GrammarError(f"{shown(text)} names no socket and path", "like http://unix:/run/app.sock:/may-read")
    return text if _SOCKET.fullmatch(text) else http_url(text)


def unix_socket(url: str) -> tuple[str, str] | None:
    """The socket's path and the request's path of an ``application_url`` that names a unix socket."""
    match = _SOCKET.fullmatch(url)
    return (match["socket"], match["path"]) if match else None


def origin(text: str) -> str:
    """An origin exactly as browsers write it (RFC 6454 §6.2), or ``*``; checked and unchanged."""
    match = _ORIGIN.fullmatch(text)
    if match and match[3] == _DEFAULT_PORTS[match[1]]:
        raise GrammarError(f"{shown(text)} is never sent so by a browser", f"leave out :{match[3]}")
    if not match and text != "*":
        raise GrammarError(
            f"{shown(text)} is no origin", "scheme://host or scheme://host:port in lower case, without a last slash"
        )
    return text


def token_source(text: str) -> str:
    """``header``, ``cookie:NAME`` or ``query:NAME``, checked and unchanged."""
    kind, colon, name = text.partition(":")
    if text == "header" or (kind in ("cookie", "query") and colon and _FIELD_NAME.fullmatch(name)):
        return text
    raise GrammarError(f"{shown(text)} is no place for a token", "header, cookie:NAME or query:NAME")


def field_name(text: str) -> str:
    """A header's name, in lower case."""
    if not _FIELD_NAME.fullmatch(text):
        raise GrammarError(f"{shown(text)} is no header's name", "like x-user-id")
    return text.lower()


def passed_field(text: str) -> str:
    """A header of the client's that may be shown to the application, in lower case."""
    name = field_name(text)
    if _OWN_FIELDS.fullmatch(name):
        raise GrammarError(f"{shown(text)} is not passed on", "leave it out: sidecar sets what the application needs")
    return name


def word(text: str) -> str:
    """A name that a placeholder can have, checked and unchanged."""
    if not _WORD.fullmatch(text):
        raise GrammarError(f"{shown(text)} can be no placeholder's name", "letters, digits, _ and -, like user")
    return text


def algorithm(text: str) -> str:
    """A signature algorithm (`sidecar.access.ALGORITHMS`), checked and unchanged."""
    if text.lower() == "none":
        raise GrammarError("none means tokens without a signature, which anybody can write", "name an algorithm")
    if text not in ALGORITHMS:
        raise GrammarError(f"{shown(text)} is no algorithm", ", ".join(ALGORITHMS))
    return text


def _secret(value: SecretStr) -> SecretStr:
    if "-----BEGIN " in value.get_secret_value() or value.get_secret_value().startswith(("ssh-", "ecdsa-")):
        raise GrammarError("a public key is no secret: whoever knows it could sign", "use pem: and a file's path")
    return value


def _each_once(texts: list[str]) -> list[str]:
    for text in texts:
        if texts.count(text) > 1:
            raise GrammarError(f"{shown(text)} stands twice", "once is enough")
    return texts


HttpUrl = Annotated[str, AfterValidator(http_url)]
ApplicationUrl = Annotated[str, AfterValidator(application_url)]
Word = Annotated[str, AfterValidator(word)]
Texts = Annotated[list[str], BeforeValidator(lambda value: value if isinstance(value, list) else [value])]


class Keys(Settings):
    """The keys that tokens are verified with: exactly one of url, pem, secret."""

    url: HttpUrl | None = None
    """A JSON Web Key Set (RFC 7517), fetched and kept fresh."""
    pem: FileName | None = None
    """A file with a public key or a certificate (PEM)."""
    secret: Annotated[SecretStr, AfterValidator(_secret)] | None = None
    """The shared secret of HMAC, as text."""

    @field_validator("pem")
    @classmethod
    def _is_public_key(cls, value: Any) -> Any:
        if value is not None:
            read_public_key(value)
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(key is not None for key in (self.url, self.pem, self.secret)) != 1:
            raise GrammarError("keys need exactly one of url, pem and secret", "keep the one that is meant")
        return self

    def unfit(self, algorithm: str) -> str | None:
        """Why these keys cannot verify this algorithm's signatures; None when they can."""
        if self.secret is not None:
            size = len(self.secret.get_secret_value().encode())
            if ALGORITHMS[algorithm].kty != "oct":
                return f"{algorithm} needs a public key, and there is a secret"
            if size < ALGORITHMS[algorithm].secret:
                return f"{algorithm} needs a secret of {ALGORITHMS[algorithm].secret} bytes, and this one has {size}"
            return None
        if ALGORITHMS[algorithm].kty == "oct":
            # RFC 8725 §2.1: whoever has the public key could sign with it as if it were the secret.
            return f"{algorithm} needs a secret, and public keys are none"
        if self.pem is not None and algorithm not in fitting(read_public_key(self.pem)):
            return f"{algorithm} does not go with the key in {self.pem.name}"
        return None


class Jwt(Settings):
    """JSON Web Tokens (RFC 7519), signed."""

    keys: Keys
    """What they are verified with."""
    algorithms: Annotated[list[Annotated[str, AfterValidator(algorithm)]], Field(min_length=1)]
    """The signature algorithms that count; there is no default, and never none."""
    issuer: str | None = None
    """What iss must be; absent: not looked at."""
    audience: Annotated[Texts, Field(min_length=1), WithJsonSchema(_ONE_OR_MORE)] | None = None
    """What aud must be or hold; of a list, one is enough; absent: not looked at."""
    sources: Annotated[
        list[Annotated[str, AfterValidator(token_source)]],
        AfterValidator(_each_once),
    ] = Field(default_factory=lambda: ["header"], min_length=1, alias="from")
    """Where the token stands, in the order of looking: header (Authorization: Bearer), cookie:NAME, query:NAME."""
    require: Table = Field(default_factory=dict)
    """Claims and what they must say; a text may hold {parameter} of the path and {query.NAME}."""
    leeway: Duration = 30.0
    """How far the issuer's clock may differ from ours."""

    @field_validator("algorithms")
    @classmethod
    def _go_with_the_keys(cls, value: list[str], info: ValidationInfo) -> list[str]:
        keys = info.data.get("keys")
        for name in value if isinstance(keys, Keys) else []:
            if fact := keys.unfit(name):  # type: ignore[union-attr]
                raise GrammarError(fact, "RFC 7518 §3 says which key goes with which algorithm")
        return value

    @field_validator("require")
    @classmethod
    def _are_wanted(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, wanted in value.items():
            if not isinstance(wanted, (str, int)) or not str(wanted).strip():
                raise GrammarError(f"{shown(name)} is required to be what no claim can be", "a text, a number, true")
            if isinstance(wanted, str):
                _template(wanted)
        return value

    @property
    def token_sources(self) -> tuple[TokenSource, ...]:
        """Where to look, for `sidecar.access.find_token`."""
        pairs = (text.partition(":") for text in self.sources)
        return tuple(TokenSource(cast(Literal["header", "cookie", "query"], kind), name) for kind, _, name in pairs)

    @property
    def required(self) -> Mapping[str, Wanted]:
        """What claims must say; texts are templates."""
        return self.require

    @property
    def secret_parameters(self) -> frozenset[str]:
        """The query parameters that no log may show."""
        return frozenset(source.name for source in self.token_sources if source.kind == "query")


class Forward(Settings):
    """Asking the application next door: a GET whose answer decides."""

    url: ApplicationUrl
    """Where to ask; http://unix:/run/app.sock:/path for a unix socket."""
    passed: Annotated[list[Annotated[str, AfterValidator(passed_field)]], AfterValidator(_each_once)] = Field(
        default_factory=lambda: ["authorization", "cookie"], alias="pass"
    )
    """The client's headers to show it, besides X-Forwarded-Method, -Uri, -Host, -Proto and -For."""
    take: dict[Word, Annotated[str, AfterValidator(field_name)]] = Field(default_factory=dict)
    """Names and the answer's headers they stand for: {user: x-user-id} makes {auth.user}."""
    within: Period = 2.0
    """How long the answer may take."""


class Cors(Settings):
    """Scripts of which other origins may read (the fetch standard's CORS)."""

    origins: Annotated[list[Annotated[str, AfterValidator(origin)]], Field(min_length=1), AfterValidator(_each_once)]
    """The origins, each exactly; "*" alone for everybody."""
    credentials: bool = False
    """Whether cookies count; never with "*"."""

    @field_validator("credentials")
    @classmethod
    def _never_for_everybody(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "*" in info.data.get("origins", ()):
            raise GrammarError("credentials for everybody's scripts", 'name the origins instead of "*"')
        return value

    @field_validator("origins")
    @classmethod
    def _everybody_is_alone(cls, value: list[str]) -> list[str]:
        if "*" in value and len(value) > 1:
            raise GrammarError('"*" beside other origins', "keep the one that is meant")
        return value


class Limit(Settings):
    """How many streams at once; beyond it is a full house."""

    streams: Annotated[int, Field(ge=1)] | None = None
    """Of the whole route, in this process."""
    per_client: Annotated[int, Field(ge=1)] | None = None
    """Of one client."""
    client: TemplateText | None = None
    """Who one client is: {claims.NAME}, {auth.NAME}; absent: the address, IPv6 by its /64."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.streams is None and self.per_client is None:
            raise GrammarError("a limit of nothing", "streams, per_client or both")
        if self.client is not None and self.per_client is None:
            raise GrammarError("client does nothing without per_client", "add per_client, or leave out client")
        return self


class Access(Settings):
    """Who may read; every part that is given must agree."""

    jwt: Jwt | None = None
    """A token."""
    forward: Forward | None = None
    """The application's word."""
    cors: Cors | None = None
    """Other origins' scripts."""
    limit: Limit | None = None
    """How many at once."""


def _template(text: str) -> Template:
    try:
        return Template.parse(text)
    except TemplateError as error:
        raise GrammarError(f"{error.fact} at character {error.offset + 1}", "placeholders are {name}") from None
