"""Folders as MLflow logs them: what is served without MLflow, what needs leave to run code, and what is refused."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from pathlib import Path
from typing import Any

import httpx
import lightgbm
import mlflow
import numpy as np
import pytest
import skops.io
import xgboost
import yaml
from serving_process import serving
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from ultramarine_contract.common import ArtifactManifest, FileEntry
from ultramarine_contract.serving_records import ServingTask
from ultramarine_contract.version_records import CompileTask
from ultramarine_server.compiling.compile import compile_model
from ultramarine_server.errors import LoadError
from ultramarine_server.formats.artifact import ModelFile
from ultramarine_server.formats.loading import load

RECORDED = Path(__file__).parent / "mlflow-3.17.2"
FRAME, CLASSES = load_iris(return_X_y=True, as_frame=True)
ROWS = FRAME.to_numpy()
FEW: dict[str, Any] = {"n_estimators": 5, "max_depth": 2, "n_jobs": 1}


def folder_of(name: str, base: Path) -> tuple[Path, Any]:
    """Make the folder of a recorded MLmodel with a model beside it; return the expected predictions, too."""
    folder = base / name
    shutil.copytree(RECORDED / name, folder)
    linear = LogisticRegression(max_iter=500).fit(FRAME if name.endswith("skops") else ROWS, CLASSES)
    trees = lightgbm.LGBMClassifier(verbose=-1, **FEW).fit(FRAME, CLASSES)
    predicted = linear.predict(FRAME if name.endswith("skops") else ROWS)
    match name:
        case "sklearn-skops":
            skops.io.dump(linear, folder / "model.skops")
        case "sklearn-pickle":
            (folder / "model.pkl").write_bytes(pickle.dumps(linear))
        case "xgboost":
            grown = xgboost.XGBClassifier(**FEW).fit(FRAME, CLASSES)
            grown.save_model(folder / "model.ubj")
            predicted = grown.predict(FRAME)
        case "lightgbm":
            trees.booster_.save_model(folder / "model.lgb")
            predicted = trees.booster_.predict(FRAME)
        case "lightgbm-skops":
            skops.io.dump(trees, folder / "model.skops")
            predicted = trees.predict(FRAME)
        case "onnx":
            plain = to_onnx(linear, ROWS[:1].astype(np.float32), options={"zipmap": False})
            (folder / "model.onnx").write_bytes(plain.SerializeToString())
    return folder, predicted


def loaded(folder: Path, *, allowed: bool = False, signature: dict[str, Any] | None = None) -> Any:
    task = ServingTask("m", "1", "", "", "mlflow", allow_code_execution=allowed, signature=signature)
    return load(ModelFile(folder, "mlflow"), task, 1)


def served_task(folder: Path) -> ServingTask:
    """Write the manifest of a folder, and return the task to serve it."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    entries = (FileEntry(name, len(c), hashlib.sha256(c).hexdigest()) for name, c in files.items())
    manifest = ArtifactManifest(tuple(entries), "mlflow")
    (folder / "manifest.json").write_bytes(manifest.to_json())
    return ServingTask("iris", "1", "s3://b/iris/", manifest.digest, "auto", auth="none")


@pytest.mark.parametrize("framed", [True, False])
def test_a_model_answers_the_examples_that_mlflow_wrote_beside_it(framed: bool, tmp_path: Path) -> None:
    """A forest with missing values, saved by MLflow itself, which writes NaN, no JSON, for those of a data frame."""
    rows = FRAME if framed else ROWS
    holes = rows.copy()
    (holes.iloc if framed else holes)[::7, 1] = np.nan
    forest = make_pipeline(SimpleImputer(), RandomForestClassifier(5, random_state=0)).fit(holes, CLASSES)
    folder = tmp_path / "logged"
    mlflow.sklearn.save_model(
        forest,
        folder,
        serialization_format="skops",
        skops_trusted_types=[
            "numpy.dtype",
            "sklearn.tree._tree.Tree",
        ],  # which MLflow does not trust, and the server does
        input_example=holes[:3],
        signature=mlflow.models.infer_signature(holes, forest.predict(holes)),
        pip_requirements=[],
    )
    predicted = forest.predict(holes[:3]).tolist()
    example = (folder / "serving_input_example.json").read_bytes()
    assert (b"NaN" if framed else b"null") in example

    with serving(folder, served_task(folder)) as server:
        url = server.url
        for path in ("/invocations", "/score"):
            assert httpx.post(url + path, content=example).json()["predictions"] == predicted
            assert httpx.post(url + path, content=example.replace(b"NaN", b"null")).json()["predictions"] == predicted
        plain = (folder / "input_example.json").read_bytes()
        assert httpx.post(url + "/invocations", content=plain).json() == {"predictions": predicted}


