"""Compiling a model to ONNX: it answers as the native one, or a verdict says why it does not."""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
import xgboost
from asking import infer
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from ultramarine_contract.common import COMPILED_NAME, VERDICT_NAME
from ultramarine_contract.serving_records import ServingTask
from ultramarine_contract.version_records import CompileRecord, CompileTask
from ultramarine_server.compiling.compile import ARTIFACT, compile_model
from ultramarine_server.compiling.conversion import Native, conversions
from ultramarine_server.compiling.parity import MAX_ERROR, Parity, compare
from ultramarine_server.compiling.rows import drawn
from ultramarine_server.errors import BadRequest, LoadError
from ultramarine_server.formats.artifact import ModelFile
from ultramarine_server.formats.loading import format_module, load
from ultramarine_server.models.compiled import CompiledModel
from ultramarine_server.models.estimator import SklearnModel

CANCER, IS_GOOD = load_breast_cancer(return_X_y=True)
NAMED = np.where(IS_GOOD == 1, "good", "bad")
PATIENTS, PROGRESS = load_diabetes(return_X_y=True)
FLOWERS, SPECIES = load_iris(return_X_y=True)
SHOPS = pd.DataFrame(
    {
        "age": np.linspace(18, 80, 60),
        "town": ["Rome", "Oslo", "Bonn"] * 20,
        "rooms": [1, 2, 3, 4] * 15,
        "income": np.geomspace(1e3, 1e5, 60),
    }
)
TASK = ServingTask("m", "1", "", "", "")
BOUGHT = np.where((SHOPS.age > 40) ^ (SHOPS.town == "Oslo"), "yes", "no")


def task_for(path: Path, **changes: Any) -> CompileTask:
    """The task to compile one file."""
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    given = {"model": "m", "version": "1", "uri": f"s3://lake/{path.name}", "digest": digest, "format": "sklearn"}
    return CompileTask(**{**given, "prefix": "s3://lake/team-a/compiled/x/", **changes})


def compiled(folder: Path, estimator: Any, **changes: Any) -> tuple[CompileRecord, Any]:
    """Store, compile and load a model; return the verdict, and the compiled model if there is one."""
    path = folder / "model.skops"
    skops.io.dump(estimator, path)
    task = task_for(path, **changes)
    verdict = compile_model(task, folder, folder / "out", threads=1)
    assert CompileRecord.from_json((folder / "out" / VERDICT_NAME).read_bytes()) == verdict
    file = folder / "out" / ARTIFACT / COMPILED_NAME
    assert file.exists() == (not verdict.reason)
    return verdict, load(ModelFile(file, "onnx"), task.native, 1) if file.exists() else None


def ask(model: Any, **columns: Any) -> dict[str, Any]:
    """The outputs of a model by name, asked as a client asks; floats go as FP64."""
    kinds = {"U": "BYTES", "O": "BYTES", "i": "INT64", "f": "FP64"}
    arrays = {name: np.asarray(values) for name, values in columns.items()}
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": kinds[array.dtype.kind], "data": array.ravel().tolist()}
        for name, array in arrays.items()
    ]
    answer = json.loads(infer(model, "m", "1", json.dumps({"inputs": inputs}).encode()))
    return {array["name"]: np.array(array["data"]).reshape(array["shape"]) for array in answer["outputs"]}


