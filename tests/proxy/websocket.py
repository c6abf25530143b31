"""A WebSocket server for the application's part."""

from __future__ import annotations

from wsproto import ConnectionType, WSConnection
from wsproto import events as ws

from tests.proxy.origin import Conversation


async def echo_websocket(conversation: Conversation, begun: bytes = b"") -> None:
    """Serve a WebSocket and say everything again; ``begun`` is a request's head that was read already."""
    server = WSConnection(ConnectionType.SERVER)
    while True:
        server.receive_data(begun or await conversation.some())
        begun = b""
        for event in server.events():
            if isinstance(event, ws.Request):
                assert "chat" in event.subprotocols
                await conversation.send(server.send(ws.AcceptConnection(subprotocol="chat")))
            elif isinstance(event, ws.TextMessage):
                await conversation.send(
                    server.send(ws.TextMessage(event.data, message_finished=event.message_finished))
                )
            elif isinstance(event, ws.BytesMessage):
                await conversation.send(
                    server.send(ws.BytesMessage(event.data, message_finished=event.message_finished))
                )
            elif isinstance(event, ws.Ping):
                await conversation.send(server.send(event.response()))
            elif isinstance(event, ws.CloseConnection):
                await conversation.send(server.send(event.response()))
                return
