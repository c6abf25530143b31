"""How Sphinx makes the site out of these pages: `make docs`, strictly, into build/site.

The pages are plain Markdown and read well where they stand. Nothing is fetched while building or reading.
"""

from __future__ import annotations

import re
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.highlighting import lexers

from sidecar import __version__

HERE = Path(__file__).resolve().parent

project = "sidecar"
author = "the sidecar authors"
copyright = "2026, the sidecar authors; Apache-2.0"  # noqa: A001 - the name Sphinx looks for
version = release = __version__

extensions = ["myst_parser"]
exclude_patterns = ["examples"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
nitpicky = True

html_theme = "furo"
html_title = f"sidecar {__version__}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_sourcelink = False

lexers["haproxy"] = TextLexer()  # a language that Pygments does not know


def setup(app: Sphinx) -> None:
    """The site has no files of the repository beyond docs/: links that lead there become their names."""
    app.connect("source-read", lambda _, page, source: source.__setitem__(0, without_links_out(page, source[0])))


def without_links_out(page: str, text: str) -> str:
    """The text of a page (its name without the suffix) with the links that leave docs/ taken out."""

    def kept(link: re.Match[str]) -> str:
        target = (HERE / page).parent / link["target"].partition("#")[0]
        if ":" in link["target"] or target.resolve().is_relative_to(HERE):
            return link[0]
        name = target.resolve().relative_to(HERE.parent).as_posix()
        return f"`{name}`" if link["text"].strip("`") == name else f"{link['text']} (`{name}` in the repository)"

    return re.sub(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)", kept, text)
