"""What several keys must be together: parameters and paths, routes among each other, addresses, certificates.

Strategy: each check is a generator over the tree of the file (`sidecar.config.tree`), so that it runs whatever else is
wrong and its findings have a location. A check passes over what is not of the form it knows: the model has told of that
already. `CHECKS` are over the whole document, `ROUTE_CHECKS` over one route with its defaults merged in.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from sidecar.config.access_checks import access_check
from sidecar.config.model import DECIDED, EVENT_FIELDS, SOURCES, Declare, Reconnect
from sidecar.config.tree import Finding, Location, Mapping, Place, Scalar, Tree, scalars
from sidecar.config.values import GrammarError, bind_address, seconds, shown, template
from sidecar.routing import PathPattern, PatternError
from sidecar.template import Template, TemplateError

_X_MATCH = ("all", "any", "all-with-x", "any-with-x")
_PAIR = ("certificate", "key")
_WILDCARD_HOSTS = ("0.0.0.0", "[::]")


def cross_check(root: Mapping, folder: Path) -> Iterator[Finding]:
    """Everything that is wrong between keys; files are taken from `folder`."""
    for check in CHECKS:
        yield from check(root)
    yield from _certificates(root, folder)
    for index, route in enumerate(_list(root.get("routes"))):
        if isinstance(route, Mapping):
            for route_check in ROUTE_CHECKS:
                for finding in route_check(route):
                    yield finding._replace(at=("routes", index, *finding.at))


def _offers(root: Mapping) -> Iterator[Finding]:
    """What the application may give out is checked as routes are; who may read it is not asked of a token."""
    for index, offer in enumerate(_list(_mapping(root.get("upstream")).get("subscribe"))):
        for check in OFFER_CHECKS if isinstance(offer, Mapping) else ():
            for finding in check(_mapping(offer)):
                yield finding._replace(at=("upstream", "subscribe", index, *finding.at))


def _literal(offer: Mapping) -> Iterator[Finding]:
    for key in sorted(DECIDED - {"binding_key"}):
        if offer.get(key) is not None:
            yield Finding((key,), "means nothing here: the application decides", "leave it out")
    for at, text in scalars(offer.get("binding_key"), ("binding_key",)):
        if _names(text):
            yield Finding(at, "a placeholder without a path", "leave it out: the application says the keys")


def _list(tree: Tree) -> list[Tree]:
    return tree if isinstance(tree, list) else []


def _mapping(tree: Tree) -> Mapping:
    return tree if isinstance(tree, Mapping) else Mapping(Place(1, 1))


def _is(grammar: Callable[[str], object], text: str) -> bool:
    """Whether a text follows a grammar; that it does not, the model tells."""
    with suppress(GrammarError):
        grammar(text)
        return True
    return False


def _broker_urls(root: Mapping) -> Iterator[Finding]:
    broker = _mapping(root.get("broker"))
    schemes = [(at, url.partition("://")[0].lower()) for at, url in scalars(broker.get("url"), ("broker", "url"))]
    if len(schemes) > 1:
        for at, scheme in schemes:
            if scheme == "memory":
                yield Finding(at, "the embedded broker stands alone", "memory:// is no place to fall back to")
    if broker.get("tls") is not None and not any(scheme == "amqps" for _, scheme in schemes):
        yield Finding(("broker", "tls"), "TLS without an amqps URL", "write amqps:// in broker.url, or leave tls out")


def _workers(root: Mapping) -> Iterator[Finding]:
    urls = [url for _, url in scalars(_mapping(root.get("broker")).get("url"), ())]
    if "memory://" in urls and str(root.get("workers") or 1) != "1":
        fact = "the embedded broker is in one process, and the others would hear nothing"
        yield Finding(("workers",), fact, "leave it out, or name a broker in broker.url")


def _reconnect(root: Mapping) -> Iterator[Finding]:
    given = _mapping(_mapping(root.get("broker")).get("reconnect"))
    ends = Reconnect().model_dump()
    with suppress(GrammarError):
        ends |= {key: seconds(text) for key, text in given.items() if isinstance(text, Scalar)}
        if ends["min"] > ends["max"]:
            key, other = ("min", "max") if "min" in given else ("max", "min")
            fact = f"{shown(given[key])} is {'above' if key == 'min' else 'below'} reconnect.{other}"
            yield Finding(("broker", "reconnect", key), fact, f"reconnect.{other} is {ends[other]:g}s")


def _addresses(root: Mapping) -> Iterator[Finding]:
    listeners = _list(root.get("listen"))
    found: list[tuple[Location, Tree]] = [
        (("listen", n, "bind"), _mapping(listener).get("bind")) for n, listener in enumerate(listeners)
    ]
    found.append((("admin", "bind"), _mapping(root.get("admin")).get("bind")))
    taken: list[str] = []
    for at, bind in found:
        if isinstance(bind, Scalar) and _is(bind_address, bind):
            if other := next((other for other in taken if _collide(bind, other)), None):
                yield Finding(at, f"{shown(bind)} is taken", f"another listener has {shown(other)}")
            taken.append(bind)


def _collide(one: str, other: str) -> bool:
    """Whether the second of two binds would fail; a socket's path counts as a port of the host ``unix``."""
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    if port != other_port or port == "0":
        return False
    one_family = ("[" in host) == ("[" in other_host)
    return host == other_host or (one_family and not {host, other_host}.isdisjoint(_WILDCARD_HOSTS))


