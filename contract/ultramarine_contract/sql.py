"""Check of the query of an import: one statement that reads. The database checks the rest."""

from __future__ import annotations

import re

_READING = {"select", "with", "values", "table", "from"}
_MUST = "must be one SELECT that only reads"
# Texts, names in quotes, comments and texts of PostgreSQL between dollars, in which words and semicolons mean nothing.
_OPAQUE = re.compile(r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/|(\$\w*\$).*?\1", re.DOTALL)


def query_fault(query: str) -> str:
    """Return why a query is not one statement that reads; empty if it may be one."""
    bare = _OPAQUE.sub(lambda part: " " if part[0].startswith(("--", "/*")) else "''", query)
    word = re.match(r"[\s(]*(\w*)", bare)
    if word is not None and word[1] and word[1].lower() not in _READING:
        return f"{_MUST}, and begins with {word[1][:30].upper()}"
    if "\\" not in query and bare.rstrip("; \t\r\n").count(";"):  # a backslash may hide the end of a text
        return f"{_MUST}, and has a second statement after the semicolon; remove it"
    return ""
