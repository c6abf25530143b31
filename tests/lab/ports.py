"""Free TCP ports for throwaway servers, away from the range the kernel takes for outgoing connections."""

from __future__ import annotations

import itertools
import os
import socket

FIRST, LAST = 20_000, 32_000
_APART = 4_099  # a prime, so that processes whose numbers are neighbours begin far from each other
_candidates = itertools.cycle(range(FIRST + os.getpid() * _APART % (LAST - FIRST), LAST))


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on now, and that this process has not given out lately."""
    for port in itertools.islice(_candidates, LAST - FIRST):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port between {FIRST} and {LAST}")


def two_free_ports() -> int:
    """A free port whose successor is free too."""
    first = free_port()
    while (second := free_port()) != first + 1:
        first = second
    return first
