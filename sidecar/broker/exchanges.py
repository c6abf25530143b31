"""What both brokers say of exchanges alike: the types they serve, the ones that always exist, and the refusals."""

from __future__ import annotations

from typing import Final

from sidecar.broker.port import BrokerRefused

EXCHANGE_TYPES: Final = ("direct", "topic", "fanout", "headers")
"""The types of AMQP 0-9-1 §3.1.3, which the hub knows how to dispatch."""

PREDECLARED: Final = {
    "amq.direct": "direct",
    "amq.topic": "topic",
    "amq.fanout": "fanout",
    "amq.headers": "headers",
    "amq.match": "headers",
}
"""The exchanges of every virtual host (§3.1.3.1 and following)."""

LONGEST_KEY: Final = 255
"""Bytes of a routing or binding key (§4.2.5.3)."""


def check_type(exchange: str, exchange_type: str) -> str:
    """Return the type, or raise `BrokerRefused` for one whose routing nobody here could repeat."""
    if exchange_type not in EXCHANGE_TYPES:
        raise BrokerRefused(
            f"exchange '{exchange}' is of type '{exchange_type}'; served are {', '.join(EXCHANGE_TYPES)}: "
            "bind one of these to it"
        )
    return exchange_type


def check_tappable(exchange: str) -> None:
    """Raise `BrokerRefused` for the default exchange, which takes no bindings (§3.1.3.1)."""
    if not exchange:
        raise BrokerRefused("the default exchange takes no bindings: name another")


def check_key(key: str) -> None:
    """Raise `BrokerRefused` for a routing or binding key that no frame can hold."""
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        raise BrokerRefused("a routing key must be UTF-8") from None
    if length > LONGEST_KEY:
        raise BrokerRefused(f"a routing key of {length} bytes: {LONGEST_KEY} is the longest")
