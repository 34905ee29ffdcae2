"""Inline code: a small flat folder of text goes into the manifest, so that the manifest needs no upload."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ultramarine.azureml.report import Conversion

MAX_CHARACTERS, MAX_FILES = 200_000, 32
IGNORED = re.compile(r"^\.|^__pycache__$|\.pyc$")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}")


def inlined(conversion: Conversion) -> Conversion:
    """Return the conversion with small code folders inside the manifests; the others are still uploads."""
    files = {
        upload.uri: content
        for upload in conversion.uploads
        if upload.kind == "code" and upload.is_local and (content := _content(Path(upload.source)))
    }

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            if value.keys() == {"uri"} and value["uri"] in files:
                return {"inline": files[value["uri"]]}
            return {key: filled(child) for key, child in value.items()}
        return [filled(child) for child in value] if isinstance(value, list) else value

    return replace(
        conversion,
        manifests=[filled(manifest) for manifest in conversion.manifests],
        uploads=[upload for upload in conversion.uploads if upload.uri not in files],
    )


def _content(folder: Path) -> dict[str, str] | None:
    """Return the files of a folder, or None if it is nested, large or not text."""
    content: dict[str, str] = {}
    if any(part.startswith(".") and part.strip(".") for part in folder.parts):  # such as .ssh
        return None
    try:
        for path in sorted(folder.iterdir()):
            if IGNORED.search(path.name):
                continue
            if not path.is_file() or not _NAME.fullmatch(path.name) or path.stat().st_size > MAX_CHARACTERS:
                return None
            content[path.name] = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    is_small = len(content) <= MAX_FILES and sum(map(len, content.values())) <= MAX_CHARACTERS
    return content if content and is_small and not any("\0" in text for text in content.values()) else None
