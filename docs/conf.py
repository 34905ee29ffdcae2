"""The site's settings, for Sphinx: `make docs` builds docs/ into build/docs, without a network."""

import re
import sys
from pathlib import Path
from typing import Any

from pygments.lexers.special import TextLexer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import promises

project = "Ultramarine"
extensions = ["myst_parser", "sphinx_design", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = project
html_show_copyright = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
autodoc_typehints = "description"
autodoc_member_order = "bysource"
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other packages have no page here


def _read(app: Any, page: str, source: list[str]) -> None:
    """Show files outside docs/ by their names, as the site has no page for them, and insert the table of promises."""
    up = r"\.\./" * (page.count("/") + 1)
    text = re.sub(rf"\[([^\]]+)\]\({up}[^)]+\)", r"\1", source[0])
    source[0] = text.replace("<!-- promises -->", promises.table()) if page == "reference/promises" else text


def setup(app: Any) -> None:
    """Connect the settings to Sphinx, which calls this."""
    app.connect("source-read", _read)
    app.add_lexer("mermaid", TextLexer)
