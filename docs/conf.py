"""How Sphinx makes the site out of these pages: `make docs`, strictly, into build/site.

The pages are plain Markdown and read well where they stand. Nothing is fetched while building or reading.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sidecar import __version__

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
html_show_sphinx = False
html_show_sourcelink = False
