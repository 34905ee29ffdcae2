"""Recognition of an artifact's format, the same by trainer and server, and the formats that are code."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from ultramarine.resources.model import ModelFormat
from ultramarine.resources.trainingjob import Output
from ultramarine_contract.common import ArtifactManifest, FileEntry
from ultramarine_contract.errors import StorageError
from ultramarine_contract.formats import CODE_EXECUTING_FORMATS, FOLDER_FORMATS, FORMAT_BY_SUFFIX, FORMATS
from ultramarine_contract.serving_records import ServingTask
from ultramarine_server.errors import BadRequest, LoadError, Problem
from ultramarine_server.formats.artifact import ModelFile, find_model
from ultramarine_server.formats.loading import format_module, load
from ultramarine_server.inference.warmup import warm_up
from ultramarine_trainer.data.outputs import format_of

XGBOOST, LIGHTGBM = b'{"learner":{"attributes":{}', b"tree\nversion=v4\n"


def artifact(folder: Path, files: dict[str, bytes], format: str = "auto") -> ServingTask:
    """Write an artifact and return the task that describes it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    entries = (FileEntry(name, len(c), hashlib.sha256(c).hexdigest()) for name, c in files.items())
    manifest = ArtifactManifest(tuple(entries))
    (folder / "manifest.json").write_bytes(manifest.to_json())
    return ServingTask("m", "1", "s3://b/m/", manifest.digest, format)


def test_every_format_can_be_named_told_and_served() -> None:
    """The lists of the schema, of the server and of what tells a format do not drift apart."""
    assert get_args(ModelFormat.model_fields["name"].annotation) == FORMATS
    named = get_args(get_args(Output.model_fields["format"].annotation)[0])
    assert named == ("auto", *FORMATS)
    assert all(format_module(name).PLATFORM and callable(format_module(name).load) for name in FORMATS)
    assert {*FORMAT_BY_SUFFIX.values(), *FOLDER_FORMATS, "custom"} == set(FORMATS)
    assert set(FORMATS) > CODE_EXECUTING_FORMATS


@pytest.mark.parametrize(
    ("files", "asked", "path", "format"),
    [
        ({"model.ubj": b"{L"}, "auto", "model.ubj", "xgboost"),
        ({"model.json": XGBOOST, "metrics.json": b'{"auc": 1}'}, "auto", "model.json", "xgboost"),
        ({"model.json": b' {\n "learner": {}'}, "auto", "model.json", "xgboost"),
        ({"model.json": b"shortened"}, "xgboost", "model.json", "xgboost"),
        ({"model.txt": LIGHTGBM, "requirements.txt": b"numpy\n"}, "auto", "model.txt", "lightgbm"),
        ({"model.lgb": b"tree"}, "auto", "model.lgb", "lightgbm"),
        ({"model.skops": b"1", "report.json": b"{}", "notes.txt": b"tree"}, "auto", "model.skops", "sklearn"),
        ({"model.pt2": b"1"}, "auto", "model.pt2", "torch"),
        ({"weights.gguf": b"1", "a/tokens.pkl": b"1"}, "custom", ".", "custom"),
        ({"weights/model.pt": b"1"}, "torch", "weights/model.pt", "torch"),
        ({"MLmodel": b"1", "model.skops": b"1"}, "auto", ".", "mlflow"),
        ({"logged/MLmodel": b"1", "logged/model.xgb": b"1", "card.md": b"1"}, "auto", "logged", "mlflow"),
        ({"MLmodel": b"1", "model.skops": b"1"}, "sklearn", "model.skops", "sklearn"),
        ({"model.py": b"1", "deeper/model.py": b"1", "weights.onnx": b"1"}, "python", ".", "python"),
        ({"model.py": b"1", "weights.onnx": b"1"}, "auto", "weights.onnx", "onnx"),
    ],
)
def test_the_format_is_told_from_the_files(
    tmp_path: Path, files: dict[str, bytes], asked: str, path: str, format: str
) -> None:
    """Trainer and server agree; a suffix that other files have too counts only with a model's first bytes."""
    assert find_model(tmp_path, artifact(tmp_path, files, asked)) == ModelFile(tmp_path / path, format)

    (tmp_path / "manifest.json").unlink()
    assert format_of("model", tmp_path, asked) == format


