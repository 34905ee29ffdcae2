"""Folders of MLflow models: flavors that the server reads without MLflow, and the requirements of all others."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import PurePosixPath

from .common import ArtifactManifest, FileEntry
from .environment_records import MAX_REQUIREMENT, MAX_REQUIREMENTS, REQUIREMENT_PATTERN
from .locations import unsafe

# Key of the file in MLmodel, by flavor; the file is in the library's own format.
FILE_KEYS = {"onnx": "data", "xgboost": "data", "lightgbm": "data", "sklearn": "pickled_model"}
MODEL_FILE, REQUIREMENTS_FILE = "MLmodel", "requirements.txt"
_MAX_TEXT = 1 << 18  # bytes of a file that is read for its text
_KEY = re.compile(r"( +)([A-Za-z0-9_.-]+):")


def flavors(text: str) -> tuple[str, ...]:
    """Return the flavors in an MLmodel that MLflow wrote; a scan by lines, whose cost no author can raise."""
    lines = iter(text.splitlines())
    if not any(re.fullmatch(r"flavors:\s*", line) for line in lines):
        return ()
    names: list[str] = []
    indent = ""
    for line in lines:
        if line[:1] not in ("", " "):
            break
        key = _KEY.match(line)
        indent = indent or (key[1] if key else "")
        if key and key[1] == indent:
            names.append(key[2])
    return tuple(names)


def requirements(text: str) -> tuple[str, ...]:
    """Return the lines of a requirements.txt without comments; none if an Environment cannot have them."""
    lines = (line.rstrip() for line in text.splitlines())
    kept = tuple(line for line in lines if line and not line.lstrip().startswith("#"))
    fits = all(len(line) <= MAX_REQUIREMENT and re.search(REQUIREMENT_PATTERN, line) for line in kept)
    return kept if len(kept) <= MAX_REQUIREMENTS and fits else ()


def needed_requirements(manifest: ArtifactManifest, read: Callable[[str], bytes]) -> tuple[str, ...]:
    """Return the requirements of a folder's model if only MLflow loads it; `read` returns a file by its path."""
    files = {entry.path: entry for entry in manifest.files}
    models = [path for path in map(PurePosixPath, files) if path.name == MODEL_FILE]
    if len(models) != 1:
        return ()
    named = flavors(_text(files.get(str(models[0])), read))
    if not named or FILE_KEYS.keys() & named:
        return ()
    return requirements(_text(files.get(str(models[0].with_name(REQUIREMENTS_FILE))), read))


def _text(entry: FileEntry | None, read: Callable[[str], bytes]) -> str:
    """Return the text of a file; empty if it is too large, or is not what the manifest lists."""
    if entry is None or entry.bytes > _MAX_TEXT or unsafe(entry.path):
        return ""
    content = read(entry.path)
    return content.decode(errors="replace") if hashlib.sha256(content).hexdigest() == entry.sha256 else ""