TRAPS: dict[str, tuple[Any, Any, Any]] = {
    "histogram gradient boosting": (HistGradientBoostingClassifier(max_iter=20), CANCER, IS_GOOD),
    "of three classes": (HistGradientBoostingClassifier(max_iter=10), FLOWERS, SPECIES),
    "of counts": (HistGradientBoostingRegressor(max_iter=20, loss="poisson"), PATIENTS, PROGRESS),
    "a forest with ties": (RandomForestClassifier(20, random_state=0), CANCER, NAMED),
    "a forest of numbers": (RandomForestRegressor(20, random_state=0), PATIENTS, PROGRESS),
    "a forest behind a scaler": (
        make_pipeline(StandardScaler(), RandomForestClassifier(20, max_depth=4, random_state=0)),
        CANCER,
        IS_GOOD,
    ),
    "a search that found a forest": (
        GridSearchCV(RandomForestClassifier(5, random_state=0), {"max_depth": [2, 4]}, cv=2),
        CANCER,
        IS_GOOD,
    ),
    "extra trees": (ExtraTreesClassifier(20, random_state=0), FLOWERS, SPECIES),
    "gradient boosting": (GradientBoostingClassifier(n_estimators=20), CANCER, NAMED),
    "one tree": (DecisionTreeClassifier(random_state=0), CANCER, IS_GOOD),
    "a scaler and text labels": (make_pipeline(StandardScaler(), LogisticRegression()), CANCER, NAMED),
    "several numbers": (LinearRegression(), PATIENTS, np.c_[PROGRESS, 2 * PROGRESS]),
    "several numbers of trees": (RandomForestRegressor(5, random_state=0), PATIENTS, np.c_[PROGRESS, -PROGRESS]),
    "several labels": (KNeighborsClassifier(), CANCER, np.c_[IS_GOOD, 1 - IS_GOOD]),
    "neighbours": (KNeighborsRegressor(), PATIENTS, PROGRESS),
    "an imputer before trees": (
        make_pipeline(SimpleImputer(), RandomForestClassifier(5, random_state=0)),
        CANCER,
        IS_GOOD,
    ),
    "without probabilities": (make_pipeline(StandardScaler(), SVC()), CANCER, IS_GOOD),
}


@pytest.mark.parametrize("name", TRAPS)
def test_a_compiled_model_answers_as_the_native_one(tmp_path, name):
    """Known traps: names, types, shapes and values of all outputs are the native model's, at the default parity."""
    estimator, rows, targets = TRAPS[name]
    estimator.fit(rows, targets)
    verdict, model = compiled(tmp_path, estimator)
    native = SklearnModel(estimator)

    assert verdict.reason == "", verdict.message
    assert isinstance(model, CompiledModel)
    assert model.signature == native.signature
    assert (verdict.rows, verdict.label_agreement, verdict.opset > 8) == (1000, 1.0, True)
    assert "drawn around what the model has learned" in verdict.rows_from
    expected, got = ask(native, input=rows), ask(model, input=rows)
    assert {output: array.shape for output, array in got.items()} == {o: array.shape for o, array in expected.items()}
    for output, array in expected.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(got[output], array, rtol=1e-5, atol=1e-6)
        else:
            assert (got[output] == array).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_compiled_model_refuses_what_the_native_one_refuses(tmp_path, value):
    """A value that is not a number, if scikit-learn refuses it, is the client's error and gets no label."""
    verdict, model = compiled(tmp_path, make_pipeline(StandardScaler(), LogisticRegression()).fit(CANCER, NAMED))
    rows = CANCER[:2].copy()
    rows[1, 3] = value

    assert verdict.reason == "", verdict.message
    with pytest.raises(BadRequest, match="cannot take these values: column 3 has"):
        model.predict({"input": rows}, ["predict"])
    assert model.predict({"input": CANCER[:2]}, ["predict"])["predict"].shape == (2,)


def test_a_compiled_model_takes_the_missing_values_that_the_native_one_takes(tmp_path):
    """Trees that have learned where missing values go answer as before, and what differs there is not served."""
    rows = CANCER.copy()
    rows[::7, 3] = np.nan
    verdict, model = compiled(tmp_path, forest := RandomForestClassifier(5, random_state=0).fit(rows, IS_GOOD))
    assert verdict.reason == "", verdict.message
    expected, got = (m.predict({"input": rows}, ["predict_proba"]) for m in (SklearnModel(forest), model))
    np.testing.assert_allclose(got["predict_proba"], expected["predict_proba"], rtol=1e-5)

    several = RandomForestClassifier(5, random_state=0).fit(CANCER, np.c_[IS_GOOD, 1 - IS_GOOD])
    verdict, _ = compiled(tmp_path, several)
    assert (verdict.reason, "rows with a missing value" in verdict.message) == ("ParityFailed", True)


class Choosy(LinearRegression):
    """A model that takes a missing value in the first row alone."""

    def predict(self, rows: Any) -> Any:
        if np.isnan(rows[1:]).any():
            raise RuntimeError("a gap further down")
        return super().predict(np.nan_to_num(rows))


