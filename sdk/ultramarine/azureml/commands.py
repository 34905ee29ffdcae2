"""Commands: Azure's expressions become references, and a line of shell becomes a list if no shell is needed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

# ${{inputs.x}}, and {inputs.x} as early releases wrote it.
_EXPRESSION = re.compile(
    r"\$\{\{\s*(inputs|outputs|search_space)\.([^}\s]+)\s*\}\}"
    r"|(?<![$\w{])\{(inputs|outputs|search_space)\.([\w.-]+)\}"
)
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
_REFERENCE = re.compile(r"\$\((?:params|inputs|outputs)\.[^)]*\)[^\s'\"]*")
_SHELL = re.compile(r"[|&;<>()`$\\*?\[\]{}~#!\n]")
_BUILTINS = frozenset({"cd", "export", "source", ".", "set", "unset", "ulimit", "if", "for", "while", "case", "exec"})
PLAIN = re.compile(r"[\w./:@%+,=-]+", re.ASCII)  # a value that a shell would not split or expand
MAX_WORDS = 64
MAX_TEXT = 32_768


@dataclass
class References:
    """Replacements of expressions, by section and name. `used` and `missing` grow as texts are filled in.

    `unsafe` has the replacements whose values a shell would split.
    """

    values: Mapping[tuple[str, str], str]
    unsafe: frozenset[str] = frozenset()
    used: set[tuple[str, str]] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)

    def fill(self, text: str) -> str:
        """Return the text with every expression replaced, and without optional parts that have no value."""

        def optional(match: re.Match[str]) -> str:
            keys = [_key(expression) for expression in _EXPRESSION.finditer(match[1])]
            return match[1] if all(key in self.values for key in keys) else ""

        def replacement(match: re.Match[str]) -> str:
            key = _key(match)
            if key not in self.values:
                self.missing.append(".".join(key))
                return ""
            self.used.add(key)
            return self.values[key]

        return _EXPRESSION.sub(replacement, _OPTIONAL.sub(optional, text))


def _key(match: re.Match[str]) -> tuple[str, str]:
    return (match[1] or match[3], match[2] or match[4])


def names_of(text: str, section: str) -> set[str]:
    """Return the names that a text refers to in a section."""
    return {name for kind, name in map(_key, _EXPRESSION.finditer(text)) if kind == section}


def argument_list(text: str, unsafe: frozenset[str] = frozenset()) -> list[str]:
    """Return a command as a list, run by bash if it has shell syntax or values that a shell would split."""
    text = text.strip()
    bash = ["bash", "-c", text]
    bare = _REFERENCE.sub("x", text)
    if _SHELL.search(bare) or any(reference in text for reference in unsafe):
        return bash
    try:
        words = shlex.split(text)
    except ValueError:
        return bash
    if not words or len(words) > MAX_WORDS or "=" in words[0] or words[0] in _BUILTINS:
        return bash
    return words
