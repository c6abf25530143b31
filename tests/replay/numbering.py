"""A publisher of numbered messages that outlasts its broker: each number is in the stream once, in order.

Strategy: confirms say what the broker has; after a break nobody knows whether the last message arrived, so the
publisher reads the stream as it stands, up to a marker that it has just published, and goes on after the last number in
it. A broker that is just starting confirms and drops what it has for a stream that is not up: then the marker does not
come, and it tries again. Blocking: a test on trio runs it in a thread.
"""

from __future__ import annotations

import contextlib
import itertools
import threading

import pika
import pika.exceptions

from tests.lab.publisher import publishing

EXCHANGE, STREAM, KEY, MARKER = "chaos", "chaos.numbers", "number.a", "marker"
PATIENCE = 5.0


class Numbers:
    """The numbers from 1 on, as bodies of messages; `confirmed` is the last one that the broker has."""

    def __init__(self, *urls: str, width: int = 0) -> None:
        """With a width they are written with so many digits; of several URLs each break leads to the next."""
        self._urls = urls
        self._width = width
        self._markers = itertools.count()
        self._changed = threading.Condition()
        self._stopped = threading.Event()
        self.confirmed = 0
        self.breaks = 0
        """How often the connection to the broker has broken."""

    @property
    def _url(self) -> str:
        return self._urls[self.breaks % len(self._urls)]

    def text(self, number: int) -> str:
        """A number as its message has it."""
        return f"{number:0{self._width}}"

    def texts(self, first: int, last: int) -> list[str]:
        """The numbers from the first to the last one (inclusive)."""
        return [self.text(number) for number in range(first, last + 1)]

    def publish_until(self, last: int) -> None:
        """Publish the numbers that follow up to this one, whatever becomes of the broker meanwhile."""
        while self.confirmed < last and not self._stopped.is_set():
            try:
                self._go_on(last)
            except (pika.exceptions.AMQPError, OSError):
                self.breaks += 1
                self._stopped.wait(0.1)

    def _go_on(self, last: int) -> None:
        with publishing(self._url) as publisher:
            stored = self.stored()
            if stored is None:
                return
            self._confirm(max([self.confirmed, *stored[-1:]]))
            while self.confirmed < last and not self._stopped.is_set():
                publisher.publish(EXCHANGE, KEY, self.text(self.confirmed + 1), mandatory=True)
                self._confirm(self.confirmed + 1)

    def _confirm(self, number: int) -> None:
        with self._changed:
            self.confirmed = number
            self._changed.notify_all()

    def wait_confirmed(self, number: int, timeout: float) -> None:
        """Return once this number has been confirmed; AssertionError after so many seconds."""
        with self._changed:
            reached = self._changed.wait_for(lambda: self.confirmed >= number or self._stopped.is_set(), timeout)
        assert reached, f"{self.confirmed} of {number} confirmed within {timeout} s"

    def close(self) -> None:
        """End every wait, and the thread that publishes."""
        self._stopped.set()
        with self._changed:
            self._changed.notify_all()

    def stored(self) -> list[int] | None:
        """The numbers in the stream, which must be without a gap; None where the stream is not up."""
        marker = f"marker {next(self._markers)} {id(self)}"
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(self._url))) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            try:
                channel.basic_publish(EXCHANGE, MARKER, marker.encode(), mandatory=True)
            except pika.exceptions.UnroutableError:
                return None
            found = self._read_until(channel, marker)
        assert found is None or found == list(range(found[0] if found else 0, (found[-1] if found else -1) + 1))
        return found

    def _read_until(self, channel: pika.adapters.blocking_connection.BlockingChannel, marker: str) -> list[int] | None:
        found: list[int] = []
        channel.basic_qos(prefetch_count=500)
        messages = channel.consume(STREAM, arguments={"x-stream-offset": "first"}, inactivity_timeout=PATIENCE)
        for method, _, body in messages:
            if method is None:
                return None
            channel.basic_ack(method.delivery_tag)
            if body.decode() == marker:
                return found
            if not body.startswith(b"marker"):
                found.append(int(body))
        return None