def test_a_model_that_refuses_some_gaps_is_a_verdict(tmp_path):
    """Compiling does not end with a traceback where the native model refuses the rows with a missing value."""
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(Choosy().fit(PATIENTS, PROGRESS)))
    task = task_for(path, format="pickle", allow_code_execution=True)
    verdict = compile_model(task, tmp_path, tmp_path / "out", threads=1)

    assert verdict.reason == "NotConvertible"
    assert "takes a missing value in some rows" in verdict.message
    assert "a gap further down" in verdict.message


def test_an_unknown_category_is_the_clients_mistake(tmp_path):
    """A row that the native model refuses is the client's error in the compiled model too."""
    table = pd.DataFrame({"region": ["north", "south"] * 4, "age": [20.0, 60.0] * 4})
    columns = make_column_transformer((OneHotEncoder(), ["region"]), remainder="passthrough")
    verdict, model = compiled(tmp_path, make_pipeline(columns, LogisticRegression()).fit(table, [0, 1] * 4))

    assert verdict.reason == "", verdict.message
    with pytest.raises(BadRequest, match="cannot take these values"):
        ask(model, region=np.array(["mars"], dtype=object), age=np.array([20.0]))


@pytest.mark.parametrize("kind", [DecisionTreeRegressor, HistGradientBoostingRegressor])
def test_thresholds_that_32_bits_would_move_stay(tmp_path, kind):
    """Times in seconds since 1970 differ by less than numbers of 32 bits can say: the answers change where they did."""
    times = (1.7e9 + np.arange(400) * 10.0).reshape(-1, 1)
    answers = np.repeat([0.0, 100.0], 200)
    estimator = kind(random_state=0).fit(times, answers)
    verdict, model = compiled(tmp_path, estimator)

    assert verdict.reason == "", verdict.message
    expected = ask(SklearnModel(estimator), input=times)["predict"]
    np.testing.assert_allclose(ask(model, input=times)["predict"], expected, rtol=1e-6, atol=1e-5)


def shop_model() -> Any:
    """A model of a table with words in it."""
    columns = make_column_transformer(
        (StandardScaler(), ["age", "income"]), (OneHotEncoder(handle_unknown="ignore"), ["town", "rooms"])
    )
    return make_pipeline(columns, LogisticRegression()).fit(SHOPS, BOUGHT)


def test_columns_of_words_are_taken_by_name(tmp_path):
    """A table of numbers, whole numbers and words is asked column by column, as the native model is."""
    estimator = shop_model()
    verdict, model = compiled(tmp_path, estimator)

    assert verdict.reason == "", verdict.message
    columns = {name: SHOPS[name].to_numpy() for name in SHOPS}
    columns["town"] = columns["town"].astype(str)
    expected, got = ask(SklearnModel(estimator), **columns), ask(model, **columns)
    assert (got["predict"] == expected["predict"]).all()
    np.testing.assert_allclose(got["predict_proba"], expected["predict_proba"], rtol=1e-6)
    assert model.signature == SklearnModel(estimator).signature


def test_a_signature_given_by_column_is_kept(tmp_path):
    """The compiled model shows and takes the signature of the version."""
    names = {"age": "FP64", "town": "BYTES", "rooms": "INT64", "income": "FP32"}
    given = {"inputs": [{"name": n, "datatype": d, "shape": [-1]} for n, d in names.items()]}
    verdict, model = compiled(tmp_path, shop_model(), signature=given)

    assert verdict.reason == "", verdict.message
    assert [spec.name for spec in model.signature.inputs] == list(names)
    assert [spec.datatype for spec in model.signature.inputs] == list(names.values())


def test_a_frame_of_numbers_is_taken_whole_or_by_column(tmp_path):
    """A model that knows its features' names takes one matrix, or each feature by its name, in any order."""
    frame = pd.DataFrame(FLOWERS, columns=["a", "b", "c", "d"])
    verdict, model = compiled(tmp_path, make_pipeline(StandardScaler(), LogisticRegression()).fit(frame, SPECIES))

    assert verdict.reason == "", verdict.message
    whole = ask(model, input=FLOWERS)
    answers = ask(model, **{name: frame[name].to_numpy() for name in "dbca"})
    assert (whole["predict_proba"] == answers["predict_proba"]).all()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("input_example.json", json.dumps(FLOWERS[:7].tolist())),
        ("input_example.json", json.dumps({"data": FLOWERS[:7].tolist(), "columns": ["a", "b", "c", "d"]})),
        ("input_example.json", json.dumps([dict(zip("dcba", row[::-1], strict=True)) for row in FLOWERS[:7].tolist()])),
        ("input_example.npy", FLOWERS[:7]),
    ],
)
def test_the_artifacts_own_example_is_compared(tmp_path, name, content):
    """Rows of an example beside the model are compared, and the verdict says so."""
    if isinstance(content, str):
        (tmp_path / name).write_text(content)
    else:
        np.save(tmp_path / name, content)
    frame = pd.DataFrame(FLOWERS, columns=["a", "b", "c", "d"])
    verdict, _ = compiled(tmp_path, LogisticRegression(max_iter=500).fit(frame, SPECIES))

    assert (verdict.reason, verdict.rows, verdict.rows_from) == ("", 7, name)


