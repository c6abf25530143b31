"""sidecar turns queues into Server-Sent Events, beside the application it serves.

Imports point down; nothing below the line does I/O, knows the clock or imports trio::

    cli                        what an operator types
    service · crew             the nursery tree: one process, or several that serve as one
    server                     listeners, TLS, the one writer of a connection, framing for HTTP/1 and HTTP/2
    http                       which answer a request gets, one event stream's life, proxy, admin and debug page
    hub                        who gets which message: subscriptions, and what those who come back have missed
    broker                     the port; RabbitMQ; the embedded broker
    observe · config           logs and metrics; YAML to values, every mistake with its line
    ----------------------------------------------------------------------------------------------
    amqp · topic · sse · template · cursor · backlog · routing · access · forwarded

One request's way in::

    listener.accept > connection.Connection > protocol.Http1 (h11) or protocol.Http2 (h2)
      > dispatch.Dispatch.match: no route > proxy, to the application
      > dispatch.Dispatch.take > access.Gate, where the route has one
      > stream.EventStream.open > hub.Hub.subscribe (tap, binding) > head and first bytes in one write

One message's way out, in one step, without an await or a copy for each reader::

    transport.Transport (the broker's socket) > amqp.Splitter: deliveries out of the bytes
      > hub.exchange or hub.tail: whom it concerns, by a trie > hub.encoder: its block, once
      > http1.Http1Lane: one chunk, one ``send`` for each socket that has room
        http2.Http2Lane: nine bytes for each stream around one payload, one write for each connection

What may wait (binding, replaying, a reader that is behind, draining) is a task in its connection's nursery.
"""

__version__ = "0.1.0"
