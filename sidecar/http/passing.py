"""What of a message's head goes on to the next hop (RFC 9110 §7.6), and what stops here.

Strategy: a proxy is safe when it writes every head anew from what it has understood, so that nothing reaches the
application which it could understand otherwise. Heads come parsed and checked by h11 or h2; here stand the rules that
concern a proxy only, each as a set of names or a pure function. What says how long a message is (RFC 9112 §6) is never
a client's to remove, and a name with ``_`` for ``-`` that an application would take for one of ours is dropped.

Who the client is: from a peer that is no trusted proxy, every forwarding field is replaced by what is known here for
sure. A trusted proxy's are continued, each in the language that it speaks; the other is not made up, for an
application that believes it would take the proxy for the client.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from sidecar.forwarded import Address, Proxies, read_address

Fields = list[tuple[bytes, bytes]]

HOP_BY_HOP: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
"""Never forwarded, whether ``Connection`` names them or not (RFC 9110 §7.6.1)."""
FRAMING: Final = frozenset({b"content-length", b"transfer-encoding", b"host"})
"""Never removed because ``Connection`` names them: what follows would be read differently (RFC 9110 §7.6.1)."""
X_FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})
FORWARDING: Final = X_FORWARDED | {b"forwarded"}
NO_TRAILERS: Final = (
    HOP_BY_HOP
    | FRAMING
    | FORWARDING
    | {b"authorization", b"cache-control", b"content-encoding", b"content-range", b"content-type", b"cookie"}
    | {b"expect", b"max-forwards", b"range", b"set-cookie", b"trailer"}
)
"""What may not stand behind a body (RFC 9110 §6.5.1)."""

_WRITTEN_HERE: Final = HOP_BY_HOP | FORWARDING | {b"host", b"expect"}
_GUARDED: Final = _WRITTEN_HERE | FRAMING
_CLEARTEXT_UPGRADES: Final = (b"h2c", b"http/", b"tls/")

_METHOD: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_TARGET: Final = re.compile(rb"[!\"$-~]+")  # visible ASCII without "#": a fragment is not sent (RFC 9110 §7.1)
_ABSOLUTE: Final = re.compile(rb"https?://([^/?@]+)(/[^?]*)?(\?.*)?", re.IGNORECASE)
_HOST: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[-A-Za-z0-9._~!$&'()*+,;=%]+)(?::[0-9]*)?")


class RefusedError(Exception):
    """A request that does not go on: the status and the fact that the client gets."""

    def __init__(self, status: int, fact: str) -> None:
        super().__init__(fact)
        self.status = status
        self.fact = fact


@dataclass(slots=True, frozen=True)
class Head:
    """A request's head as it came, names in lower case; from h11 or h2, which have checked its syntax."""

    method: bytes
    target: bytes
    fields: Fields
    version: str
    """``1.0``, ``1.1`` or ``2``."""
    scheme: str
    """``http`` or ``https``, of the client's connection."""
    peer: tuple[str, int] | None
    """The other end of the client's connection; None on a unix socket."""
    body: bool
    """Whether a body follows."""
    names: frozenset[bytes] = field(init=False, repr=False, compare=False)
    """Which fields there are: most rules are about one that is not."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset([name for name, _ in self.fields]))

    @property
    def path(self) -> str:
        """The path, for a log line: a query may hold a token."""
        return self.target.partition(b"?")[0].decode("latin-1")


def asked(head: Head, proxies: Proxies, authority: bytes) -> tuple[bytes, Fields]:
    """The target and the fields of the request to the application.

    ``authority`` is the application's, for clients that name no host (HTTP/1.0). Raises `RefusedError`.
    """
    target, named = _target(head)
    hosts = _values(head, b"host")
    host = named or (hosts[0] if hosts else b"") or authority
    if len(hosts) > 1 or not _HOST.fullmatch(host):
        raise RefusedError(400, "the request must name one host")
    _check_framing(head)
    stops = _WRITTEN_HERE | named_by_connection(head.fields) if b"connection" in head.names else _WRITTEN_HERE
    fields = [(b"host", host)]
    fields += [field for field in head.fields if field[0] not in stops and not _disguised(field[0])]
    fields += _forwarding(head, proxies, host)
    return target, fields + _connection(head)


def answered(status: int, fields: Fields) -> Fields:
    """The fields of an answer of the application as the client gets them; the framing is the server's matter."""
    names = {name for name, _ in fields}
    stops = HOP_BY_HOP | named_by_connection(fields) if b"connection" in names else HOP_BY_HOP
    if b"transfer-encoding" in names or status < 200 or status == 204:
        stops |= {b"content-length"}  # RFC 9112 §6.2
    return [field for field in fields if field[0] not in stops]


def trailers(fields: Iterable[tuple[bytes, bytes]]) -> Fields:
    """The trailer fields that go on, either way."""
    return [field for field in fields if field[0] not in NO_TRAILERS and not _disguised(field[0])]


