"""Conda files: the pip part becomes requirements, and packages that PyPI has under the same name too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ultramarine_contract.environment_records import MAX_REQUIREMENT, MAX_REQUIREMENTS, REQUIREMENT_PATTERN

from ultramarine.azureml.context import Context
from ultramarine.azureml.fields import Fields
from ultramarine.azureml.reading import Unreadable
from ultramarine.azureml.report import shown

PLATFORM_PYTHON = "3.11"  # of the trainer's and the server's image
# Packages whose name and content are the same on PyPI, and those with another name there.
SAME = re.compile(
    "absl-py|bokeh|catboost|click|cloudpickle|cython|dask|datasets|distributed|fastapi|flask|fsspec|gensim|"
    "gunicorn|h5py|holidays|imbalanced-learn|ipykernel|jinja2|joblib|jsonschema|jupyter|keras|lightgbm|mlflow|"
    "mlflow-skinny|nbconvert|nltk|notebook|numba|numpy|onnx|onnxruntime|openpyxl|optuna|pandas|papermill|pillow|"
    "plotly|polars|prophet|protobuf|psutil|pyarrow|pydantic|pytest|python-dateutil|pyyaml|requests|s3fs|"
    "scikit-image|scikit-learn|scipy|seaborn|sentencepiece|shap|spacy|sqlalchemy|statsmodels|tensorboard|tensorflow|"
    "tokenizers|torchaudio|torchvision|tqdm|transformers|uvicorn|xgboost"
)
RENAMED = {"pytorch": "torch", "pytorch-cpu": "torch", "py-xgboost": "xgboost", "tensorflow-gpu": "tensorflow"}
# Packages of Azure's own services, which have nothing to reach here, and what conda itself needs.
AZURE = re.compile(
    r"azureml-(core|defaults|mlflow|sdk|train|dataset|dataprep|telemetry|pipeline|contrib|automl|interpret|inference)"
)
# What packages of Azure bring along, and scripts import.
BROUGHT = {
    "azureml-mlflow": "mlflow-skinny",
    "azureml-defaults": "inference-schema",
    "azureml-inference-server-http": "inference-schema",
}
INSTALLERS = frozenset({"pip", "setuptools", "wheel", "conda", "libgcc", "libgcc-ng", "ca-certificates", "openssl"})
_SPEC = re.compile(r"(?:[\w-]+::)?(?P<name>[A-Za-z0-9_.-]+)\s*(?P<rest>.*)")


def requirements_of(context: Context, fields: Fields, key: str) -> list[str]:
    """Return the requirements of a conda file: a path, or its content."""
    value = fields.take(key)
    if isinstance(value, dict):
        return conda_requirements(fields.section(key))
    text = fields.text(key)
    if not text:
        return []
    path = context.local(fields, text)
    try:
        document = context.part(fields, path)
    except Unreadable as error:
        fields.lose(key, f"{shown(path)} {error.message.partition('. ')[0]}", "Correct it, or list packages by hand")
        return []
    return conda_requirements(context.fields(document))


def is_conda(value: dict[str, Any]) -> bool:
    """True if a document is a conda file."""
    return (
        isinstance(value.get("dependencies"), list)
        and not {"command", "jobs", "endpoint_name", "apiVersion"} & value.keys()
    )


def conda_requirements(fields: Fields) -> list[str]:
    """Return the requirements of the content of a conda file."""
    lines: list[str] = []
    is_pip = "build_dependencies" in fields  # python_env.yaml of MLflow
    if is_pip and fields.text("python").rpartition(".")[0] not in ("", PLATFORM_PYTHON):
        problem = f"{fields.text('python')} became {PLATFORM_PYTHON}, since the pods run on the platform's images"
        fields.lose("python", problem, f"Raise the versions of packages that have no build for {PLATFORM_PYTHON}")
    for number, entry in enumerate(fields.items("dependencies")):
        if isinstance(entry, dict) and isinstance(entry.get("pip"), list):
            for index, line in enumerate(entry["pip"]):
                lines += _of_pip(fields, str(line).strip(), (str(number), "pip", str(index)))
        elif isinstance(entry, str) and is_pip:
            lines += _of_pip(fields, entry.strip(), (str(number),))
        elif isinstance(entry, str):
            lines += _of_conda(fields, entry.strip(), (str(number),))
        else:
            remedy = "Write names and versions, and one pip list"
            fields.lose("dependencies", f"{entry!s:.60} is not a package", remedy, str(number))
    fields.close(
        {"variables": ("are not set", "Write them into env")},
        ignored=("name", "channels", "prefix", "build_dependencies"),
    )
    if len(lines) > MAX_REQUIREMENTS:
        fields.lose(
            "dependencies", f"has {len(lines)} packages, and {MAX_REQUIREMENTS} are kept", "List direct ones alone"
        )
    names = {re.split(r"[^A-Za-z0-9_.-]", line)[0].lower() for line in lines if line not in BROUGHT.values()}
    if "mlflow" in names:
        names.add("mlflow-skinny")
    return [line for line in dict.fromkeys(lines) if line not in BROUGHT.values() or line not in names][
        :MAX_REQUIREMENTS
    ]


def _of_pip(fields: Fields, line: str, at: tuple[str, ...]) -> list[str]:
    line = re.sub(r"\s+#.*$", "", line)
    name = re.split(r"[^A-Za-z0-9_.-]", line)[0].lower().replace("_", "-")
    if line.startswith(("-r ", "--requirement ")):
        return _of_file(fields, line.split(maxsplit=1)[1], at)
    problem, remedy = "", ""
    if name in BROUGHT:
        return [BROUGHT[name]]
    if AZURE.match(name):
        problem, remedy = f"{name} serves Azure alone, and is left out", "Remove its imports from the code"
    elif line.startswith(("-e", "-c", "--editable", "--constraint", ".", "/", "git+")) or "@ git+" in line:
        problem, remedy = f"{line[:60]} is not in a package index", "Publish it, or copy it into the code"
    elif len(line) > MAX_REQUIREMENT:
        problem, remedy = f"has more than {MAX_REQUIREMENT} characters", "Shorten it"
    elif line and not line.startswith("#") and not re.search(REQUIREMENT_PATTERN, line):
        problem, remedy = f"{line[:60]} is not a line that a build takes", "Write a package such as lightgbm==4.6"
    if problem:
        fields.lose("dependencies", problem, remedy, *at)
    return [line] if line and not problem and not line.startswith("#") else []


def _of_file(fields: Fields, text: str, at: tuple[str, ...]) -> list[str]:
    path: Path = fields.document.file.parent / text
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError):
        fields.lose("dependencies", f"{shown(path)} cannot be read", "Correct the path, or list the packages", *at)
        return []
    return [kept for line in lines if not line.startswith("-r") for kept in _of_pip(fields, line.strip(), at)]


def _of_conda(fields: Fields, entry: str, at: tuple[str, ...]) -> list[str]:
    match = _SPEC.fullmatch(entry)
    name = match["name"].lower() if match else entry
    version = match["rest"].strip() if match else ""
    if name == "python":
        number = re.search(r"\d+\.\d+", version)
        if number and number[0] != PLATFORM_PYTHON and "<" not in version and ">" not in version:
            problem = f"Python {number[0]} became {PLATFORM_PYTHON}, since the pods run on the platform's images"
            remedy = f"Raise the versions of packages that have no build for {PLATFORM_PYTHON}"
            fields.lose("dependencies", problem, remedy, *at)
        return []
    if name in INSTALLERS:
        return []
    pip_name = RENAMED.get(name, name if SAME.fullmatch(name) else "")
    if not pip_name:
        remedy = "Install it in an image built on the trainer's"
        fields.lose("dependencies", f"{name} comes from conda alone", remedy, *at)
        return []
    return [pip_name + _as_pip(version)]


def _as_pip(version: str) -> str:
    """Return a version of conda as pip writes it: 1.2 and 1.2=build mean any 1.2."""
    if match := re.fullmatch(r"=\s*([\w.*]+)(=.*)?", version):
        return f"=={match[1]}" if match[1].endswith("*") or match[1].count(".") > 1 else f"=={match[1]}.*"
    return version.replace(" ", "") if re.fullmatch(r"(==|[<>~!]=?)[\w.*,<>=!~ ]+", version) else ""