@pytest.mark.parametrize(
    ("files", "asked", "words"),
    [
        ({"model.json": b'{"a": 1}'}, "auto", r"holds model\.json"),
        ({"model.py": b"1"}, "auto", r"holds model\.py"),
        ({"deeper/model.py": b"1"}, "python", r"holds deeper/model\.py"),
        ({"a/MLmodel": b"1", "b/MLmodel": b"1"}, "auto", "holds "),
        ({"a/MLmodel": b"1", "model.onnx": b"1"}, "auto", "holds "),
        ({"a.json": XGBOOST, "b.ubj": b"1"}, "xgboost", "holds "),
    ],
)
def test_what_does_not_tell_its_format_is_refused(
    tmp_path: Path, files: dict[str, bytes], asked: str, words: str
) -> None:
    """No model or several: trainer and server name what is there."""
    with pytest.raises(LoadError, match=words) as refused:
        find_model(tmp_path, artifact(tmp_path, files, asked))
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(StorageError, match=words) as failed:
        format_of("model", tmp_path, asked)

    assert (refused.value.reason, failed.value.reason) == ("FormatUnknown", "OutputInvalid")


@pytest.mark.parametrize(
    ("name", "format", "served"),
    [("churn.json", "xgboost", True), ("churn.txt", "lightgbm", True), ("MLmodel", "mlflow", False)],
)
def test_a_single_object_is_a_file_and_no_folder(tmp_path: Path, name: str, format: str, served: bool) -> None:
    """The format of the ModelVersion counts for a name that tells little; a folder's needs the slash."""
    (tmp_path / name).write_bytes(b"1")
    task = ServingTask("m", "1", f"s3://b/{name}", "sha256:" + hashlib.sha256(b"1").hexdigest(), format)

    if served:
        assert find_model(tmp_path, task) == ModelFile(tmp_path / name, format)
    else:
        with pytest.raises(LoadError, match="register a uri that ends in a slash"):
            find_model(tmp_path, task)


def loaded(path: Path, format: str, *, allowed: bool = True, signature: dict[str, Any] | None = None) -> Any:
    task = ServingTask("m", "1", "", "", format, allow_code_execution=allowed, signature=signature)
    return load(ModelFile(path, format), task, 1)


@pytest.mark.attack("model/pickles")
@pytest.mark.parametrize("format", sorted(CODE_EXECUTING_FORMATS))
def test_code_waits_for_leave(tmp_path: Path, format: str) -> None:
    """Nothing is even opened before the ModelVersion allows it."""
    with pytest.raises(LoadError, match=f"absent is of format {format}, which runs code") as caught:
        loaded(tmp_path / "absent", format, allowed=False)

    assert caught.value.reason == "CodeExecutionRefused"


# Python


@pytest.fixture(autouse=True)
def forget_models() -> Iterator[None]:
    """A pod serves one model of format python; these tests load many."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in ("model", "beside"):
        sys.modules.pop(name, None)


DECLARED = {
    "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1]}],
}
DOUBLING = """
import numpy as np
from beside import factor

class Model:
    signature = {
        "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP64", "shape": [-1]}],
    }

    def load(self, folder):
        self.offset = float((folder / "offset").read_text())

    def predict(self, inputs):
        if (inputs["x"] < 0).any():
            raise ValueError("x must not be negative")
        return {"y": inputs["x"].sum(axis=1) * factor + self.offset}