def upgrade(head: Head) -> bytes:
    """The protocols that a client may be switched to by the application (RFC 9110 §7.8); empty for none.

    HTTP/2 in clear text is not among them: requests in it would go past everything that is checked here.
    """
    if head.version != "1.1" or head.body or b"upgrade" not in head.names:
        return b""
    offered = b", ".join(value for name, value in head.fields if name == b"upgrade")
    if not offered or b"upgrade" not in named_by_connection(head.fields):
        return b""
    protocols = offered.lower().split(b",")
    return b"" if any(protocol.strip().startswith(_CLEARTEXT_UPGRADES) for protocol in protocols) else offered


def named_by_connection(fields: Fields) -> frozenset[bytes]:
    """The fields that concern one connection only, because ``Connection`` says so."""
    names = b",".join(value for name, value in fields if name == b"connection").lower().split(b",")
    return frozenset(name.strip() for name in names) - FRAMING


def _target(head: Head) -> tuple[bytes, bytes]:
    """Origin form or ``*`` (RFC 9112 §3.2), and the authority where an absolute form names one."""
    target = head.target
    if head.method == b"CONNECT" or not _METHOD.fullmatch(head.method):
        raise RefusedError(501, "this is no tunnel: CONNECT is not served")
    if not _TARGET.fullmatch(target):
        raise RefusedError(400, "the target must be visible ASCII without a fragment")
    if target.startswith(b"/") or (target == b"*" and head.method == b"OPTIONS"):
        return target, b""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise RefusedError(400, "the target must be a path or an http URL")
    if head.method == b"OPTIONS" and not absolute[2] and not absolute[3]:
        return b"*", absolute[1]
    return (absolute[2] or b"/") + (absolute[3] or b""), absolute[1]


def contradiction(names: Container[bytes], version: str) -> str:
    """What contradicts itself in how a request's fields tell its length; empty where nothing does.

    Two lengths are one too many, even where the standard has a rule for it (RFC 9112 §6.1, §11.2).
    """
    if b"transfer-encoding" not in names:
        return ""
    if b"content-length" in names:
        return "Content-Length and Transfer-Encoding contradict each other"
    return "HTTP/1.0 has no Transfer-Encoding" if version == "1.0" else ""


def _check_framing(head: Head) -> None:
    if fact := contradiction(head.names, head.version):
        raise RefusedError(400, fact)
    lengths = _values(head, b"content-length")
    if len(lengths) > 1 or (lengths and not head.body and lengths != [b"0"]):
        raise RefusedError(400, "there must be one Content-Length, and so much content")
    if any(value.lower() != b"100-continue" for value in _values(head, b"expect")):
        raise RefusedError(417, "the only expectation that can be met is 100-continue")


def _disguised(name: bytes) -> bool:
    """Whether CGI's and WSGI's environments could not tell it from a field that is written or checked here."""
    return b"_" in name and name.replace(b"_", b"-") in _GUARDED


def _connection(head: Head) -> Fields:
    """What concerns the connection to the application: ours to say."""
    fields: Fields = []
    if head.body and b"content-length" not in head.names:
        fields.append((b"transfer-encoding", b"chunked"))
    if protocols := upgrade(head):
        return [*fields, (b"connection", b"upgrade"), (b"upgrade", protocols)]
    if any(b"trailers" in value.lower() for value in _values(head, b"te")):
        fields += [(b"connection", b"te"), (b"te", b"trailers")]
    return fields


def _forwarding(head: Head, proxies: Proxies, host: bytes) -> Fields:
    peer = head.peer[0].encode() if head.peer else b""
    trusted = (_address(head.peer[0]) if head.peer else None) in proxies
    given = {name: _list(head.fields, name) for name, _ in head.fields if name in FORWARDING} if trusted else {}
    fields: Fields = []
    if not given or not given.keys().isdisjoint(X_FORWARDED):
        chain = b", ".join(hop for hop in (given.get(b"x-forwarded-for"), peer) if hop)
        fields += [(b"x-forwarded-for", chain)] if chain else []
        fields.append((b"x-forwarded-proto", given.get(b"x-forwarded-proto") or head.scheme.encode()))
        fields.append((b"x-forwarded-host", given.get(b"x-forwarded-host") or host))
    if not given or b"forwarded" in given:
        before = given.get(b"forwarded")
        fields.append((b"forwarded", (before + b", " if before else b"") + _element(peer, head.scheme, host)))
    return fields


@lru_cache(maxsize=1024)
def _address(peer: str) -> Address | None:
    """A peer's address, as the kernel wrote it: the same for all requests of a connection."""
    return read_address(peer)


def _values(head: Head, name: bytes) -> list[bytes]:
    return [value for own, value in head.fields if own == name] if name in head.names else []


def _element(peer: bytes, scheme: str, host: bytes) -> bytes:
    """Our hop in the words of RFC 7239 §4; an IPv6 address and a host with a port are quoted (§6)."""
    node = b'"[%b]"' % peer.partition(b"%")[0] if b":" in peer else peer or b"unknown"
    return b'for=%b;host="%b";proto=%b' % (node, host, scheme.encode())


def _list(fields: Fields, name: bytes) -> bytes:
    return b", ".join(value for own, value in fields if own == name)
