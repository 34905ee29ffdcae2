"""Servers that `serving.py` compares: their requirements, their start, and their requests."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import skops.io
from served.fit import MODELS
from skl2onnx import to_onnx
from ultramarine_cluster.paths import REPOSITORY
from ultramarine_cluster.venvs import python_with
from ultramarine_contract.serving_records import ServingTask
from unit.serving_process import LABELS, ROWS, environment

SERVED = Path(__file__).resolve().parent / "served"
KEY = "key-of-the-benchmark"
# So that every server reads the same pickle.
SCIKIT_LEARN = "scikit-learn==1.9.1"
# No server may report home, nor start a thread for each core of the machine.
QUIET = {
    "BENTOML_DO_NOT_TRACK": "True",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Dialect:
    """Format of a server's requests and answers."""

    path: str
    question: Callable[[Any], dict[str, Any]]
    labels: Callable[[Any], list[float]]


@dataclass(frozen=True)
class Place:
    """Place of a server: its Python, the folder with its model, and its port."""

    python: Path
    folder: Path
    port: int


def _v2(name: str, datatype: str, output: str = "") -> Dialect:
    def question(rows: Any) -> dict[str, Any]:
        tensor = {"name": name, "shape": list(rows.shape), "datatype": datatype, "data": rows.ravel().tolist()}
        return {"inputs": [tensor]} | ({"outputs": [{"name": output}]} if output else {})

    return Dialect("/v2/models/cancer/infer", question, lambda answer: list(answer["outputs"][0]["data"]))


def _plain(path: str, word: str, labels: Callable[[Any], list[float]]) -> Dialect:
    return Dialect(path, lambda rows: {word: rows.tolist()}, labels)


def _ours(place: Place) -> list[str]:
    ports = ["--host", "127.0.0.1", "--port", str(place.port), "--grpc-port", str(place.port + 1)]
    files = ["--model-dir", str(place.folder), "--keys-dir", str(place.folder / "keys")]
    log = ["--termination-log", str(place.folder / "log")]
    # Without `site` there is nothing of an editable install, which only a checkout has; `lay_out` names the packages.
    return [str(place.python), "-S", "-m", "ultramarine_server", "serve", *ports, *files, *log]


def _script(name: str) -> Callable[[Place], list[str]]:
    return lambda place: [str(place.python), str(SERVED / name), str(place.folder), str(place.port)]


def _bentoml(place: Place) -> list[str]:
    program = str(place.python.with_name("bentoml"))
    return [program, "serve", "bentoml_sklearn:Cancer", "--working-dir", str(SERVED), "-p", str(place.port)]


def _mlflow(place: Place) -> list[str]:
    words = ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(place.port), "--workers", "1"]
    return [str(place.python.with_name("mlflow")), "models", "serve", "-m", str(place.folder / "model"), *words]


