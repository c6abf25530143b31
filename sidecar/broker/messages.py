"""Between the port's words and the client library's: properties on their way out, and errors on their way in.

Strategy: every error is translated at the door, once, into `BrokerRefused` (the broker said no, in its own words) or
`BrokerAway` (there is nobody to ask), so that nothing behind the port knows aiormq. What is said to people is made of
the address and the broker's words and never of the URL, so no password can be in it.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Final

import aiormq.exceptions
import pamqp.constants
import pamqp.exceptions
import trio
from pamqp import commands

from sidecar.amqp import FieldValue, Properties
from sidecar.broker.port import BrokerAway, BrokerError, BrokerRefused

_REFUSALS: Final = (
    aiormq.exceptions.ChannelAccessRefused,
    aiormq.exceptions.ChannelNotFoundEntity,
    aiormq.exceptions.ChannelPreconditionFailed,
    aiormq.exceptions.ChannelLockedResource,
)
"""Errors that close a channel because the broker said no."""

_UNENCODABLE: Final = (TypeError, ValueError, OverflowError, struct.error)
_FOREIGN: Final = (
    BrokerError,
    aiormq.exceptions.AMQPError,
    pamqp.exceptions.PAMQPException,
    asyncio.CancelledError,
    OSError,
    RuntimeError,
)
# To pamqp names have the letters of AMQP 0-9-1 (its domains); RabbitMQ takes any, and a name may hold a claim: auth0|7.
for _domain in ("exchange-name", "queue-name"):
    pamqp.constants.DOMAIN_REGEX[_domain] = re.compile(".*", re.DOTALL)

_GONE: Final = re.compile(r"no (queue|exchange|binding|vhost)")
_SYMBOL = re.compile(r"^[A-Z_]+ - ")
_AWAY = "the broker is not connected"


def to_pamqp(properties: Properties | None) -> commands.Basic.Properties:
    """The same properties for aiormq."""
    if properties is None:
        return commands.Basic.Properties()
    known = {each.name: getattr(properties, each.name) for each in fields(Properties)}
    return commands.Basic.Properties(
        **{key: value for key, value in known.items() if key not in ("headers", "type")},
        headers=to_table(properties.headers),
        message_type=properties.type,
    )


def to_table(pairs: Mapping[str, FieldValue]) -> dict[str, Any] | None:
    """The same field table for aiormq; None for an empty one."""
    return {name: _to_field(value) for name, value in pairs.items()} or None


def _to_field(value: FieldValue) -> object:
    match value:
        case bytes():
            return bytearray(value)  # what pamqp takes for a byte array
        case list():
            return [_to_field(each) for each in value]
        case dict():
            return {name: _to_field(each) for name, each in value.items()}
    return value


def words(error: BaseException) -> str:
    """The broker's own words in a channel's or connection's error, without the protocol's symbol before them."""
    texts = [each for each in error.args if isinstance(each, str)]
    return _SYMBOL.sub("", texts[-1]) if texts else type(error).__name__


def translated(error: BaseException) -> BrokerError:
    """What the port raises for an error of the client library."""
    if isinstance(error, BrokerError):
        return error
    if isinstance(error, aiormq.exceptions.ChannelNotFoundEntity) and not _GONE.match(words(error)):
        return BrokerAway(words(error))  # "home node … of durable queue … is down": after a restart, for a moment
    if isinstance(error, _REFUSALS):
        return BrokerRefused(words(error))
    if isinstance(error, aiormq.exceptions.DeliveryError):
        return BrokerRefused("the broker did not take responsibility for the message (nack)")
    if isinstance(error, _UNENCODABLE) and not isinstance(error, UnicodeDecodeError):
        return BrokerRefused(f"AMQP 0-9-1 cannot carry this: {error}")
    if isinstance(error, aiormq.exceptions.AMQPError) and words(error) != type(error).__name__:
        return BrokerAway(words(error))
    return BrokerAway(_AWAY)


@contextmanager
def the_door() -> Iterator[None]:
    """Translate what the client library raises; asyncio's cancellation too, which is a connection's end."""
    try:
        yield
    except (*_FOREIGN, *_UNENCODABLE) as error:
        raise translated(error) from error


def why_not_connected(error: BaseException, place: str, user: str, farewell: commands.Connection.Close | None) -> str:
    """One line for people: why a connection to `place` could not be opened."""
    if farewell is not None:
        return f"{place}: {_goodbye(farewell, user)}"
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) else error
    match cause:
        case trio.TooSlowError():
            return f"{place}: no answer in time"
        case ssl.SSLCertVerificationError():
            return f"{place}: TLS: {cause.verify_message}"
        case ssl.SSLError():
            return f"{place}: TLS: {cause.reason or cause.strerror or cause}"
        case socket.gaierror():
            return f"{place}: {cause.strerror}"
        case OSError():
            return f"{place}: {_system_words(cause)}"
    return f"{place}: {words(cause) if cause and cause.args else 'the connection broke'}"


def _goodbye(farewell: commands.Connection.Close, user: str) -> str:
    said = _SYMBOL.sub("", farewell.reply_text or "")
    if farewell.reply_code == 403:
        return f"the credentials of user '{user}' were rejected"
    return said or f"closed by the broker with code {farewell.reply_code}"


def _system_words(error: BaseException) -> str:
    """The kernel's words: trio keeps the errors of each address that it tried in an exception group."""
    while isinstance(error, BaseExceptionGroup) or (isinstance(error, OSError) and error.errno is None):
        inner = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
        if inner is None:
            break
        error = inner
    number = getattr(error, "errno", None)
    return (os.strerror(number) if number else str(error)).lower()
