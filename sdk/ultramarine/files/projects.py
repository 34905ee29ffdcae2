"""New project folders from templates."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from ultramarine_contract.errors import UltramarineError
from ultramarine_contract.meta import TRAINING_JOB

from .editors import schema_text
from .schemas import kinds

TEMPLATES = ("sklearn", "torch", "xgboost", "r")
MAX_STEM = 30  # characters of a name before its suffix
COMMON = "common"  # folder with files of every template
SCHEMA = ".ultramarine/trainingjob.json"  # that the manifest names for editors
PLACEHOLDER = re.compile(r"\bPROJECT\b")  # of the project's name, in the files of a template


class InvalidProject(UltramarineError):
    """A project that cannot be made."""

    reason = "InvalidProject"


def make_project(folder: Path, template: str) -> list[Path]:
    """Write the files of a template into a folder, and return them. Raises InvalidProject rather than overwrite.

    The project has the folder's name.
    """
    if template not in TEMPLATES:
        raise InvalidProject(f"{template} is not a template; choose one of {', '.join(TEMPLATES)}")
    name = object_name(folder.resolve().name)
    places = [resources.files(__package__) / "templates" / part for part in (COMMON, template)]
    files = [file for place in places for file in place.iterdir() if file.is_file()]  # pip leaves __pycache__ there
    texts = {folder / file.name: file.read_text("utf-8") for file in files}
    texts[folder / SCHEMA] = schema_text(kinds()[TRAINING_JOB.kind])
    if existing := [file for file in texts if file.exists()]:
        raise InvalidProject(f"{existing[0]} exists already; name another folder, or remove the file")
    try:
        for file, text in texts.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(PLACEHOLDER.sub(name, text), "utf-8")
    except OSError as error:
        raise InvalidProject(f"cannot write into {folder}: {error.strerror or error}; name another folder") from error
    return sorted(texts)


def object_name(text: str, prefix: str = "project", most: int = MAX_STEM) -> str:
    """Return a text as the name of an object: lower-case letters, digits and '-', beginning with a letter.

    A text that begins otherwise gets the prefix; the name has at most `most` characters.
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    name = name if name[:1].isalpha() else f"{prefix}-{name}"
    return name[:most].strip("-")