"""


def test_a_class_predicts_with_what_lies_beside_it(tmp_path: Path) -> None:
    """model.py imports its neighbours, reads its folder in `load`, and says what it takes and gives."""
    for name, text in (("model.py", DOUBLING), ("beside.py", "factor = 2"), ("offset", "0.5")):
        (tmp_path / name).write_text(text)

    model = loaded(tmp_path, "python")

    assert model.signature.to_dict() == DECLARED
    assert model.predict({"x": np.array([[1.0, 2.0], [0.0, 0.0]])}, ["y"])["y"].tolist() == [6.5, 0.5]
    with pytest.raises(BadRequest, match="the model cannot take these values: x must not be negative"):
        model.predict({"x": np.array([[-1.0, 2.0]])}, ["y"])


def test_an_output_that_is_missing_is_the_models_fault(tmp_path: Path) -> None:
    """A class that forgets an output answers 500 with its name; the registered signature needs none of its own."""
    (tmp_path / "model.py").write_text("class Model:\n    def predict(self, inputs):\n        return {'z': 1}\n")

    model = loaded(tmp_path, "python", signature=DECLARED)

    with pytest.raises(Problem, match="has to return y") as caught:
        model.predict({"x": np.zeros((1, 2))}, ["y"])
    assert caught.value.status == 500


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("None", "returned None; return {'y': ...}"),
        ("[1.0]", "returned a list of float; return"),
        ("{'y': None}", "returned None as y, which cannot be sent as FP64"),
        ("{'y': [[1.0], [2.0, 3.0]]}", "returned a list of list as y"),
        ("{'y': [{'label': 1}]}", "returned a list of dict as y, .*; return a numpy array, or lists that are evenly"),
        ("{'y': np.array(['high'])}", "returned an ndarray of <U4 as y"),
        ("{'y': np.array([1j])}", "returned an ndarray of complex128 as y"),
    ],
)
def test_an_answer_that_cannot_be_sent_is_told_and_found_by_the_warm_up(
    tmp_path: Path, returned: str, words: str
) -> None:
    """The error has the returned and the allowed value, and no endpoint gets Ready with such a model."""
    code = f"import numpy as np\nclass Model:\n    def predict(self, inputs):\n        return {returned}\n"
    (tmp_path / "model.py").write_text(code)
    model = loaded(tmp_path, "python", signature=DECLARED)

    with pytest.raises(Problem, match=words) as caught:
        model.predict({"x": np.ones((1, 2))}, ["y"])
    assert caught.value.status == 500
    with pytest.raises(LoadError, match=words) as refused:
        warm_up(model, "", 0.001)
    assert refused.value.reason == "WarmupFailed"


def test_an_answer_keeps_its_values_or_is_not_sent(tmp_path: Path) -> None:
    """Other numbers than the class gave would be wrong answers; rounding to FP32 is what FP32 means."""
    code = "class Model:\n    values = []\n    def predict(self, inputs):\n        return {'y': self.values}\n"
    (tmp_path / "model.py").write_text(code)
    returned: list[tuple[str, Any, Any]] = [
        ("INT64", [0.7, 1.9], r"INT64 \(0\.7 would become 0\); return .* of values that INT64 can hold"),
        ("INT64", ["3"], "3 would become 3"),
        ("INT32", [1.0, np.nan], "nan would become"),
        ("UINT8", [300.0], "300.0 would become 44"),
        ("UINT64", [-1], "-1 would become"),
        ("FP32", [1.0, 1e300], r"1e\+300 would become inf"),
        ("BOOL", ["False"], "its dtype is neither bool nor a number"),
        ("BOOL", [2], "2 would become True"),
        ("INT64", [[1.0], [-2.0]], [[1], [-2]]),
        ("UINT8", np.array([255, True], dtype=object), [255, 1]),
        ("FP32", [1 / 3, np.inf, None], [float(np.float32(1 / 3)), np.inf, np.nan]),
        ("BOOL", [True, False], [True, False]),
        ("BOOL", [1, 0.0], [True, False]),
        ("BOOL", [], []),
    ]
    for datatype, values, expected in returned:
        output = {"name": "y", "datatype": datatype, "shape": [-1]}
        model = loaded(tmp_path, "python", signature={**DECLARED, "outputs": [output]})
        sys.modules["model"].Model.values = values
        if isinstance(expected, str):
            with pytest.raises(Problem, match=expected) as caught:
                model.predict({"x": np.ones((1, 2))}, ["y"])
            assert caught.value.status == 500
        else:
            np.testing.assert_array_equal(model.predict({"x": np.ones((1, 2))}, ["y"])["y"], expected)


@pytest.mark.parametrize(
    ("value", "words"),
    [("len(t)", "TypeError: object of type 'NoneType' has no len"), ("int(t and '3' or 'x')", "invalid literal")],
)
def test_a_missing_text_reaches_a_class_as_none(tmp_path: Path, value: str, words: str) -> None:
    """One that does not look for it refuses the values, and is not said to have failed."""
    code = f"class Model:\n    def predict(self, inputs):\n        return {{'y': [{value} for t in inputs['x']]}}\n"
    (tmp_path / "model.py").write_text(code)
    text = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1]}], "outputs": DECLARED["outputs"]}
    model = loaded(tmp_path, "python", signature=text)

    assert model.predict({"x": np.array(["abc"], dtype=object)}, ["y"])["y"].tolist() == [3]
    with pytest.raises(BadRequest, match=rf"{words}.*'x' had a missing value"):
        model.predict({"x": np.array(["abc", None], dtype=object)}, ["y"])


@pytest.mark.parametrize(
    ("text", "reason", "words"),
    [
        ("x = 1", "ModelUnsupported", "no class Model with a method predict"),
        ("class Model:\n    predict = 1", "ModelUnsupported", "no class Model with a method predict"),
        ("class Model:\n    def predict(self, x): ...", "SignatureInvalid", "set spec.signature of the ModelVersion"),
        (
            "class Model:\n    signature = {'inputs': [{'name': 'x'}]}\n    def predict(self, x): ...",
            "SignatureInvalid",
            r"Model\.signature\.inputs\[0\] needs",
        ),
        (
            "import no_such_library",
            "DependencyMissing",
            "No module named 'no_such_library'.*add its package to environment",
        ),
        ("class Model", "ModelCorrupt", "SyntaxError"),
        ("1 / 0", "ModelCorrupt", "ZeroDivisionError"),
    ],
)
def test_code_that_is_no_model_is_refused(tmp_path: Path, text: str, reason: str, words: str) -> None:
    """Each has its own reason, and the next try starts afresh."""
    (tmp_path / "model.py").write_text(text)

    for _ in range(2):
        with pytest.raises(LoadError, match=words) as caught:
            loaded(tmp_path, "python")
        assert caught.value.reason == reason


def test_a_second_python_model_is_refused(tmp_path: Path) -> None:
    """Modules of the same name are not mixed up between two folders."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.py").write_text("class Model:\n    def predict(self, inputs):\n        return {}\n")
    loaded(tmp_path / "one", "python", signature=DECLARED)

    with pytest.raises(LoadError, match="a pod serves one model of format python"):
        loaded(tmp_path / "two", "python", signature=DECLARED)