def _shapes(root: Mapping) -> Iterator[Finding]:
    first: dict[object, int] = {}
    for index, route in enumerate(_list(root.get("routes"))):
        pattern = _pattern(_mapping(route))
        if pattern and first.setdefault(pattern.shape, index) != index:
            fact = f"takes the same paths as routes[{first[pattern.shape]}]"
            yield Finding(("routes", index, "path"), fact, "give one of them another literal segment, or remove it")


def _declarations(root: Mapping) -> Iterator[Finding]:
    first: dict[str, tuple[int, Declare]] = {}
    for index, route in enumerate(map(_mapping, _list(root.get("routes")))):
        exchange, declare = route.get("exchange"), route.get("declare")
        with suppress(ValueError):
            if isinstance(exchange, Scalar) and _mapping(declare).get("type") is not None:
                before, known = first.setdefault(exchange, (index, Declare.model_validate(declare)))
                if known != Declare.model_validate(declare):
                    fact = f"the exchange is declared differently in routes[{before}]"
                    yield Finding(("routes", index, "declare"), fact, "an exchange has one form")


def _certificates(root: Mapping, folder: Path) -> Iterator[Finding]:
    for index, listener in enumerate(map(_mapping, _list(root.get("listen")))):
        yield from _pair(("listen", index, "tls"), _mapping(listener.get("tls")), folder)
    tls = _mapping(_mapping(root.get("broker")).get("tls"))
    if (tls.get("certificate") is None) != (tls.get("key") is None):
        yield Finding(("broker", "tls"), "a certificate and its key go together", "name both or none")
    yield from _pair(("broker", "tls"), tls, folder)
    if isinstance(ca := tls.get("ca"), Scalar) and (folder / ca).is_file():
        yield from _authorities(("broker", "tls", "ca"), folder / ca)


def _pair(at: Location, tls: Mapping, folder: Path) -> Iterator[Finding]:
    certificate, key = (folder / name if isinstance(name := tls.get(key), Scalar) else None for key in _PAIR)
    if certificate and key and certificate.is_file() and key.is_file():
        try:
            # A password is given because without one OpenSSL would ask the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, OSError) as error:
            apart = getattr(error, "reason", None) == "KEY_VALUES_MISMATCH"
            fact = "the key is another certificate's" if apart else "no certificate and key to be read"
            yield Finding(at, fact, "two PEM files that belong together, the key without a password")


