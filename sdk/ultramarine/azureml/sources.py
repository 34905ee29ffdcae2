"""Code: a local folder becomes an archive to upload or goes into the manifest, a git address a git source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ultramarine_contract.meta import Manifest

from ultramarine.azureml.context import Context
from ultramarine.azureml.data import reference
from ultramarine.azureml.fields import Fields
from ultramarine.azureml.report import Conversion, shown
from ultramarine.storage.code import inline_content

_GIT = re.compile(r"(?:git\+)?(?P<url>https?://[^\s@#?]+?|git@[^\s#?]+?)(?:\?(?P<query>[^#]*))?(?:#(?P<rest>.*))?")
_WRITES = re.compile(r"(?<![\w./-])(\./)?outputs/(?!\$)|[\"'](\./)?outputs[\"']|--\w[\w-]*[ =](\./)?outputs(?![\w.])")
CODE = (".py", ".r", ".sh", ".ipynb", ".jl")
MAX_FILES, MAX_SCANNED = 200, 1_000_000
IGNORED = re.compile(r"^\.|^__pycache__$|\.pyc$")


def source_of(context: Context, fields: Fields, key: str, name: str) -> tuple[Manifest | None, Path | None]:
    """Return the source of a job or script, and its local folder if it has one."""
    value = fields.take(key)
    text = fields.section(key).text("local_path", "path") if isinstance(value, dict) else fields.text(key)
    text = text.strip()
    if not text:
        return None, None
    match = _GIT.fullmatch(text)
    if match is not None:
        return {"git": _git(match)}, None
    if reference(text) or re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text.removeprefix("file:")):
        uri = context.upload("code", text, "code", fields.place(key), name, ".tar.gz")
        return {"uri": uri}, None
    path = context.local(fields, text)
    if not path.exists():
        fields.lose(key, f"{shown(path)} does not exist", "Correct the path, or put the code there before the upload")
    if path.is_file():
        fields.lose(key, f"{shown(path)} is a file, so its folder is the code", "Name a folder that has only the code")
        path = path.parent
    uri = context.upload("code", shown(path), "code", fields.place(key), name, ".tar.gz")
    return {"uri": uri}, path


def _git(match: re.Match[str]) -> Manifest:
    """Return a git source of an address with `#REF:PATH` or `?path=PATH`, as pip and docker write it."""
    ref, _, path = (match["rest"] or "").partition(":")
    query = dict(pair.partition("=")[::2] for pair in (match["query"] or "").split("&"))
    parts = {"url": match["url"], "ref": query.get("ref", ref), "path": query.get("path", path).strip("/")}
    return {key: text for key, text in parts.items() if text}


def writes_outputs(command: str, folder: Path | None) -> bool:
    """True if a command, or the code in a folder, names the folder ./outputs, which Azure stores by itself."""
    if _WRITES.search(re.sub(r"\$\([^)]*\)", "", command)):
        return True
    return folder is not None and any(_WRITES.search(text) for text in _scripts(folder))


def _scripts(folder: Path) -> Iterator[str]:
    try:
        paths = [path for path in islice(folder.rglob("*"), 10 * MAX_FILES) if path.suffix.lower() in CODE]
        for path in sorted(paths)[:MAX_FILES]:
            if path.is_file() and path.stat().st_size <= MAX_SCANNED:
                yield path.read_text(errors="replace")
    except OSError:
        return


def inlined(conversion: Conversion) -> Conversion:
    """Return the conversion with small flat folders of text inside the manifests; the others are still uploads."""
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
    if any(part.startswith(".") and part.strip(".") for part in folder.parts):  # such as .ssh
        return None
    try:
        paths = [path for path in sorted(folder.iterdir()) if not IGNORED.search(path.name)]
    except OSError:
        return None
    return inline_content({path.name: path for path in paths})
