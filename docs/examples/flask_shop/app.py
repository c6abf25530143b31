"""A small shop: people log in, place orders, and see each change of their own orders at once.

Nothing here knows of event streams but one script of eight lines and one view of three: who is logged in is this
application's own business, kept in its session cookie as always.

    pip install flask pika
    flask --app app run --port 5000
    sidecar run -c sidecar.yaml
"""

from __future__ import annotations

import json
import os
import secrets

import pika
from flask import Flask, Response, redirect, render_template_string, request, session
from werkzeug.wrappers import Response as AnyResponse

PASSWORDS = {"ada": "lovelace", "eve": "mallory"}
PAGE = """<!doctype html>
<title>Shop</title>
{% if user %}
  <h1>Orders of {{ user }}</h1>
  <form method="post" action="/orders"><input name="item" required><button id="buy">Buy</button></form>
  <form method="post" action="/logout"><button id="leave">Log out</button></form>
  <ul id="orders"></ul>
  <script>
    const orders = document.getElementById("orders")
    const source = new EventSource("/events/orders")
    source.addEventListener("placed", event => {
      const line = document.createElement("li")
      line.textContent = JSON.parse(event.data).item
      orders.append(line)
    })
  </script>
{% else %}
  <form method="post" action="/login">
    <input name="user" placeholder="user"><input name="password" type="password"><button id="enter">Log in</button>
  </form>
{% endif %}
"""

app = Flask(__name__)
app.secret_key = os.environ.get("SECRET_KEY") or secrets.token_hex()


@app.get("/")
def index() -> str:
    """The one page."""
    return render_template_string(PAGE, user=session.get("user"))


@app.post("/login")
def log_in() -> AnyResponse:
    """Check the password, remember the user in the session's cookie."""
    user = request.form["user"]
    if PASSWORDS.get(user) != request.form["password"]:
        return Response("wrong user or password\n", 403)
    session["user"] = user
    return redirect("/", 303)


@app.post("/logout")
def log_out() -> AnyResponse:
    """Forget the user. Streams of theirs end with their max_age at the latest, and do not come back."""
    session.clear()
    return redirect("/", 303)


@app.post("/orders")
def place_order() -> AnyResponse:
    """Take an order, and tell RabbitMQ."""
    if "user" not in session:
        return Response("log in first\n", 403)
    publish(f"order.{session['user']}.placed", {"item": request.form["item"]})
    return Response(status=204)


@app.get("/internal/may-read")
def may_read() -> AnyResponse:
    """What sidecar asks before each event stream, with the reader's own cookies: may they, and who are they?"""
    if "user" not in session:
        return Response("log in first\n", 401)
    return Response(status=204, headers={"X-User-Id": session["user"]})


def publish(routing_key: str, message: dict[str, str]) -> None:
    """One message to the exchange of the orders."""
    parameters = pika.URLParameters(os.environ.get("AMQP_URL", "amqp://guest:guest@localhost:5672/"))
    with pika.BlockingConnection(parameters) as connection:
        channel = connection.channel()
        channel.exchange_declare("orders", "topic", durable=True)
        properties = pika.BasicProperties(content_type="application/json", type="placed")
        channel.basic_publish("orders", routing_key, json.dumps(message).encode(), properties)