def _authorities(at: Location, ca: Path) -> Iterator[Finding]:
    try:
        ssl.create_default_context(cafile=str(ca))
    except (ssl.SSLError, OSError):
        yield Finding(at, "no certificates in it", "a PEM file")


def _pattern(route: Mapping) -> PathPattern | None:
    path = route.get("path")
    with suppress(PatternError):
        return PathPattern.parse(path) if isinstance(path, Scalar) else None
    return None


def _names(text: str) -> tuple[str, ...]:
    with suppress(TemplateError):
        return Template.parse(text).names
    return ()


def _parameters(route: Mapping) -> Iterator[Finding]:
    """Placeholders of binding keys, binding headers and filters are parameters of the path, or of the query."""
    pattern = _pattern(route)
    texts = list(scalars(route.get("binding_key"), ("binding_key",)))
    texts += scalars(route.get("queue"), ("queue",))
    texts += scalars(route.get("stream_filter"), ("stream_filter",))
    for index, bound in enumerate(_list(_mapping(route.get("declare")).get("bind"))):
        texts += scalars(_mapping(bound).get("binding_key"), ("declare", "bind", index, "binding_key"))
    for key in ("binding_headers", "where"):
        texts += [((key, name), text) for name, text in _mapping(route.get(key)).items() if isinstance(text, Scalar)]
    for at, text in texts if pattern else ():
        for name in _names(text):
            if pattern and name not in pattern.parameters and not name.startswith(("query.", "claims.", "auth.")):
                yield Finding(at, f"unknown parameter {{{name}}}", _known(pattern))


def _known(pattern: PathPattern) -> str:
    return f"the path has: {', '.join(pattern.parameters)}" if pattern.parameters else "the path has none"


def _event(route: Mapping) -> Iterator[Finding]:
    event, pattern = route.get("event"), _pattern(route)
    for name in _names(event) if isinstance(event, Scalar) and pattern else ():
        parameters = pattern.parameters if pattern else ()
        if name in EVENT_FIELDS and name in parameters:
            yield Finding(("event",), f"{{{name}}} is both the message's and the path's", "rename the path's parameter")
        elif name not in (*EVENT_FIELDS, *parameters) and not name.startswith("headers."):
            known = ", ".join((*EVENT_FIELDS, "headers.NAME", *parameters))
            yield Finding(("event",), f"unknown name {{{name}}}", f"known here: {known}")


def _where(route: Mapping) -> Iterator[Finding]:
    for name in _mapping(route.get("where")):
        if name not in EVENT_FIELDS and not (name.startswith("headers.") and name != "headers."):
            known = ", ".join((*EVENT_FIELDS, "headers.NAME"))
            yield Finding(("where", name), "no field of a message", f"known here: {known}", on_key=True)


def _binding_headers(route: Mapping) -> Iterator[Finding]:
    headers = _mapping(route.get("binding_headers"))
    for name, value in headers.items():
        if isinstance(value, Scalar) and isinstance(value.value, str):
            if name == "x-match" and value not in _X_MATCH:
                yield Finding(("binding_headers", name), f"{shown(value)} is no x-match", ", ".join(_X_MATCH))
            try:
                template(value)
            except GrammarError as error:
                yield Finding(("binding_headers", name), error.fact, error.way_out)


def _source(route: Mapping) -> Iterator[Finding]:
    given = [key for key in SOURCES if route.get(key) is not None]
    misspelt = [key for key in route if key not in SOURCES and get_close_matches(str(key), SOURCES, n=1)]
    if not given and not misspelt:
        yield Finding((), "a route without a source", f"name one of {', '.join(SOURCES)}")
    for key in given[1:]:
        yield Finding((key,), f"a second source beside {given[0]}", "a route has exactly one")
    for key, needs in _NEEDS.items():
        if given and route.get(key) is not None and given[0] not in needs:
            fact = f"means nothing on {'an' if given[0] == 'exchange' else 'a'} {given[0]}"
            yield Finding((key,), fact, f"it goes with {' or '.join(needs)}")