@pytest.mark.parametrize("content", ["[", "{}", "[]", '{"data": 3}', "[[1, 2]]", '[["a", "b", "c", "d"]]'])
def test_an_example_that_does_not_fit_is_named(tmp_path, content):
    """An example that is none is the verdict, with what it needs."""
    (tmp_path / "input_example.json").write_text(content)
    verdict, _ = compiled(tmp_path, LogisticRegression(max_iter=500).fit(FLOWERS, SPECIES))

    assert verdict.reason == "NotConvertible"
    assert "input_example.json" in verdict.message


def test_parity_that_cannot_hold_is_a_verdict_with_figures(tmp_path):
    """A compiled model that differs by more than rtol is not kept; the message says by how much, and the remedy."""
    estimator = make_pipeline(StandardScaler(), HistGradientBoostingRegressor(max_iter=20)).fit(PATIENTS, PROGRESS)
    verdict, _ = compiled(tmp_path, estimator, rtol=1e-12)

    assert verdict.reason == "ParityFailed"
    assert 1e-12 < verdict.worst_relative_error < 1e-5
    assert "rtol 1e-12" in verdict.message


BOOSTED = {
    "of two classes": ({"objective": "binary:logistic"}, {"objective": "binary"}, CANCER, IS_GOOD),
    "of three": (
        {"objective": "multi:softprob", "num_class": 3},
        {"objective": "multiclass", "num_class": 3},
        FLOWERS,
        SPECIES,
    ),
    "of numbers": ({"objective": "reg:squarederror"}, {"objective": "regression"}, PATIENTS, PROGRESS),
}


@pytest.mark.parametrize("name", BOOSTED)
@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosters_are_converted(tmp_path, library, name):
    """A Booster's own file becomes ONNX whose predict is the Booster's, on rows about its thresholds too."""
    for_xgboost, for_lightgbm, rows, targets = BOOSTED[name]
    file = ModelFile(tmp_path / f"native.{library}", library)
    if library == "xgboost":
        xgboost.train(for_xgboost, xgboost.DMatrix(rows, targets), 20).save_model(tmp_path / "native.ubj")
        (tmp_path / "native.ubj").rename(file.path)
    else:
        lightgbm.train({**for_lightgbm, "verbose": -1}, lightgbm.Dataset(rows, targets), 20).save_model(file.path)
    native = load(file, TASK, 1)
    table = np.concatenate([rows, drawn(native.estimator, rows.shape[1]).table])
    expected = native.predict({"input": table}, ["predict"])
    [convert] = conversions(Native(native, native.estimator, native.features, {}))
    (tmp_path / "model.onnx").write_bytes(convert().SerializeToString())
    model = load(ModelFile(tmp_path / "model.onnx", "onnx"), TASK, 1)
    got = model.predict({"input": table}, ["predict"])

    assert model.signature == native.signature
    assert got["predict"].shape == expected["predict"].shape
    assert compare(expected, got, ()).worst_relative_error < 1e-3  # numbers of 32 bits, which parity compares
    assert np.mean(np.isclose(expected["predict"], got["predict"], rtol=1e-4, atol=1e-5)) > 0.99