def test_a_folder_is_served_over_http(tmp_path: Path) -> None:
    """The server's process checks every file of the folder, finds the model in it and answers by its columns."""
    folder, predicted = folder_of("xgboost", tmp_path)
    task = served_task(folder)
    columns = [
        {"name": name, "shape": [len(values)], "datatype": "FP64", "data": values.tolist()}
        for name, values in FRAME.items()
    ]

    with serving(folder, task) as server:
        metadata = server.get("/v2/models/iris").json()
        answer = httpx.post(f"{server.url}/v2/models/iris/infer", json={"inputs": columns}, timeout=240).json()

    assert metadata["platform"] == "mlflow_folder"
    assert answer["outputs"][0]["name"] == "predict"
    assert answer["outputs"][0]["data"] == predicted.tolist()


def edited(folder: Path, **changes: Any) -> Path:
    """Change fields of MLmodel; a dict goes into the one that is there, None takes the field away."""
    document = yaml.safe_load((folder / "MLmodel").read_text())
    for name, value in changes.items():
        if value is None:
            del document[name]
        else:
            document[name] = {**document[name], **value} if isinstance(value, dict) else value
    (folder / "MLmodel").write_text(yaml.safe_dump(document))
    return folder


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("sklearn-skops", "predict INT64 [-1]"),
        ("xgboost", "predict INT64 [-1]"),
        ("lightgbm", "predict FP64 [-1, 3]"),
        ("lightgbm-skops", "predict INT64 [-1]"),
    ],
)
def test_a_logged_model_takes_the_columns_that_it_was_logged_with(tmp_path: Path, name: str, first: str) -> None:
    """The library's own file is served without leave to run code, by the names and datatypes of MLmodel."""
    folder, predicted = folder_of(name, tmp_path)

    model = loaded(folder)

    inputs = [(spec.name, spec.datatype, spec.shape) for spec in model.signature.inputs]
    assert inputs == [(column, "FP64", (-1,)) for column in FRAME]
    output = model.signature.outputs[0]
    assert f"{output.name} {output.datatype} {list(output.shape)}" == first
    columns = {str(column): values.to_numpy() for column, values in FRAME.items()}
    np.testing.assert_array_equal(model.predict(columns, ["predict"])["predict"], predicted)


def test_an_onnx_model_tells_its_tensors_itself(tmp_path: Path) -> None:
    """MLflow's nameless tensors do not hide the names of the model."""
    folder, predicted = folder_of("onnx", tmp_path)

    model = loaded(folder)

    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [("X", "FP32")]
    np.testing.assert_array_equal(model.predict({"X": ROWS.astype(np.float32)}, ["label"])["label"], predicted)


@pytest.mark.attack(
    "model/mlflow-folder",
    asset="the serving pod",
    threat="a folder of MLflow holds a pickle, names types to trust, or a file elsewhere",
    control="its file's format decides; its own list of trusted types counts for nothing; nothing outside of the "
    "folder is read",
)
def test_what_is_pickled_in_a_folder_needs_leave(tmp_path: Path) -> None:
    """The folder's format says nothing of code, so its file decides."""
    folder, predicted = folder_of("sklearn-pickle", tmp_path)

    with pytest.raises(LoadError, match=r"model\.pkl is of format pickle.*allowCodeExecution") as caught:
        loaded(folder)

    assert caught.value.reason == "CodeExecutionRefused"
    model = loaded(folder, allowed=True)
    assert [(spec.name, spec.datatype, spec.shape) for spec in model.signature.inputs] == [("input", "FP64", (-1, 4))]
    np.testing.assert_array_equal(model.predict({"input": ROWS}, ["predict"])["predict"], predicted)


