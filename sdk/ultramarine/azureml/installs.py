"""`pip install` in a command: no pod of a job reaches a package index, so its packages go into the environment."""

from __future__ import annotations

import re
from typing import Any

from ultramarine.azureml.conda import AZURE
from ultramarine.azureml.fields import Fields

_INSTALL = re.compile(r"(?:(?<=[;&\n])|^)\s*(?:python3? -m )?pip3? install (?P<words>[^;&|\n]+?)\s*(?:;|&&|\n|$)")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?([=<>~!]=?[\w.*]+)?")
_FILE = re.compile(r"(?:-r|--requirement) (?P<path>[A-Za-z0-9_][\w.-]*(?:/[A-Za-z0-9_][\w.-]*)*)")
REMEDY = "List the packages in environment.requirements"


def moved_installs(
    fields: Fields, text: str, environment: dict[str, Any] | None, has_source: bool
) -> tuple[str, dict[str, Any] | None]:
    """Return a command without installations, and the environment with their packages.

    An installation that the environment cannot express stays in the command, which is a loss.
    """
    kept = text
    for match in [*_INSTALL.finditer(text)]:
        words = match["words"].replace('"', "").replace("'", "").split()
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
