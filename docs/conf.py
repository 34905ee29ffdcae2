"""The site's settings, for Sphinx: `make docs` builds docs/ into build/docs, without a network."""

import re
from typing import Any

from pygments.lexers.special import TextLexer

project = "Ultramarine"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = project
html_show_copyright = False
myst_heading_anchors = 4


def _links(app: Any, page: str, source: list[str]) -> None:
    """Lead links to the README to its page, and show other files of the repository by their names."""
    up = r"\.\./" * (page.count("/") + 1)
    text = re.sub(rf"\]\({up}README\.md", "](readme.md", source[0])
    source[0] = re.sub(rf"\[([^\]]+)\]\({up}[^)]+\)", r"\1", text)


def _included(app: Any, path: Any, page: str, source: list[str]) -> None:
    source[0] = re.sub(r"\[([^\]]+)\]\((?!docs/|https?:|#)[^)]+\)", r"\1", source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _links)
    app.connect("include-read", _included)
    app.add_lexer("mermaid", TextLexer)
