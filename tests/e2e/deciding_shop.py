"""The shop of the documentation, and one view more: it says itself what its reader hears."""

from __future__ import annotations

from app import app  # of docs/examples/flask_shop, which stands on the path
from flask import Response, session
from werkzeug.wrappers import Response as AnyResponse


@app.get("/mine")
def mine() -> AnyResponse:
    """An event stream of one's own orders, which sidecar serves."""
    if "user" not in session:
        return Response("log in first\n", 401)
    said = f'exchange="orders", binding_key="order.{session["user"]}.*"'
    return Response(headers={"Sidecar-Subscribe": said}, mimetype="text/event-stream")
