"""``sidecar live``: does the sidecar in this container live? For a container engine's health check.

Strategy: one request of the standard library to the admin listener, because this runs every few seconds beside the
process that it asks.
"""

from __future__ import annotations

from contextlib import closing
from http.client import HTTPConnection, HTTPException
from typing import Annotated
from urllib.parse import urlsplit

import typer

ANSWER_WITHIN = 4.0
"""Seconds; below the image's own limit, so that it is this command which says what is wrong."""

AdminUrl = Annotated[str, typer.Option("--admin", metavar="URL", envvar="SIDECAR_ADMIN", help="The admin listener.")]


def live(admin: AdminUrl = "http://127.0.0.1:9400") -> None:
    """Ask /livez of the admin listener; exit with 0 if the sidecar lives, with 1 and the reason if not."""
    if problem := _problem(admin):
        typer.echo(f"{admin}: {problem}", err=True)
        raise typer.Exit(1)


def _problem(admin: str) -> str | None:
    try:
        status, body = _ask(admin)
    except (OSError, HTTPException, ValueError) as error:
        return str(error).strip() or type(error).__name__
    return None if status == 200 else f"/livez says {status}: {body.strip()}"


def _ask(admin: str) -> tuple[int, str]:
    place = urlsplit(admin)
    if place.scheme != "http" or place.hostname is None:
        raise ValueError("the admin listener's URL looks like http://127.0.0.1:9400")
    connection = HTTPConnection(place.hostname, place.port or 80, timeout=ANSWER_WITHIN)
    with closing(connection):
        connection.request("GET", "/livez")
        response = connection.getresponse()
        return response.status, response.read(1000).decode(errors="replace")
