"""Free TCP ports for throwaway servers, away from the range the kernel takes for outgoing connections.

Strategy: a process has a block of ports to itself, so that no other takes a port between its choice here and the
server's start. The claim is a socket in the abstract namespace, whose names live and die with their process and belong
to the same network namespace as the ports. Within the block, a port comes again only when all others have had a turn.
"""

from __future__ import annotations

import functools
import itertools
import socket
from collections.abc import Iterator

FIRST, LAST, BLOCK = 20_000, 32_000, 2_000
_claims: list[socket.socket] = []  # never closed: a block is its process's until that ends


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on now, and that this process has not given out lately."""
    for port in itertools.islice(_candidates(), BLOCK):
        if _is_free(port):
            return port
    raise RuntimeError("none of this process's ports is free")


def two_free_ports() -> int:
    """A free port whose successor is free too."""
    first = free_port()
    while (second := free_port()) != first + 1:
        first = second
    return first


@functools.cache
def _candidates() -> Iterator[int]:
    for first in range(FIRST, LAST, BLOCK):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0sidecar tests' ports from {first}")
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return itertools.cycle(range(first, first + BLOCK))
    raise RuntimeError(f"all ports between {FIRST} and {LAST} belong to other processes")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