_NEEDS = {
    "binding_headers": ("exchange",),
    "declare": ("exchange", "queue"),
    "replay": ("exchange",),
    "stream_filter": ("stream",),
}


def _declare(route: Mapping) -> Iterator[Finding]:
    declare = route.get("declare")
    if not isinstance(declare, Mapping):
        return
    on_queue = route.get("queue") is not None
    for key in _QUEUE_ONLY if not on_queue else _EXCHANGE_ONLY:
        if declare.get(key) is not None:
            kind = "a queue" if on_queue else "an exchange"
            yield Finding(("declare", key), f"means nothing for {kind}", "leave it out", on_key=True)
    if not on_queue and declare.get("type") is None:
        yield Finding(("declare",), "type is missing", "direct, topic, fanout or headers")


_QUEUE_ONLY = ("expires", "max_length", "bind")
_EXCHANGE_ONLY = ("type", "internal", "auto_delete")


def _replay(route: Mapping) -> Iterator[Finding]:
    replay = route.get("replay")
    full = _mapping(route.get("backlog")).get("when_full")
    if full == "replay" and replay is None and route.get("stream") is None:
        yield Finding(("backlog", "when_full"), "a route without replay", "disconnect or drop_oldest; or add replay")
    if not isinstance(replay, Mapping):
        return
    if (replay.get("stream") is None) == (replay.get("memory") is None):
        yield Finding(("replay",), "exactly one of stream and memory", "stream: NAME, or memory: N")
    elif replay.get("stream") is None:
        for key in ("max_age", "max_bytes", "segment_bytes"):
            if replay.get(key) is not None:
                yield Finding(("replay", key), "means nothing for a memory", "leave it out", on_key=True)


def _streams(root: Mapping) -> Iterator[Finding]:
    """One stream has one retention, whichever routes share it."""
    first: dict[str, tuple[int, tuple[object, ...]]] = {}
    for index, route in enumerate(map(_mapping, _list(root.get("routes")))):
        replay = _mapping(route.get("replay"))
        name = replay.get("stream")
        if isinstance(name, Scalar):
            limits = tuple(str(replay.get(key)) for key in ("max_age", "max_bytes", "segment_bytes"))
            before, known = first.setdefault(name, (index, limits))
            if known != limits:
                fact = f"the stream has other limits in routes[{before}]"
                yield Finding(("routes", index, "replay"), fact, "a stream has one retention")


def _exchange_type(route: Mapping) -> Iterator[Finding]:
    declared = _mapping(route.get("declare")).get("type")
    if declared in ("direct", "topic", "fanout") and route.get("binding_headers") is not None:
        yield Finding(
            ("binding_headers",),
            f"a {declared} exchange takes no headers",
            "write declare.type: headers, or a binding_key",
        )
    if declared == "direct" and route.get("binding_key") is None:
        yield Finding((), "a direct exchange without a binding_key", "name the routing key; # is no wildcard there")


CHECKS: tuple[Callable[[Mapping], Iterator[Finding]], ...] = (
    _broker_urls,
    _workers,
    _reconnect,
    _addresses,
    _shapes,
    _declarations,
    _streams,
    _offers,
)
OFFER_CHECKS: tuple[Callable[[Mapping], Iterator[Finding]], ...] = (
    _source,
    _declare,
    _replay,
    _event,
    _exchange_type,
    _literal,
)
ROUTE_CHECKS: tuple[Callable[[Mapping], Iterator[Finding]], ...] = (
    access_check,
    _source,
    _declare,
    _replay,
    _parameters,
    _event,
    _where,
    _binding_headers,
    _exchange_type,
)