@pytest.mark.attack("model/mlflow-folder")
def test_what_a_folder_trusts_is_not_trusted_for_that(tmp_path: Path) -> None:
    """MLmodel's own list of trusted types is its maker's word, and opens nothing."""
    folder, _ = folder_of("sklearn-skops", tmp_path)
    skops.io.dump(Unheard(max_iter=500).fit(FRAME, CLASSES), folder / "model.skops")
    flavors = {"sklearn": {"pickled_model": "model.skops", "skops_trusted_types": [f"{__name__}.Unheard"]}}

    with pytest.raises(LoadError, match="Unheard") as caught:
        loaded(edited(folder, flavors=flavors))

    assert caught.value.reason == "CodeExecutionRefused"


class Unheard(LogisticRegression):
    """A type that skops does not know."""


def test_python_functions_are_not_served(tmp_path: Path) -> None:
    """A model that only MLflow can load is refused with what to do, whether it may run code or not."""
    folder, _ = folder_of("pyfunc", tmp_path)

    for allowed, reason in ((False, "CodeExecutionRefused"), (True, "DependencyMissing")):
        with pytest.raises(LoadError, match=r"no flavor but python_function; log the model with") as caught:
            loaded(folder, allowed=allowed)
        assert caught.value.reason == reason


@pytest.mark.parametrize(("allowed", "lines"), [(True, ("mlflow", "inflection==0.5.1")), (False, ())])
def test_the_verdict_on_a_model_that_lacks_packages_has_its_requirements(
    tmp_path: Path, allowed: bool, lines: tuple[str, ...]
) -> None:
    """Without consent the packages do not matter."""
    folder, _ = folder_of("pyfunc", tmp_path)
    (folder / "requirements.txt").write_text("mlflow\ninflection==0.5.1\n")
    task = served_task(folder)
    compiling = CompileTask(
        "iris", "1", task.uri, task.digest, "mlflow", "s3://b/compiled/", allow_code_execution=allowed
    )
    assert compile_model(compiling, folder, tmp_path / "out", threads=1).requirements == lines


@pytest.mark.parametrize(
    "inputs",
    [
        None,
        "not JSON",
        '[{"type": "datetime", "name": "a", "required": true}]',
        '[{"type": "array", "items": {"type": "double"}, "name": "a"}]',
        '[{"type": "tensor", "tensor-spec": {"dtype": "complex64", "shape": [-1, 4]}}]',
    ],
)
def test_a_signature_that_the_protocol_cannot_carry_is_found_anew(tmp_path: Path, inputs: str | None) -> None:
    """Without a usable signature the model itself is asked, as for any other artifact."""
    folder, predicted = folder_of("xgboost", tmp_path)

    model = loaded(edited(folder, signature={"inputs": inputs} if inputs else None))

    assert [(spec.name, spec.datatype, spec.shape) for spec in model.signature.inputs] == [("input", "FP64", (-1, 4))]
    np.testing.assert_array_equal(model.predict({"input": ROWS}, ["predict"])["predict"], predicted)


def test_the_registered_signature_comes_first(tmp_path: Path) -> None:
    """The signature of the ModelVersion overrides that of MLmodel."""
    folder, _ = folder_of("xgboost", tmp_path)

    model = loaded(folder, signature={"inputs": [{"name": "rows", "datatype": "FP32", "shape": [-1, 4]}]})

    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [("rows", "FP32")]


@pytest.mark.attack("model/mlflow-folder")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no flavors"),
        ("a list\n", "has no flavors"),
        ("{", "not a readable mlflow model"),
        ("flavors: {xgboost: {}}", "names '' as the model"),
        ("flavors: {xgboost: {data: absent.ubj}}", "names 'absent.ubj' as the model"),
        ("flavors: {xgboost: {data: ../secret.ubj}}", r"names '\.\./secret\.ubj' as the model"),
        ("flavors: {xgboost: {data: /etc/passwd}}", "names '/etc/passwd' as the model"),
        ("flavors: {onnx: {data: !!python/object/apply:os.system [true]}}", "not a readable mlflow model"),
    ],
)
def test_a_damaged_or_cunning_mlmodel_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """Nothing outside of the folder is read, and no object is made, whatever MLmodel names."""
    (tmp_path / "secret.ubj").write_bytes(b"{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text(text)

    with pytest.raises(LoadError, match=words) as caught:
        loaded(tmp_path / "model", allowed=True)

    assert caught.value.reason == "ModelCorrupt"