@pytest.mark.parametrize("targets", [IS_GOOD, SPECIES])
def test_an_estimators_own_file_is_converted(tmp_path, targets):
    """The file of an XGBClassifier is compiled with its labels and probabilities, by its columns' names too."""
    rows = CANCER if targets is IS_GOOD else FLOWERS
    names = [f"c{index}" for index in range(rows.shape[1])]
    fitted = xgboost.XGBClassifier(n_estimators=10).fit(pd.DataFrame(rows.astype(np.float32), columns=names), targets)
    fitted.save_model(tmp_path / "native.ubj")
    native = load(ModelFile(tmp_path / "native.ubj", "xgboost"), TASK, 1)
    [convert] = conversions(Native(native, native.estimator, native.features, {}))
    (tmp_path / "model.onnx").write_bytes(convert().SerializeToString())
    model = load(ModelFile(tmp_path / "model.onnx", "onnx"), TASK, 1)
    table = rows.astype(np.float32).astype(np.float64)
    got = model.predict({name: table[:, index] for index, name in enumerate(names)}, ["predict", "predict_proba"])

    assert got["predict"].tolist() == fitted.predict(table).tolist()
    assert got["predict_proba"] == pytest.approx(fitted.predict_proba(table), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", ["XGBClassifier", "XGBRegressor", "LGBMClassifier", "LGBMRegressor"])
def test_estimators_of_other_libraries_are_converted_in_a_pipeline(tmp_path, kind):
    """A booster behind a scaler, of the interface of scikit-learn, is compiled as one."""
    library = xgboost if kind.startswith("XGB") else lightgbm
    more = {} if kind.startswith("XGB") else {"verbose": -1}
    estimator = make_pipeline(StandardScaler(), getattr(library, kind)(n_estimators=10, **more))
    rows, targets = (CANCER, IS_GOOD) if kind.endswith("Classifier") else (PATIENTS, PROGRESS)
    verdict, model = compiled(tmp_path, estimator.fit(rows, targets))

    assert verdict.reason == "", verdict.message
    assert model.signature == SklearnModel(estimator).signature
    expected, got = ask(SklearnModel(estimator), input=rows)["predict"], ask(model, input=rows)["predict"]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_ties_that_fall_otherwise_are_found(tmp_path):
    """Of flowers that are equally near ONNX takes others than scikit-learn: that is found, and not served."""
    verdict, _ = compiled(tmp_path, KNeighborsClassifier().fit(FLOWERS, SPECIES))

    assert verdict.reason == "ParityFailed"


def test_what_no_converter_knows_is_a_verdict(tmp_path):
    """A model that cannot be converted is told from one that answers otherwise."""
    verdict, _ = compiled(tmp_path, IsotonicRegression().fit(PATIENTS[:, 0], PROGRESS))

    assert verdict.reason == "NotConvertible"
    assert "IsotonicRegression cannot be converted to onnx" in verdict.message


def test_rows_are_drawn_if_a_booster_shows_no_thresholds(tmp_path):
    """A linear booster has no trees to read, and is a verdict as any other."""
    linear = xgboost.XGBRegressor(booster="gblinear", n_estimators=3, n_jobs=1).fit(PATIENTS, PROGRESS)

    assert compiled(tmp_path, linear)[0].reason == "NotConvertible"
    assert drawn(linear, 10).table.shape[1] == 10


def test_code_is_not_run_for_compiling(tmp_path):
    """A pickle is not loaded unless the version allows it."""
    path = tmp_path / "model.pkl"
    path.write_bytes(b"cos\nsystem\n(S'touch /tmp/ran'\ntR.")
    verdict = compile_model(task_for(path, format="pickle"), tmp_path, tmp_path / "out", threads=1)

    assert (verdict.load_error, verdict.reason) == ("CodeExecutionRefused", "")
    assert verdict.message.startswith("model.pkl is of format pickle")


def test_another_content_than_the_registered_one_is_not_compiled(tmp_path):
    """The digest is checked once more by the container that loads."""
    path = tmp_path / "model.skops"
    skops.io.dump(LinearRegression().fit(PATIENTS, PROGRESS), path)
    task = task_for(path)
    path.write_bytes(path.read_bytes() + b" ")
    verdict = compile_model(task, tmp_path, tmp_path / "out", threads=1)

    assert (verdict.load_error, verdict.reason) == ("DigestMismatch", "")


@pytest.mark.parametrize("error", [MemoryError(), OSError("no space left")])
def test_a_pod_without_room_says_nothing_of_the_model(tmp_path, monkeypatch, error):
    """A fault of the pod is not a verdict: the container fails, and starts again."""
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(LinearRegression().fit(PATIENTS, PROGRESS)))

    def load_without_room(*_):
        raise error

    monkeypatch.setattr(joblib, "load", load_without_room)
    with pytest.raises(LoadError):
        compile_model(task_for(path, format="pickle", allow_code_execution=True), tmp_path, tmp_path / "out", threads=1)
    assert not (tmp_path / "out" / VERDICT_NAME).exists()


