"""What a block of each language must stand up to.

Strategy: a table from the language to what is done. A language that is not in it is a mistake of the page, so that no
block is passed over because of a misspelt word.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from typing import Any

import yaml

from sidecar.config import parse
from sidecar.config.model import Config, Route
from tests.docs.page import ROOT, Block
from tests.docs.session import Session


def follow(session: Session, block: Block) -> None:
    """Do what a reader would do with a block."""
    if block.not_run is not None:
        return
    if block.quoted is not None:
        assert block.text in (ROOT / block.quoted).read_text(), f"{block}: not so in {block.quoted}"
    if block.file is not None:
        session.write(block.file, block.text + (_addresses(block.text) if "routes:" in block.text else ""))
    LANGUAGES[block.language](session, block)


def configuration(session: Session, block: Block) -> None:
    """A configuration, or a part of one that shows by its keys where it belongs."""
    if "\ngroups:" in block.text:
        rules(block)
        return
    text = session.here(_whole(block))
    parse(text, str(block), session.directory, session.env)


def bring(session: Session, block: Block) -> None:
    """The files of a folder."""
    for file in (ROOT / block.text.strip()).iterdir():
        if file.is_file():
            text = file.read_text()
            session.write(file.name, text + (_addresses(text) if "routes:" in text else ""))


def end(session: Session, _: Block) -> None:
    """What goes on has shown what it should, and is ended."""
    session.finish()
    session.close()


def _addresses(text: str) -> str:
    """The default addresses, written down where a configuration has none: they may be taken on this machine."""
    read = yaml.safe_load(text)
    listen, admin = 'listen: [{bind: "127.0.0.1:8080"}]\n', "admin: {bind: 127.0.0.1:9400}\n"
    return ("\n" + listen) * ("listen" not in read) + ("\n" + admin) * ("admin" not in read)


def rules(block: Block) -> None:
    """Prometheus' rules: the chart's, without what picks the samples of one release."""
    charts = (ROOT / "helm" / "files" / "alerts.yaml").read_text().replace("{SAMPLES}", "").replace("SAMPLES,", "")
    (group,) = yaml.safe_load(block.text)["groups"]
    assert group["rules"] == yaml.safe_load(charts), f"{block}: not the chart's rules"


def _whole(block: Block) -> str:
    read = yaml.safe_load(block.text)
    if isinstance(read, list):
        return "routes:\n" + _indented(block.text)
    assert isinstance(read, dict), f"{block}: neither a configuration nor a part of one"
    if set(read) <= set(Config.written()):
        return block.text
    strange = set(read) - set(Route.written())
    assert not strange, f"{block}: no keys of a configuration: {strange}"
    return "routes:\n  - " + _indented(_missing(read) + block.text, 4).lstrip()


def _missing(route: dict[str, Any]) -> str:
    path = "" if "path" in route else "path: /example/{order}/{account}/{tenant}\n"
    return path if {"exchange", "stream", "queue"} & route.keys() else f"{path}exchange: example\n"


def _indented(text: str, columns: int = 2) -> str:
    return "".join(" " * columns + line if line.strip() else line for line in text.splitlines(keepends=True))


def python(_: Session, block: Block) -> None:
    """Python that compiles; what it does is the business of the commands that run it."""
    compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def data(_: Session, block: Block) -> None:
    """JSON."""
    json.loads(block.text)


def shown(_: Session, __: Block) -> None:
    """Something to look at, or that another test takes from the page."""


LANGUAGES: dict[str, Callable[[Session, Block], None]] = {
    "sh": Session.shell,
    "console": Session.console,
    "yaml": configuration,
    "bring": bring,
    "end": end,
    "python": python,
    "json": data,
    # tests/front takes these from the page and runs them
    "nginx": shown,
    "haproxy": shown,
    "caddyfile": shown,
    # read by a browser in test_site
    "js": shown,
    "text": shown,
    # for Sphinx, which has its own test
    "{toctree}": shown,
}
