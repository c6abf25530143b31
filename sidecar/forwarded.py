"""Who the client is behind proxies: ``X-Forwarded-For`` and ``Forwarded`` (RFC 7239), as far as they are trusted.

Strategy: a header says what its writer likes, so the walk begins at the one thing that is sure, the address of the
connection's peer, and goes leftwards through the header only while the last writer was a trusted proxy. The first
address that is not one is the client. What cannot be read ends the walk where it is. Nothing here raises: a request
with a broken header still has a client, the nearest address that is known for sure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Fields = Sequence[tuple[bytes, bytes]]

HOPS: Final = 32
"""How many entries of a header are looked at, from the right; a longer chain is followed no further."""

FORWARDED_BYTES: Final = 4096
"""The longest ``Forwarded`` header that is read: quoted strings cannot be read from the right alone."""

UNIX: Final = "unix"
"""The word for a peer on a unix socket, in the list of trusted proxies (as nginx's ``set_real_ip_from unix:``)."""

_CLIENT_PREFIX = 64  # what one subscriber of an internet provider gets at least (RFC 6177 §2), and may hop about in

_BRACKETED = re.compile(r"\[([^\]]*:[^\]]*)\](?::[\w.-]+)?")

# A quoted string may hold commas and semicolons (RFC 9110 §5.6.4), so elements are matched, not split.
_PAIR = re.compile(r'\s*([A-Za-z]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*(?:;|$)')
_ELEMENT = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*+")++')
_BALANCED = re.compile(r'(?:[^"]|"(?:[^"\\]|\\.)*+")*+')


@dataclass(frozen=True, slots=True)
class Proxies:
    """Whose forwarding headers count: networks, and perhaps whoever may open this process's unix socket."""

    networks: tuple[Network, ...] = ()
    unix: bool = False

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Proxies:
        """Read ``10.0.0.0/8``, ``::1``, ``unix``; raises ValueError where a text is none of these."""
        texts = list(texts)
        return cls(tuple(ip_network(text) for text in texts if text != UNIX), UNIX in texts)

    def __contains__(self, address: Address | None) -> bool:
        """Whether it is a trusted proxy; None is a peer on a unix socket."""
        return self.unix if address is None else any(address in network for network in self.networks)


def read_address(text: str) -> Address | None:
    """The address in ``192.0.2.1``, ``192.0.2.1:443``, ``[2001:db8::1]:443``, ``fe80::1%eth0``; None for anything else.

    IPv4 in IPv6's clothes (RFC 4291 §2.5.5.2) is IPv4, and a zone, which means something on one host only, is dropped.
    """
    host = text.strip()
    if match := _BRACKETED.fullmatch(host):
        host = match[1]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def client_address(peer: tuple[str, int] | None, headers: Fields, proxies: Proxies) -> Address | None:
    """The address of the client; None where all that is known is that it came by a unix socket.

    `headers` have lower-case names. Where ``X-Forwarded-For`` and ``Forwarded`` disagree, one of them was written by
    the client and passed on by a proxy that knows the other only: then neither counts.
    """
    nearest = read_address(peer[0]) if peer is not None else None
    if nearest not in proxies:
        return nearest
    found = {
        _walk(nearest, chain, proxies)
        for chain in (_x_forwarded_for(headers), _forwarded_for(headers))
        if chain is not None
    }
    return found.pop() if len(found) == 1 else nearest


def client_group(address: Address | None) -> str:
    """The name under which a client is counted: its IPv4 address, or its IPv6 network of 64 bits."""
    if address is None:
        return UNIX
    if isinstance(address, IPv4Address):
        return str(address)
    return str(IPv6Network((address, _CLIENT_PREFIX), strict=False))


def _walk(nearest: Address | None, chain: Iterator[str], proxies: Proxies) -> Address | None:
    for text, _ in zip(chain, range(HOPS), strict=False):
        address = read_address(text)
        if address is None:
            return nearest
        nearest = address
        if address not in proxies:
            return nearest
    return nearest


def _x_forwarded_for(headers: Fields) -> Iterator[str] | None:
    """The entries from the right; several lines are one list (RFC 9110 §5.3)."""
    lines = [value.decode("latin-1") for name, value in headers if name == b"x-forwarded-for"]
    return reversed(",".join(lines).split(",")) if lines else None


def _forwarded_for(headers: Fields) -> Iterator[str] | None:
    """The ``for`` of each element from the right (RFC 7239 §4); an element without one reads as unknown."""
    lines = [value.decode("latin-1") for name, value in headers if name == b"forwarded"]
    if not lines:
        return None
    text = ",".join(lines)
    if len(text) > FORWARDED_BYTES or not _BALANCED.fullmatch(text):
        return iter(["unknown"])
    return (_for(element) for element in reversed(_ELEMENT.findall(text)))


def _for(element: str) -> str:
    nodes, end = [], 0
    while match := _PAIR.match(element, end):  # one after the other: a search would look for each at every place
        end = match.end()
        if match[1].lower() == "for":
            nodes.append(match[2] or match[3] or "")
    return nodes[0] if len(nodes) == 1 and not element[end:].strip() else "unknown"
