"""The formats of models: which there are, how each is told from an artifact's files, and which run code at loading.

Nothing here does I/O, and nothing but the standard library is imported: trainer and server image carry this file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

FORMATS = ("sklearn", "onnx", "xgboost", "lightgbm", "mlflow", "torch", "python", "pickle", "joblib")

# Loading them runs what their maker wrote. torch is here because a TorchScript file is a program, and
# torch.export.load unpickles what is in a .pt2. mlflow depends on what the folder holds.
CODE_EXECUTING_FORMATS = frozenset({"torch", "python", "pickle", "joblib"})

# A file whose suffix says what it is.
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
# Suffixes that other files have too, and how a model's file begins, spaces left out.
_BEGINNINGS = {".json": ("xgboost", b'{"learner":'), ".txt": ("lightgbm", b"treeversion=")}
# A file that says that its whole folder is the model.
_FORMAT_BY_NAME = {"MLmodel": "mlflow", "model.py": "python"}
FOLDER_FORMATS = frozenset(_FORMAT_BY_NAME.values())

HEAD = 64  # bytes of a file that `models_among` wants to see


def known_formats() -> str:
    """Return what a model is told by, for messages."""
    told = (
        FORMAT_BY_SUFFIX
        | {f"a model's {suffix}": format for suffix, (format, _) in _BEGINNINGS.items()}
        | _FORMAT_BY_NAME
    )
    return ", ".join(f"{sign} ({format})" for sign, format in told.items())


def models_among(files: Iterable[str], wanted: str, head: Callable[[str], bytes]) -> dict[str, str]:
    """Return the models among an artifact's files, a file or a folder each, with their formats.

    `wanted` is a format, or empty for any but python: model.py is a good name for other code too.
    `head` returns the first HEAD bytes of a file.
    """
    files = list(files)
    if wanted in FOLDER_FORMATS:
        return {folder: wanted for folder in _folders(files, wanted)}
    folders = [] if wanted else _folders(files, "mlflow")
    models = dict.fromkeys(folders, "mlflow")
    for file in files:
        if not any(PurePosixPath(file).is_relative_to(folder) for folder in folders):
            format = _format_of(file, head)
            if format and wanted in ("", format):
                models[file] = format
    if not models and wanted:  # Its own loader says best what is wrong with a file of the right name.
        named = {suffix for suffix, (format, _) in _BEGINNINGS.items() if format == wanted}
        models = {file: wanted for file in files if PurePosixPath(file).suffix in named}
    return models


def _folders(files: list[str], format: str) -> list[str]:
    """Return the folders of this format: anywhere for mlflow, at the top for python, where it cannot be a module."""
    paths = [path for path in map(PurePosixPath, files) if _FORMAT_BY_NAME.get(path.name) == format]
    return [str(path.parent) for path in paths if format != "python" or str(path.parent) == "."]


def _format_of(file: str, head: Callable[[str], bytes]) -> str:
    suffix = PurePosixPath(file).suffix
    if suffix not in _BEGINNINGS:
        return FORMAT_BY_SUFFIX.get(suffix, "")
    format, beginning = _BEGINNINGS[suffix]
    return format if head(file).translate(None, b" \t\r\n").startswith(beginning) else ""
