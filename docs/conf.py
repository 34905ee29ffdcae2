"""The site's settings, for Sphinx: `make docs` builds docs/ into build/docs, without a network."""

import re
from typing import Any

from pygments.lexers.special import TextLexer

project = "Ultramarine"
extensions = ["myst_parser", "sphinx_design"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = project
html_show_copyright = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4


def _links(app: Any, page: str, source: list[str]) -> None:
    """Show files outside docs/ by their names: the site has no page for them."""
    up = r"\.\./" * (page.count("/") + 1)
    source[0] = re.sub(rf"\[([^\]]+)\]\({up}[^)]+\)", r"\1", source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _links)
    app.add_lexer("mermaid", TextLexer)