class Dated(LinearRegression):
    """A model that another scikit-learn has saved."""

    def __reduce__(self):
        return (LinearRegression, (), {**self.__dict__, "_sklearn_version": "1.5.2"})


@pytest.mark.parametrize("name", ["model.pkl", "model.skops", "model.joblib", "zlib.joblib", "xz.joblib"])
def test_a_model_of_another_scikit_learn_says_so(tmp_path, name):
    """The verdict names both versions, and the model is compiled all the same."""
    path = tmp_path / name
    if name == "model.skops":
        skops.io.dump(LinearRegression().fit(PATIENTS, PROGRESS), path)
        with zipfile.ZipFile(path) as archive:
            files = {entry: archive.read(entry) for entry in archive.namelist()}
        here = sklearn.__version__.encode()
        assert here in files["schema.json"]
        with zipfile.ZipFile(path, "w") as archive:
            for entry, content in files.items():
                archive.writestr(entry, content.replace(here, b"1.5.2") if entry == "schema.json" else content)
    elif path.stem != "model":
        joblib.dump(Dated().fit(PATIENTS, PROGRESS), path, compress=(path.stem, 3))
    else:
        path.write_bytes(pickle.dumps(Dated().fit(PATIENTS, PROGRESS)))
    format = {".pkl": "pickle", ".skops": "sklearn", ".joblib": "joblib"}[path.suffix]
    task = task_for(path, format=format, allow_code_execution=True)
    verdict = compile_model(task, tmp_path, tmp_path / "out", threads=1)

    assert (verdict.reason, verdict.load_error) == ("", "")
    assert verdict.mismatch.startswith(f"saved by scikit-learn 1.5.2, the server has {sklearn.__version__}: ")


# Rows and parity


def test_drawn_rows_are_the_same_each_time():
    """Two looks at one model compare the same rows, on both sides of its thresholds."""
    tree = DecisionTreeClassifier(random_state=0).fit(FLOWERS, SPECIES)
    first, second = drawn(tree, 4), drawn(tree, 4)

    assert (first.table == second.table).all()
    assert set(tree.predict(first.table)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("native", "other", "parity"),
    [
        ([1.0, 2.0], [1.0, 2.0], Parity(0.0, 1.0)),
        ([1.0, 3.0], [1.0, 3.3], Parity(0.1, 1.0)),
        ([0.0, 4.0], [0.02, 4.0], Parity(0.01, 1.0)),
        ([0.0, 0.0], [0.0, 0.5], Parity(0.5, 1.0)),
        ([np.nan, 1.0], [np.nan, 1.0], Parity(0.0, 1.0)),
        ([np.nan, 1.0], [0.0, 1.0], Parity(MAX_ERROR, 1.0)),
        ([1.0, 2.0], [[1.0], [2.0]], Parity(MAX_ERROR, 0.0)),
    ],
)
def test_an_error_is_relative_to_what_is_usual(native, other, parity):
    """An error near zero is measured by the mean size of the values, any other by the value itself."""
    got = compare({"predict": np.array(native)}, {"predict": np.array(other)}, labels=())

    assert got.worst_relative_error == pytest.approx(parity.worst_relative_error)
    assert got.label_agreement == parity.label_agreement


def test_labels_are_counted_by_row():
    """A row with several labels agrees only if all of them do."""
    native, other = np.array([["a", "b"], ["a", "b"]]), np.array([["a", "b"], ["a", "a"]], dtype=object)

    assert compare({"predict": native}, {"predict": other}, ["predict"]).label_agreement == 0.5
    assert not Parity(0.0, 0.5).holds(1e-5, 0.51)
    assert Parity(1e-5, 0.5).holds(1e-5, 0.5)


def test_a_platform_is_named_for_what_is_served():
    """A compiled model is shown as ONNX."""
    assert format_module("onnx").PLATFORM == "onnx_onnxv1"
