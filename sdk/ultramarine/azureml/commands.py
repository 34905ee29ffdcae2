"""Commands: expressions become references, `pip install` an environment, and a line without shell syntax a list."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ultramarine.azureml.conda import AZURE
from ultramarine.azureml.fields import Fields

# ${{inputs.x}}, and {inputs.x} as early releases wrote it.
_EXPRESSION = re.compile(
    r"\$\{\{\s*(inputs|outputs|search_space)\.([^}\s]+)\s*\}\}"
    r"|(?<![$\w{])\{(inputs|outputs|search_space)\.([\w.-]+)\}"
)
_OTHER = re.compile(r"\$\{\{\s*([^}]*?)\s*\}\}")  # such as ${{name}}, which a shell cannot read
_OPTIONAL = re.compile(r"\$\[\[(.*?)\]\]", re.DOTALL)
_REFERENCE = re.compile(r"\$\((?:params|inputs|outputs)\.[^)]*\)[^\s'\"]*")
_SHELL = re.compile(r"[|&;<>()`$\\*?\[\]{}~#!\n]")
_BUILTINS = frozenset({"cd", "export", "source", ".", "set", "unset", "ulimit", "if", "for", "while", "case", "exec"})
PLAIN = re.compile(r"[\w./:@%+,=-]+", re.ASCII)  # a value that a shell would not split or expand
_INSTALL = re.compile(r"(?:(?<=[;&\n])|^)\s*(?:python3? -m )?pip3? install (?P<words>[^;&|\n]+?)\s*(?:;|&&|\n|$)")
_FLAGS = frozenset({"-q", "-U", "--quiet", "--upgrade", "--no-cache-dir", "--disable-pip-version-check", "--user"})
_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?([=<>~!]=?[\w.*]+)?")
_FILE = re.compile(r"(?:-r|--requirement) (?P<path>[A-Za-z0-9_][\w.-]*(?:/[A-Za-z0-9_][\w.-]*)*)")
REMEDY = "List the packages in environment.requirements"
MAX_WORDS = 64
MAX_VARIABLES, MAX_VALUE = 128, 32_768
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

        def other(match: re.Match[str]) -> str:
            self.missing.append(match[1][:80])
            return ""

        return _OTHER.sub(other, _EXPRESSION.sub(replacement, _OPTIONAL.sub(optional, text)))


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


def moved_installs(
    fields: Fields, text: str, environment: dict[str, Any] | None, has_source: bool
) -> tuple[str, dict[str, Any] | None]:
    """Return a command without installations, and the environment with their packages.

    No pod of a job reaches a package index. An installation that the environment cannot express stays, and is a loss.
    """
    kept = text
    for match in [*_INSTALL.finditer(text)]:
        words = [word for word in match["words"].replace('"', "").replace("'", "").split() if word not in _FLAGS]
        file = _FILE.fullmatch(" ".join(words))
        lines = (environment or {}).get("requirements")
        if file is not None and has_source and environment is None:
            environment = {"requirementsFile": file["path"]}
        elif all(map(_REQUIREMENT.fullmatch, words)) and (environment is None or lines is not None):
            lines = [*(lines or []), *(word for word in words if not AZURE.match(word))]
            environment = {"requirements": list(dict.fromkeys(lines))} if lines else None
        else:
            fields.lose("command", "pip reaches no package index in a job", REMEDY)
            continue
        remaining = kept.replace(match[0].strip(), "", 1).strip()
        if remaining:
            kept = remaining
            fields.lose("command", f"pip install {' '.join(words)[:80]} went into the environment", "Keep it there")
    return kept, environment


def environment_variables(
    fields: Fields, references: References, declared: Collection[str] = ()
) -> list[dict[str, str]]:
    """Return `environment_variables` as a list, with the paths and literals that expressions stand for."""
    section = fields.section("environment_variables")
    variables: list[dict[str, str]] = []
    for key in section.keys:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key) or key.startswith("ULTRAMARINE_"):
            section.lose(key, "is not a name that a variable can have", "Choose letters, digits and '_'")
            continue
        references.missing.clear()
        text = references.fill(section.text(key))
        for missing in references.missing:
            section.lose_expression(key, missing, declared)
        if "@https://" in text and "vault.azure.net" in text:
            section.lose(key, "is not read from Azure Key Vault", "Put it into a Secret, and name it in envFrom")
        elif len(text) > MAX_VALUE or len(variables) >= MAX_VARIABLES:
            section.lose(key, "is too long, or one of too many variables", "Put it into a file of the code")
        else:
            variables.append({"name": key, "value": text})
    return variables