# PyTorch; what its programs answer is tested where torch is, in tests/pytorch


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "{}")
    return path


@pytest.mark.parametrize(
    "names", [["m/models/model.json"], ["serialized_exported_program.json"], ["m/code/__torch__.py", "m/constants.pkl"]]
)
def test_a_program_without_torch_says_how_to_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str]
) -> None:
    """The server image has no torch; the message leads to an image that has."""
    monkeypatch.setitem(sys.modules, "torch", None)  # as in the image, wherever this runs

    with pytest.raises(
        LoadError, match=r"needs torch.*images\.server of the chart.*or export the model as ONNX"
    ) as caught:
        loaded(archive(tmp_path / "model.pt", *names), "torch")

    assert caught.value.reason == "DependencyMissing"


@pytest.mark.parametrize(
    ("content", "reason", "words"),
    [
        (None, "ModelUnsupported", "weights or a pickled module, and no program; store the model with torch.export"),
        (b"", "ModelCorrupt", "not a readable torch model"),
        (b"garbage" * 100, "ModelCorrupt", "not a readable torch model"),
    ],
)
def test_a_file_without_a_program_is_refused(tmp_path: Path, content: bytes | None, reason: str, words: str) -> None:
    """A file of torch.save, or one that is not an archive, is refused without torch."""
    path = archive(tmp_path / "model.pt", "model/data.pkl", "model/data/0")
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(LoadError, match=words) as caught:
        loaded(path, "torch")

    assert caught.value.reason == reason