def _mlserver(workers: int) -> Callable[[Place], list[str]]:
    def argv(place: Place) -> list[str]:
        ports = {"http_port": place.port, "grpc_port": place.port + 1, "metrics_port": place.port + 2}
        settings = {"host": "127.0.0.1", "debug": False, "parallel_workers": workers, **ports}
        parameters = {"uri": str(place.folder / "model.joblib"), "version": "1"}
        model = {"name": "cancer", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": parameters}
        (place.folder / "settings.json").write_text(json.dumps(settings))
        (place.folder / "model-settings.json").write_text(json.dumps(model))
        return [str(place.python.with_name("mlserver")), "start", str(place.folder)]

    return argv


@dataclass(frozen=True)
class Server:
    """Row of the tables; a server without requirements runs in the project's own virtualenv."""

    title: str
    argv: Callable[[Place], list[str]]
    dialect: Dialect
    form: str  # skops | onnx | joblib | mlflow
    requirements: tuple[str, ...] = ()
    packaged: bool = False  # a product, not a server written by hand
    shown: tuple[str, ...] = field(default=())  # the packages whose versions the title goes with

    @property
    def ours(self) -> bool:
        return not self.requirements


_MLSERVER = Server(
    "mlserver, one worker process",
    _mlserver(1),
    _v2("input", "FP64"),
    "joblib",
    ("mlserver==1.7.1", "mlserver-sklearn==1.7.1", "uvloop==0.21.0", SCIKIT_LEARN),
    packaged=True,
    shown=("mlserver", "uvloop"),
)
_PREDICTIONS = _plain("/predict", "rows", lambda answer: answer["predictions"])
SERVERS = {
    "ours": Server("**Ultramarine**, skops (native)", _ours, _v2("input", "FP64", "predict"), "skops"),
    "ours-onnx": Server(
        "**Ultramarine**, ONNX by skl2onnx (what `spec.compile` makes)", _ours, _v2("X", "FP32", "label"), "onnx"
    ),
    "bare": Server(
        "bare Starlette + msgspec + orjson + ONNX Runtime",
        _script("bare.py"),
        _v2("X", "FP32"),
        "onnx",
        (
            "starlette==1.3.1",
            "uvicorn==0.54.0",
            "uvloop==0.23.0",
            "httptools==0.9.0",
            "msgspec==0.22.0",
            "orjson==3.13.0",
            "onnxruntime==1.32.0",
            "numpy==2.4.6",
        ),
        shown=("starlette", "msgspec", "onnxruntime"),
    ),
    "fastapi": Server(
        "hand-written FastAPI + scikit-learn",
        _script("fastapi_sklearn.py"),
        _PREDICTIONS,
        "joblib",
        ("fastapi==0.165.0", "uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0", SCIKIT_LEARN),
        shown=("fastapi", "uvicorn"),
    ),
    "mlserver": _MLSERVER,
    "mlserver-0": replace(_MLSERVER, title="mlserver, no worker process", argv=_mlserver(0)),
    "kserve": Server(
        "kserve",
        _script("kserve_sklearn.py"),
        _v2("input", "FP64"),
        "joblib",
        ("kserve==0.21.0", SCIKIT_LEARN),
        packaged=True,
        shown=("kserve",),
    ),
    "mlflow": Server(
        "mlflow models serve",
        _mlflow,
        _plain("/invocations", "inputs", lambda answer: answer["predictions"]),
        "mlflow",
        ("mlflow==3.17.2", SCIKIT_LEARN),
        packaged=True,
        shown=("mlflow",),
    ),
    "litserve": Server(
        "litserve",
        _script("litserve_sklearn.py"),
        _PREDICTIONS,
        "joblib",
        ("litserve==0.2.19", SCIKIT_LEARN),
        packaged=True,
        shown=("litserve",),
    ),
    "bentoml": Server(
        "bentoml",
        _bentoml,
        _plain("/predict", "rows", lambda answer: answer),
        "joblib",
        ("bentoml==1.4.40", SCIKIT_LEARN),
        packaged=True,
        shown=("bentoml",),
    ),
}


def python_of(server: Server) -> Path:
    """Return the Python that runs this server; install its requirements first if necessary."""
    return Path(sys.executable) if server.ours else python_with(server.shown[0], *server.requirements)


def versions(server: Server) -> str:
    """Return the installed versions of the row's packages."""
    if server.ours:
        return "this repository"
    code = "import sys, importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    process = subprocess.run([python_of(server), "-c", code, *server.shown], check=True, capture_output=True, text=True)
    return process.stdout.strip()


def lay_out(server: Server, model: str, folder: Path) -> dict[str, str]:
    """Put the model into the folder, in the server's form; return the environment that the server needs."""
    if server.form in ("joblib", "mlflow"):
        words: list[str | Path] = [python_of(server), SERVED / "fit.py", model, folder, server.form]
        outside = environment() | QUIET | {"PYTHONPATH": ""}
        fitted = subprocess.run(words, env=outside, capture_output=True, text=True)
        if fitted.returncode:
            raise SystemExit(f"{server.title} could not store the model {model}: {fitted.stderr[-2000:]}")
        # MLflow starts its server by names that it looks for on PATH.
        path = f"{python_of(server).parent}:{outside['PATH']}"
        return outside | {"MODEL_FOLDER": str(folder), "PATH": path}
    estimator = MODELS[model]().fit(ROWS, LABELS)
    file = folder / f"model.{server.form}"
    if server.form == "skops":
        skops.io.dump(estimator, file)
    else:
        onnx = to_onnx(estimator, ROWS[:1].astype("float32"), options={"zipmap": False})
        file.write_bytes(onnx.SerializeToString())
    if not server.ours:
        return environment() | QUIET | {"PYTHONPATH": ""}
    (folder / "keys").mkdir()
    (folder / "keys" / "primary").write_text(KEY)
    digest = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    # skops trusts no trees of scikit-learn's, since their numbers are addresses; ONNX needs no such trust.
    trusted = server.form == "skops"
    task = ServingTask("cancer", "1", f"s3://b/{file.name}", digest, "auto", trusted, max_concurrent_requests=100)
    # As in the image: compiled, and no more places to look for modules, each of which costs every import a look.
    packages = [REPOSITORY / "contract", REPOSITORY / "server-image"]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *packages], check=True)
    path = os.pathsep.join(map(str, (*packages, sysconfig.get_path("purelib"))))
    return environment() | QUIET | {"PYTHONPATH": path, "ULTRAMARINE_TASK": task.to_json()}


def expected(model: str, count: int) -> list[float]:
    """Return the correct labels of the first rows, which the estimator itself predicts."""
    return list(MODELS[model]().fit(ROWS, LABELS).predict(ROWS[:count]).astype(float))
