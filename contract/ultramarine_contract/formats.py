"""Formats of models: their names, their detection from an artifact's files, and the ones that run code at loading."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

FORMATS = ("sklearn", "onnx", "xgboost", "lightgbm", "mlflow", "torch", "python", "pickle", "joblib", "custom")
CUSTOM = "custom"  # any files; a scoring script or a container reads them

# Loading them runs their maker's code. torch is here because a TorchScript file is a program, and
# torch.export.load unpickles what is in a .pt2. mlflow depends on what the folder holds.
CODE_EXECUTING_FORMATS = frozenset({"torch", "python", "pickle", "joblib"})

# Suffixes that name a format.
FORMAT_BY_SUFFIX = {
    ".skops": "sklearn",
    ".onnx": "onnx",
    ".ubj": "xgboost",
    ".lgb": "lightgbm",
    ".pt2": "torch",
    ".pt": "torch",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".joblib": "joblib",
}
# Suffixes that files of a named format may have too.
_MORE_SUFFIXES = {"joblib": {".pkl", ".pickle"}}
# Suffixes that other files have too, and the beginning of a model's file, without spaces.
_BEGINNINGS = {".json": ("xgboost", b'{"learner":'), ".txt": ("lightgbm", b"treeversion=")}
# Names of files that make their whole folder a model.
_FORMAT_BY_NAME = {"MLmodel": "mlflow", "model.py": "python"}
FOLDER_FORMATS = frozenset(_FORMAT_BY_NAME.values())

HEAD = 64  # bytes of a file that `models_among` wants to see


def known_formats() -> str:
    """Return the signs of a model with their formats, for messages."""
    formats = (
        FORMAT_BY_SUFFIX
        | {f"a model's {suffix}": format for suffix, (format, _) in _BEGINNINGS.items()}
        | _FORMAT_BY_NAME
    )
    return ", ".join(f"{sign} ({format})" for sign, format in formats.items())


def models_among(files: Iterable[str], format: str, head: Callable[[str], bytes]) -> dict[str, str]:
    """Return the models among an artifact's files, a file or a folder each, with their formats.

    `format` is the only one to look for, or empty for any except python: other code has a model.py too.
    `head` returns the first HEAD bytes of a file.
    """
    files = list(files)
    if format == CUSTOM:
        return {".": CUSTOM}
    if format in FOLDER_FORMATS:
        return {folder: format for folder in _folders(files, format)}
    folders = [] if format else _folders(files, "mlflow")
    models = dict.fromkeys(folders, "mlflow")
    for file in files:
        if not any(PurePosixPath(file).is_relative_to(folder) for folder in folders):
            detected = _format_of(file, head)
            if detected and format in ("", detected):
                models[file] = detected
    if not models and format:  # The loader has the best message about a file with the right name.
        suffixes = {suffix for suffix, (owner, _) in _BEGINNINGS.items() if owner == format}
        suffixes |= _MORE_SUFFIXES.get(format, set())
        models = {file: format for file in files if PurePosixPath(file).suffix in suffixes}
    return models


def _folders(files: list[str], format: str) -> list[str]:
    """Return the folders of this format: anywhere for mlflow, at the top for python."""
    paths = [path for path in map(PurePosixPath, files) if _FORMAT_BY_NAME.get(path.name) == format]
    return [str(path.parent) for path in paths if format != "python" or str(path.parent) == "."]


def _format_of(file: str, head: Callable[[str], bytes]) -> str:
    suffix = PurePosixPath(file).suffix
    if suffix not in _BEGINNINGS:
        return FORMAT_BY_SUFFIX.get(suffix, "")
    format, beginning = _BEGINNINGS[suffix]
    return format if head(file).translate(None, b" \t\r\n").startswith(beginning) else ""
